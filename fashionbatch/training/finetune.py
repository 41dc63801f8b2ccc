"""Online training: images through the whole network, the frozen part included."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.models.build import Classifier, Outputs
from fashionbatch.pipeline.batches import Order, batches
from fashionbatch.shards.read import ShardSet
from fashionbatch.specs import Preprocessing
from fashionbatch.training.targets import Targets
from fashionbatch.training.task import TrainingBatch


@dataclass(kw_only=True)
class Finetune:
    """A :class:`fashionbatch.training.task.Task` over images.

    Attributes:
        model: what is trained.
        shards: the data set.
        rows: rows of each split; all of them labelled.
        preprocessing: fits the images.
        batch_size: images per step.
        augment: of the training images.
        seed: of order and augmentation.
        workers: processes that decode.
        failed: images that could not be used so far, by row.
    """

    model: Classifier
    shards: ShardSet
    rows: Mapping[str, npt.NDArray[np.int64]]
    preprocessing: Preprocessing
    batch_size: int
    augment: str
    seed: int
    workers: int
    failed: dict[int, str] = field(default_factory=dict)

    def steps(self) -> int:
        """See :class:`fashionbatch.training.task.Task`."""
        return len(self._order(0).batches)

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
        """See :class:`fashionbatch.training.task.Task`."""
        return itertools.islice(self._batches(self._order(epoch)), start, None)

    def batches(self, split: str) -> Iterator[TrainingBatch]:
        """See :class:`fashionbatch.training.task.Task`."""
        return self._batches(Order.sequential(self.rows[split], self.batch_size))

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> Outputs:
        """See :class:`fashionbatch.training.task.Task`."""
        outputs: Outputs = self.model(inputs if isinstance(inputs, Tensor) else inputs[0])
        return outputs

    def _order(self, epoch: int) -> Order:
        return Order.shuffled(
            self.rows["train"],
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            augment=self.augment,
        )

    def _batches(self, order: Order) -> Iterator[TrainingBatch]:
        for batch in batches(self.shards, order, self.preprocessing, workers=self.workers):
            self.failed.update((row, str(error)) for row, error in batch.failures)
            labels = torch.from_numpy(self.shards.labels[batch.rows].astype(np.int64))
            keys = tuple(self.shards.name(row) for row in batch.rows.tolist())
            yield TrainingBatch((batch.images,), Targets(category=labels), keys)
