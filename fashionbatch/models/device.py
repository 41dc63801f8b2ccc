"""Where tensors are computed."""

from __future__ import annotations

import torch

from fashionbatch.errors import UsageError


def choose(name: str, number: int | None = None) -> torch.device:
    """``auto`` takes the first GPU there is, else the CPU.

    Args:
        name: as the user gave it.
        number: of the GPU that ``auto`` and ``cuda`` mean.

    Raises:
        UsageError: there is no such device here.
    """
    if name in ("auto", "cuda") and number is not None and torch.cuda.is_available():
        return torch.device("cuda", number)
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
    return device
