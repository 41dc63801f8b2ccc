"""What the items of a data set ought to be, as targets of a training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from fashionbatch.shards.read import ShardSet
from fashionbatch.training.targets import Targets


class Labels:
    def __init__(self, shards: ShardSet, tasks: Sequence[str]) -> None:
        self.shards, self.tasks = shards, tasks

    def __call__(self, rows: npt.NDArray[np.int64]) -> Targets:
        return Targets(category=torch.from_numpy(self.shards.labels[rows].astype(np.int64)))

    def usable(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.asarray(self.shards.labels[rows] >= 0)

    def class_counts(self, rows):
        return np.bincount(self.shards.labels[rows])


def balanced_weights(counts):
    return counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
