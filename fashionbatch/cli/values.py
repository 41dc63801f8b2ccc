"""Values as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NOTHING = "–"
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def readable(value: Any) -> str:
    """A value of an option or a plan in words; numbers with thousands separators.

    Example:
        >>> readable(53120), readable(True), readable(["a", "b"]), readable({"train": 1600})
        ('53,120', 'yes', 'a, b', 'train 1,600')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {readable(part)}" for key, part in value.items()) or _NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(readable, value)) or _NOTHING
    return _NOTHING if value in (None, "") else str(value)


def provider(provenance: Mapping[str, Any]) -> str:
    """A component, and the package that it comes from."""
    return f"{provenance['name']} of {provenance['provider']} {provenance['version']}"


def preparation(values: Mapping[str, Any]) -> str:
    """How a photograph becomes the input, from ``Preprocessing.to_json()``."""
    size = values["size"]
    how = {
        "center": f"the centre of {values['resize']} px",
        "squash": "stretched",
        "letterbox": "all of it on black",
    }[values["crop_mode"]]
    return f"{size} x {size} px, {how}, {values['interpolation']}"


def size(count: float) -> str:
    """Bytes, in the unit that suits.

    Example:
        >>> size(900), size(1_340_000_000)
        ('900 bytes', '1.248 GiB')
    """
    if count < 1024:
        return f"{count:,.0f} bytes"
    power = min(int(math.log2(count)) // 10, len(_UNITS))
    return f"{count / 1024**power:,.4g} {_UNITS[power - 1]}"


def duration(seconds: float) -> str:
    """A time, in the two units that suit.

    Example:
        >>> duration(42.4), duration(3 * 3600 + 125), duration(200_000)
        ('42 s', '3 h 2 min', '2 d 7 h')
    """
    left = round(seconds)
    found: list[tuple[int, str]] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or (found or unit == "s"):
            found.append((number, unit))
    return " ".join(f"{number} {unit}" for number, unit in found[:2] if number or len(found) == 1)
