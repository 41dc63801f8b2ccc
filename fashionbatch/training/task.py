"""What a way of training feeds to the loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fashionbatch.models.build import Outputs
from fashionbatch.models.device import moved
from fashionbatch.training.targets import Targets


class TrainingBatch(NamedTuple):
    """Items of one step, or of a part of a split.

    Attributes:
        inputs: images, or activations; each ``[N, ...]``.
        targets: of the same items.
        keys: what the catalogue calls them, for messages.
    """

    inputs: tuple[Tensor, ...]
    targets: Targets
    keys: tuple[str, ...]

    def to(self, device: torch.device) -> TrainingBatch:
        """The same on another device; see :func:`fashionbatch.models.device.moved`."""
        inputs = tuple(moved(each, device) for each in self.inputs)
        return TrainingBatch(inputs, self.targets.to(device), self.keys)


class Task(Protocol):
    """Where batches come from, and what of the model they run through."""

    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        ...

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
        """One epoch, counted from 0, in its own order; from step ``start`` on."""
        ...

    def batches(self, split: str) -> Iterator[TrainingBatch]:
        """Every item of a split once; of several processes each gives its share."""
        ...

    def forward(self, inputs: tuple[Tensor, ...]) -> Outputs:
        """Runs what is trained."""
        ...

    def close(self) -> None:
        """Lets go of the files that it has open; no batch is asked for any more."""
        ...
