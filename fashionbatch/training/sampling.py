"""Which images make which step of an epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The steps of every epoch, the same in every process and on every machine.

    Attributes:
        rows: int64 ``[N]``, to train on.
        batch_size: images of a step, of all processes together.
        seed: with the number of the epoch, of the order.
        labels: int32 ``[N]`` where each class is to come equally often (drawn with replacement, in
            rounds of all classes); ``None`` where each image comes once.
        world: processes that share a step.
    """

    rows: Rows
    batch_size: int
    seed: int
    labels: npt.NDArray[np.int32] | None = None
    world: int = 1

    def steps(self) -> int:
        """Of each epoch."""
        return len(self._cut(self.rows))

    def epoch(self, epoch: int) -> list[Rows]:
        """The rows of each step of an epoch, counted from 0."""
        generator = np.random.default_rng([self.seed, epoch])
        if self.labels is None:
            return self._cut(generator.permutation(self.rows))
        return self._cut(self._balanced(generator))

    def _balanced(self, generator: np.random.Generator) -> Rows:
        assert self.labels is not None
        classes = np.unique(self.labels)
        rounds = -(-len(self.rows) // len(classes))
        order = np.concatenate([generator.permutation(classes) for _ in range(rounds)])
        order = order[: len(self.rows)]
        drawn = np.empty(len(order), np.int64)
        for number in classes:
            mine = self.rows[self.labels == number]
            places = np.flatnonzero(order == number)
            # all of a class before any of it twice
            turns = -(-len(places) // len(mine))
            drawn[places] = np.concatenate([generator.permutation(mine) for _ in range(turns)])[
                : len(places)
            ]
        return drawn

    def _cut(self, rows: Rows) -> list[Rows]:
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        # batch normalization cannot train on a single image
        if len(batches) > 1 and len(batches[-1]) < 2 * self.world:
            batches[-2:] = [np.concatenate(batches[-2:])]
        return batches
