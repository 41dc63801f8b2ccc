"""What a run has left, read back."""

from __future__ import annotations

import csv
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


def weights(folder: Path) -> dict[str, Tensor]:
    """Of the saved model."""
    return safetensors.torch.load_file(folder / "model.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two models are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def history(folder: Path) -> list[dict[str, str]]:
    """The rows of its epochs, without how long they took."""
    with (folder / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
