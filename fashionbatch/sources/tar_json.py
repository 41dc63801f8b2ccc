"""JSON objects of tar files made elsewhere, in which anything can stand."""

from __future__ import annotations

import json
import math
from typing import Any

# far below Python's recursion limit, so that whoever writes the JSON again does not hit it
_MAX_DEPTH = 64


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object that can be written again; NaN and infinite numbers become null.

    Args:
        data: UTF-8.

    Raises:
        ValueError: it is none, or holds text that is not Unicode, NUL, or very deep lists.
        RecursionError: deeper ones.

    Example:
        >>> parse_json(b'{"label": "hat", "weight": NaN}')
        {'label': 'hat', 'weight': None}
    """
    value = json.loads(
        data.decode("utf-8-sig"), parse_constant=lambda name: None, parse_float=_finite
    )
    if not isinstance(value, dict):
        raise ValueError("not an object")
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        inner, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        if isinstance(inner, str) and b"\0" in inner.encode():
            raise ValueError("NUL")
        if isinstance(inner, dict):
            waiting += [(v, depth + 1) for pair in inner.items() for v in pair]
        elif isinstance(inner, list):
            waiting += [(v, depth + 1) for v in inner]
    return value


def as_label(value: Any) -> str | None:
    """A label as text, whether it is a text or a number; ``None`` where it is neither.

    Example:
        >>> as_label("hat"), as_label(3.0), as_label(True)
        ('hat', '3', None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) and value != "" else None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
