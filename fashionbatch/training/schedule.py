"""The base class of learning-rate schedules that look at how training goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Schedule:
    """A schedule with a memory; one without is a plain function of the epoch.

    Example::

        class Halve(fashionbatch.Schedule):
            def __init__(self, epochs):
                self.factor = 1.0

            def __call__(self, epoch):
                return self.factor

            def after_epoch(self, epoch, metrics):
                if metrics["val_top1"] > 0.9:
                    self.factor = 0.5
    """

    def __call__(self, epoch: float) -> float:
        """The factor on the learning rate; ``epoch`` counts from 0, with fractions within one."""
        raise NotImplementedError  # the one method a subclass must write

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Looks at a finished epoch, counted from 1; ``metrics`` as for a regularizer."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back :meth:`state_dict`."""


def with_warmup(schedule, epochs):
    return schedule
