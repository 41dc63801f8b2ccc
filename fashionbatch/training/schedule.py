"""The base class of learning-rate schedules that look at how training goes, and the warm-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def with_warmup(schedule: Callable[[float], float], epochs: float, steps: int) -> Schedule:
    """The schedule times a straight rise from 0 (Goyal et al. 2017, section 2.2).

    Args:
        schedule: with or without a memory.
        epochs: how long the rate rises; 0 for not at all.
        steps: of an epoch. The first step has the ``1 / (epochs · steps)``-th part of the rate, as
            a step without any would be lost; the last one of the rise has all of it.

    Example:
        >>> rising = with_warmup(lambda epoch: 1.0, 2, 2)
        >>> [rising(epoch) for epoch in (0, 0.5, 1, 1.5, 2)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return _Warmup(schedule, epochs, steps)


class _Warmup(Schedule):
    """What :func:`with_warmup` gives; its memory is that of the schedule within."""

    def __init__(self, schedule: Callable[[float], float], epochs: float, steps: int) -> None:
        self.schedule = schedule
        self.epochs = epochs
        self.steps = steps

    def __call__(self, epoch: float) -> float:
        rise = (epoch + 1 / self.steps) / self.epochs if self.epochs else 1.0
        return min(rise, 1.0) * self.schedule(epoch)

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        if isinstance(self.schedule, Schedule):
            self.schedule.after_epoch(epoch, metrics)

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict() if isinstance(self.schedule, Schedule) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if isinstance(self.schedule, Schedule):
            self.schedule.load_state_dict(state)
