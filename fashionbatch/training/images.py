"""Online training: images through the whole network, the frozen part included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.models.build import Classifier, Outputs
from fashionbatch.pipeline.batches import Order, batches
from fashionbatch.pipeline.transforms import view_matrices
from fashionbatch.shards.read import ShardSet
from fashionbatch.specs import Preprocessing
from fashionbatch.training.distributed import Group
from fashionbatch.training.labels import Labels
from fashionbatch.training.landmarks import Landmarks
from fashionbatch.training.sampling import Sampling
from fashionbatch.training.task import Names, TrainingBatch


@dataclass(kw_only=True)
class Images:
    """A :class:`fashionbatch.training.task.Task` over images.

    Attributes:
        model: what is trained.
        shards: the data set.
        labels: what its images ought to be.
        landmarks: of the training images, where a regularizer needs them.
        rows: of the splits that are only looked at.
        sampling: of the training images.
        preprocessing: fits the images.
        augment: of the training images.
        workers: processes that decode.
        device: that the batches go to.
        group: the processes that share each batch.
        failed: images that could not be used so far, by row.
    """

    model: Classifier
    shards: ShardSet
    labels: Labels
    rows: Mapping[str, npt.NDArray[np.int64]]
    sampling: Sampling
    preprocessing: Preprocessing
    augment: str
    workers: int
    landmarks: Landmarks | None = None
    device: torch.device = field(default=torch.device("cpu"))
    group: Group = field(default_factory=Group)
    failed: dict[int, str] = field(default_factory=dict)

    def steps(self) -> int:
        """See :class:`fashionbatch.training.task.Task`."""
        return self.sampling.steps()

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
        """See :class:`fashionbatch.training.task.Task`."""
        rank, world = self.group.rank, self.group.world
        seed = (self.sampling.seed, epoch) if world == 1 else (self.sampling.seed, epoch, rank)
        shares = [rows[rank::world] for rows in self.sampling.epoch(epoch)]
        order = Order(batches=shares, start=start, augment=self.augment, seed=seed)
        return self._batches(order, self.landmarks)

    def batches(self, split: str) -> Iterator[TrainingBatch]:
        """See :class:`fashionbatch.training.task.Task`."""
        rows = self.rows[split][self.group.rank :: self.group.world]
        size = max(1, self.sampling.batch_size // self.group.world)
        return self._batches(Order.sequential(rows, size))

    def forward(self, inputs: tuple[Tensor, ...]) -> Outputs:
        """See :class:`fashionbatch.training.task.Task`."""
        outputs: Outputs = self.model(inputs[0])
        return outputs

    def close(self) -> None:
        """See :class:`fashionbatch.training.task.Task`; the data set is its owner's to close."""

    def _batches(self, order: Order, landmarks: Landmarks | None = None) -> Iterator[TrainingBatch]:
        for batch in batches(
            self.shards,
            order,
            self.preprocessing,
            workers=self.workers,
            pinned=self.device.type == "cuda",
        ):
            self.failed.update((row, str(error)) for row, error in batch.failures)
            targets = self.labels(batch.rows)
            if landmarks is not None:
                drawn = order.generator(batch.number)
                views = view_matrices(len(batch.rows), order.augment, drawn)
                targets = replace(targets, landmarks=landmarks(batch.rows, views))
            yield TrainingBatch(
                inputs=(batch.images,),
                targets=targets,
                keys=Names(batch.rows, self.shards.name),
            )
