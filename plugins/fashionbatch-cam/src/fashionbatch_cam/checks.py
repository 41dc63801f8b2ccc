"""What numbers a method's options can be."""

from __future__ import annotations

import math


def number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(name: str, value: int) -> int:
    """Gives the value back.

    Raises:
        ValueError: it is not a whole number of at least 0.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{name} is a whole number of at least 0, not {value}")
    return value


def count(name: str, value: int) -> int:
    """Gives the value back.

    Raises:
        ValueError: it is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is a whole number of at least 1, not {value}")
    return value


def above_0(name: str, value: float) -> float:
    """Gives the value back.

    Raises:
        ValueError: it is not a number above 0.
    """
    if not number(value) or value <= 0:
        raise ValueError(f"{name} is a number above 0, not {value}")
    return value
