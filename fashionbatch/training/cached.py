"""Training on what was computed once: the head on bottleneck features, or all that is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fashionbatch.models.build import Classifier, Outputs
from fashionbatch.training.activations.part import PLAIN, Rows
from fashionbatch.training.activations.reader import Activations
from fashionbatch.training.landmarks import Landmarks
from fashionbatch.training.targets import Targets
from fashionbatch.training.task import Names, TrainingBatch


@dataclass(kw_only=True)
class Cached:
    """A :class:`fashionbatch.training.task.Task` over activations.

    Images that could not be used are left out of their batches, which may leave one empty.

    Attributes:
        model: its head is trained.
        tail: the part of its backbone that is trained.
        activations: of the rows of all splits.
        targets: from rows to what they ought to be.
        landmarks: of the training images as they are, where a regularizer needs them.
        names: from a row to what the catalogue calls it.
        rows: rows of each split.
        orders: from an epoch to its batches of rows.
        batch_size: of the other splits.
        copies: random views of each training image: epoch ``e`` gets number ``e % copies``; 0 for
            the images as they are.
    """

    model: Classifier
    tail: nn.Module
    activations: Activations
    targets: Callable[[Rows], Targets]
    names: Callable[[int], str]
    rows: Mapping[str, Rows]
    orders: Callable[[int], Sequence[Rows]]
    batch_size: int
    copies: int = 0
    landmarks: Landmarks | None = None

    def steps(self) -> int:
        """See :class:`fashionbatch.training.task.Task`."""
        return len(self.orders(0))

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
        """See :class:`fashionbatch.training.task.Task`."""
        copy = epoch % self.copies if self.copies else PLAIN
        for rows in self.orders(epoch)[start:]:
            yield self._batch(rows, copy, self.landmarks)

    def batches(self, split: str) -> Iterator[TrainingBatch]:
        """See :class:`fashionbatch.training.task.Task`."""
        rows = self.rows[split]
        for start in range(0, len(rows), self.batch_size):
            yield self._batch(rows[start : start + self.batch_size], PLAIN)

    def forward(self, inputs: tuple[Tensor, ...]) -> Outputs:
        """See :class:`fashionbatch.training.task.Task`."""
        outputs: Outputs = self.model.head(self.tail(tuple(_laid_out(t) for t in inputs)))
        return outputs

    def close(self) -> None:
        """See :class:`fashionbatch.training.task.Task`."""
        self.activations.close()

    def _batch(self, rows: Rows, copy: int, landmarks: Landmarks | None = None) -> TrainingBatch:
        places = self.activations.places(rows, copy)
        good = rows[places >= 0]
        targets = self.targets(good)
        if landmarks is not None:
            targets = replace(targets, landmarks=landmarks(good))
        return TrainingBatch(
            inputs=self.activations.batch(places[places >= 0]),
            targets=targets,
            keys=Names(good, self.names),
        )


def _laid_out(tensor: Tensor) -> Tensor:
    """Maps as the backbone's own steps lay them out, which convolutions are quicker on."""
    if tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
