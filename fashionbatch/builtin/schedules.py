"""Learning-rate schedules: each gives the factor on the rate at an epoch, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fashionbatch.training.schedule import Schedule

Factor = Callable[[float], float]


def constant(epochs: int) -> Factor:
    """1 throughout."""
    return lambda epoch: 1.0


def step(epochs: int, *, drop: float = 0.5, epochs_drop: int = 10) -> Factor:
    """``drop ** floor(epoch / epochs_drop)``, the paper's step decay with its defaults.

    Raises:
        ValueError: ``epochs_drop`` is below 1 or ``drop`` not in ``(0, 1]``.
    """
    if epochs_drop < 1 or not 0 < drop <= 1:
        raise ValueError("epochs_drop is at least 1, drop is above 0 and at most 1")
    return lambda epoch: drop ** (epoch // epochs_drop)


def exponential(epochs: int, *, gamma: float = 0.9) -> Factor:
    """``gamma ** epoch`` per whole epoch, as the paper's trainers have it.

    Raises:
        ValueError: ``gamma`` is not in ``(0, 1]``.
    """
    if not 0 < gamma <= 1:
        raise ValueError("gamma is above 0 and at most 1")
    return lambda epoch: gamma ** math.floor(epoch)


def cosine(epochs: int) -> Factor:
    """``(1 + cos(π · epoch / epochs)) / 2``, within epochs too (Loshchilov & Hutter 2017)."""
    return lambda epoch: (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2


def polynomial(epochs: int, *, power: float = 1.0) -> Factor:
    """``(1 - epoch / epochs) ** power``, within epochs too; a straight line to zero for 1.

    Raises:
        ValueError: ``power`` is not above 0.
    """
    if not power > 0:
        raise ValueError(f"power is above 0, not {power}")
    return lambda epoch: (1 - min(epoch / epochs, 1.0)) ** power


class Plateau(Schedule):
    """Times ``factor`` whenever the validation loss has not fallen for ``patience`` epochs.

    Args:
        epochs: most of them; not used.
        factor: on the rate so far.
        patience: epochs in a row; counted anew behind each change.
        min_delta: how much lower counts as lower.

    Raises:
        ValueError: ``factor`` is not in ``(0, 1)``, ``patience`` below 1 or ``min_delta`` below 0.
    """

    def __init__(
        self, epochs: int, *, factor: float = 0.1, patience: int = 5, min_delta: float = 0.0
    ) -> None:
        if not 0 < factor < 1 or patience < 1 or not min_delta >= 0:
            raise ValueError(
                "factor is above 0 and below 1, patience is at least 1, min_delta at least 0"
            )
        self.factor = factor
        self.patience = patience
        self.min_delta = min_delta
        self.best = math.inf
        self.waited = 0
        self.falls = 0

    def __call__(self, epoch: float) -> float:
        """See :class:`fashionbatch.Schedule`."""
        return self.factor**self.falls

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """See :class:`fashionbatch.Schedule`."""
        if metrics["val_loss"] < self.best - self.min_delta:
            self.best, self.waited = metrics["val_loss"], 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.falls, self.waited = self.falls + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """See :class:`fashionbatch.Schedule`."""
        best = self.best if math.isfinite(self.best) else None
        return {"best": best, "waited": self.waited, "falls": self.falls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`fashionbatch.Schedule`."""
        self.best = math.inf if state["best"] is None else state["best"]
        self.waited, self.falls = state["waited"], state["falls"]
