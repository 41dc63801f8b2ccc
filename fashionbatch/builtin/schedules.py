"""Learning-rate schedules: each gives the factor on the rate at an epoch, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(epochs: int) -> Schedule:
    """1 throughout."""
    return lambda epoch: 1.0


def step(epochs: int, *, drop: float = 0.5, epochs_drop: int = 10) -> Schedule:
    """``drop ** floor(epoch / epochs_drop)``, the paper's step decay with its defaults.

    Raises:
        ValueError: ``epochs_drop`` is below 1 or ``drop`` not in ``(0, 1]``.
    """
    if epochs_drop < 1 or not 0 < drop <= 1:
        raise ValueError("epochs_drop is at least 1, drop is above 0 and at most 1")
    return lambda epoch: drop ** (epoch // epochs_drop)


def exponential(epochs: int, *, gamma: float = 0.9) -> Schedule:
    """``gamma ** epoch`` per whole epoch, as the paper's trainers have it.

    Raises:
        ValueError: ``gamma`` is not in ``(0, 1]``.
    """
    if not 0 < gamma <= 1:
        raise ValueError("gamma is above 0 and at most 1")
    return lambda epoch: gamma ** math.floor(epoch)


def cosine(epochs: int) -> Schedule:
    """``(1 + cos(π · epoch / epochs)) / 2``, within epochs too (Loshchilov & Hutter 2017)."""
    return lambda epoch: (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2
