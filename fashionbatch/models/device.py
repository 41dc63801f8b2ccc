"""Where tensors are computed."""

from __future__ import annotations

import torch
from torch import Tensor

from fashionbatch.errors import UsageError

#: what allocators say that raise no type of their own
_NO_MEMORY = (
    "can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED",
    "Failed to allocate memory", "bad_alloc", "bad allocation",
)  # fmt: skip


def choose(name: str, number: int | None = None) -> torch.device:
    """``auto`` takes the first GPU there is, else the CPU.

    A GPU that has a number becomes this process's current one: random states, pinned memory and
    compiled code go by that.

    Args:
        name: as the user gave it.
        number: of the GPU that ``auto`` and ``cuda`` mean.

    Raises:
        UsageError: there is no such device here.
    """
    if name in ("auto", "cuda") and number is not None and torch.cuda.is_available():
        return _current(torch.device("cuda", number))
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device {name}: this machine has no such device "
            f"({str(error).strip().splitlines()[0]}); write --device cpu or auto"
        ) from error
    return _current(device)


def _current(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether it computes in bfloat16; older GPUs emulate it, many times as slowly."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU fetches it from pinned memory while this process goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    if tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # itself, where a loader's thread has pinned it
    return tensor.to(device, non_blocking=True)


def is_memory_error(error: BaseException) -> bool:
    """Whether a device, or the library that computes on it, had no memory left."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(error) for text in _NO_MEMORY)
