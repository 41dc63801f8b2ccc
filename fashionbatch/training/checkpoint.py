"""Checkpoints: everything that a run needs to go on, without pickle.

``checkpoints/epoch-0007/`` holds ``state.safetensors`` (weights, optimizer and random states; of
what is never trained, only the run's ``state.json`` has a hash) and
``state.json`` (the rest, with the hash of the first); ``epoch-0007+000120`` is one from the middle
of the epoch behind it. A checkpoint is made under another name and takes its own when it is whole;
the last two are kept.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from fashionbatch import files
from fashionbatch.errors import TrainingError

KEPT = 2
_TENSORS = "state.safetensors"
_STATE = "state.json"
_GROUPS = "optimizer-groups."  # what an optimizer has of a group that is a tensor


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as read; ``state`` is what the caller gave to :func:`save`."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, without that."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def save(
    folder: Path,
    epoch: int,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    extra: Mapping[str, Tensor],
    randoms: Sequence[Random],
) -> Path:
    """Writes a checkpoint and removes all but the last two.

    Args:
        folder: the run's ``checkpoints``.
        epoch: how many are finished.
        step: how many of the next one are.
        weights: of the model's state, what can change.
        optimizer: its state: tensors and JSON values, by parameter and in its groups.
        state: JSON values to keep.
        extra: further tensors, by names of their own.
        randoms: of each process.

    Returns:
        the checkpoint's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.tmp"):  # a run that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    target = folder / (f"epoch-{epoch:04d}" + (f"+{step:06d}" if step else ""))
    temporary = folder / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    temporary.mkdir()
    try:
        tensors = {f"model.{k}": v for k, v in weights.items()}
        tensors |= extra
        described = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in described["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{key}"] = value
                else:
                    plain.setdefault(str(index), {})[key] = value
        groups: list[dict[str, Any]] = []
        for number, group in enumerate(described["param_groups"]):
            found = {k: v for k, v in group.items() if isinstance(v, Tensor)}
            tensors |= {f"{_GROUPS}{number}.{k}": v for k, v in found.items()}
            groups.append({k: v for k, v in group.items() if k not in found})
        for rank, drawn in enumerate(randoms):
            tensors |= {f"random.{rank}.{k}": v for k, v in drawn.tensors.items()}
        # copies, since some share memory; on the CPU, since a GPU may have no room for them
        copies = {
            k: v.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for k, v in tensors.items()
        }
        safetensors.torch.save_file(copies, temporary / _TENSORS)
        files.sync(temporary / _TENSORS)
        values = {
            **state,
            "epoch": epoch,
            "step": step,
            "sha256": files.sha256(temporary / _TENSORS),
            "optimizer": {"state": plain, "groups": groups},
            "random": [drawn.values for drawn in randoms],
        }
        files.write_json(temporary / _STATE, values)
        shutil.rmtree(target, ignore_errors=True)  # of a run that was resumed from an older one
        os.replace(temporary, target)
        files.sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _found(folder)[:-KEPT]:
        shutil.rmtree(old)
    return target


def _found(folder: Path) -> list[Path]:
    def order(path: Path) -> list[int]:
        return [int(n) for n in path.name.removeprefix("epoch-").split("+")]

    return sorted(folder.glob("epoch-*"), key=order)


@dataclass(frozen=True, kw_only=True)
class Random:
    """The states of the random generators of a process.

    Attributes:
        tensors: torch's and numpy's.
        values: the rest, as JSON values.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    @classmethod
    def now(cls) -> Random:
        """As they are."""
        kind, words, *drawn = np.random.get_state()  # noqa: NPY002 - plugins may draw from it
        tensors = {
            "torch": torch.get_rng_state(),
            "numpy": torch.from_numpy(np.asarray(words).astype(np.int64)),
        }
        # else nothing was drawn there, and asking would wake it
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's is not annotated
            tensors["cuda"] = torch.cuda.get_rng_state()
        version, numbers, gauss = random.getstate()
        return cls(
            tensors=tensors,
            values={"python": [version, list(numbers), gauss], "numpy": [kind, *drawn]},
        )

    @classmethod
    def of(cls, checkpoint: Checkpoint, rank: int) -> Random | None:
        """Of a process when the checkpoint was made; ``None`` if there were not so many."""
        values = checkpoint.state["random"]
        if rank >= len(values):
            return None
        return cls(tensors=checkpoint.part(f"random.{rank}."), values=values[rank])

    def restore(self) -> None:
        """Makes them so again."""
        torch.set_rng_state(self.tensors["torch"].cpu())
        if torch.cuda.is_available() and "cuda" in self.tensors:
            torch.cuda.set_rng_state(self.tensors["cuda"].cpu())
        version, numbers, gauss = self.values["python"]
        random.setstate((version, tuple(numbers), gauss))
        kind, *drawn = self.values["numpy"]
        words = self.tensors["numpy"].cpu().numpy().astype(np.uint32)
        np.random.set_state((kind, words, *drawn))  # noqa: NPY002 - plugins may draw from it


def load_last(folder: Path) -> Checkpoint:
    """The last checkpoint that is whole.

    Raises:
        TrainingError: there is none.
    """
    for path in reversed(_found(folder)):
        try:
            state = json.loads((path / _STATE).read_bytes())
            if files.sha256(path / _TENSORS) != state["sha256"]:
                continue
            return Checkpoint(tensors=safetensors.torch.load_file(path / _TENSORS), state=state)
        except (OSError, ValueError, KeyError):
            continue  # damaged on the disk: the one before is whole
    raise TrainingError(f"{folder} holds no whole checkpoint: start the run again without --resume")


def restore_model(
    checkpoint: Checkpoint, model: nn.Module, frozen: frozenset[str] = frozenset()
) -> None:
    """Puts the weights back; those of the names in ``frozen`` are not in it, and stay."""
    state = model.state_dict()
    model.load_state_dict(checkpoint.part("model.") | {name: state[name] for name in frozen})


def restore_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Puts the optimizer's state back."""
    saved = checkpoint.state["optimizer"]
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in saved["state"].items()}
    for name, tensor in checkpoint.part("optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = [
        {k: _like(new.get(k), v) for k, v in group.items()}
        for new, group in zip(optimizer.param_groups, saved["groups"], strict=True)
    ]
    for name, tensor in checkpoint.part(_GROUPS).items():
        number, key = name.split(".", 1)
        groups[int(number)][key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.ndim > 1 and value.shape == parameter.shape:
                # files know one layout only, and steps over several are slower on a GPU
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _like(new: Any, value: Any) -> Any:
    """A value from JSON, which has no tuples: what is one in the new optimizer was one before."""
    if not isinstance(value, list) or not isinstance(new, list | tuple):
        return value
    if len(new) == len(value):
        value = [_like(*pair) for pair in zip(new, value, strict=True)]
    return type(new)(value)


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch; cuDNN takes what gives the same sum each time."""
    torch.backends.cudnn.deterministic = True
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
