"""What a way of training feeds to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.models.build import Outputs
from fashionbatch.models.device import moved
from fashionbatch.training.targets import Targets


class Names(Sequence[str]):
    """What the catalogue calls some rows; looked up only when somebody asks, for a message.

    Args:
        rows: int64 ``[N]``.
        name: of a row.
    """

    def __init__(self, rows: npt.NDArray[np.int64], name: Callable[[int], str]) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Names: ...
    def __getitem__(self, place: int | slice) -> str | Names:
        if isinstance(place, slice):
            return Names(self._rows[place], self._name)
        return self._name(int(self._rows[place]))


class TrainingBatch(NamedTuple):
    """Items of one step, or of a part of a split.

    Attributes:
        inputs: images, or activations; each ``[N, ...]``.
        targets: of the same items.
        keys: what the catalogue calls them, for messages.
    """

    inputs: tuple[Tensor, ...]
    targets: Targets
    keys: Sequence[str]

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
