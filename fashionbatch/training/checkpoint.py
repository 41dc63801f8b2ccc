"""Checkpoints: everything that a run needs to go on, without pickle.

``checkpoints/epoch-0007/`` holds ``state.safetensors`` (weights, optimizer and random states) and
``state.json`` (the rest, written last). The last two are kept, so that a kill while one is written
leaves the other.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
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


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as read; ``state`` is what the caller gave to :func:`save`."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(
    folder: Path,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    extra: Mapping[str, Tensor],
) -> None:
    """Writes ``folder/epoch-NNNN`` and removes all but the last two.

    Args:
        folder: the run's ``checkpoints``.
        epoch: finished, counted from 1.
        model: its trained and frozen weights.
        optimizer: its state.
        state: JSON values to keep.
        extra: further tensors, by names of their own.
    """
    target = folder / f"epoch-{epoch:04d}"
    target.mkdir(parents=True, exist_ok=True)
    described = optimizer.state_dict()
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= extra
    plain: dict[str, dict[str, Any]] = {}
    for index, values in described["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    tensors["random.torch"] = torch.get_rng_state()
    kind, words, *drawn = np.random.get_state()  # noqa: NPY002 - plugins may draw from it
    tensors["random.numpy"] = torch.from_numpy(np.asarray(words).astype(np.int64))
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    with files.atomic(target / _TENSORS) as temporary:
        safetensors.torch.save_file(
            {k: v.contiguous().clone() for k, v in tensors.items()}, temporary
        )
    version, numbers, gauss = random.getstate()
    values = {
        **state,
        "epoch": epoch,
        "sha256": files.sha256(target / _TENSORS),
        "optimizer": {"state": plain, "groups": described["param_groups"]},
        "random": [version, list(numbers), gauss],
        "random_numpy": [kind, *drawn],
    }
    files.write_json(target / _STATE, values)
    for old in sorted(folder.glob("epoch-*"))[:-KEPT]:
        shutil.rmtree(old)


def load_last(folder: Path) -> Checkpoint:
    """The last checkpoint that is whole.

    Raises:
        TrainingError: there is none.
    """
    for path in sorted(folder.glob("epoch-*"), reverse=True):
        try:
            state = json.loads((path / _STATE).read_bytes())
            if files.sha256(path / _TENSORS) != state["sha256"]:
                continue
            return Checkpoint(tensors=safetensors.torch.load_file(path / _TENSORS), state=state)
        except (OSError, ValueError, KeyError):
            continue  # killed while writing it: the one before is whole
    raise TrainingError(f"{folder} holds no whole checkpoint: start the run again without --resume")


def restore_model(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Puts the weights back."""
    prefix = "model."
    model.load_state_dict(
        {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    )


def restore_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Puts the optimizer's state back."""
    saved = checkpoint.state["optimizer"]
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in saved["state"].items()}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    groups = [
        {k: tuple(v) if isinstance(v, list) and k == "betas" else v for k, v in group.items()}
        for group in saved["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def restore_random(checkpoint: Checkpoint) -> None:
    """Puts the states of the random generators back."""
    torch.set_rng_state(checkpoint.tensors["random.torch"].cpu())
    if torch.cuda.is_available() and "random.cuda" in checkpoint.tensors:
        torch.cuda.set_rng_state(checkpoint.tensors["random.cuda"].cpu())
    version, numbers, gauss = checkpoint.state["random"]
    random.setstate((version, tuple(numbers), gauss))
    kind, *drawn = checkpoint.state["random_numpy"]
    words = checkpoint.tensors["random.numpy"].cpu().numpy().astype(np.uint32)
    np.random.set_state((kind, words, *drawn))  # noqa: NPY002 - plugins may draw from it


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
