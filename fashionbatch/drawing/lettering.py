"""Text in pictures: catalogues' own names, which can hold anything, made safe to draw."""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

#: comes with matplotlib, so that every machine draws the same
_FONTS = {False: "DejaVuSans.ttf", True: "DejaVuSans-Bold.ttf"}


def legible(text: str, most: int | None = None) -> str:
    r"""A name as it can be drawn.

    Args:
        text: any text.
        most: characters; of a longer one the middle is left out.

    Returns:
        the text on one line; what the font cannot draw is written ``\n`` or ``\U0001f457``.

    Example:
        >>> legible("a\nb")
        'a\\nb'
    """
    known = _characters()
    drawn = [
        c
        if c.isprintable() and ord(c) in known
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    ]
    if most is not None and len(text := "".join(drawn)) > most:
        head = (most - 1) * 2 // 3
        return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
    return "".join(drawn)


def fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A legible name whose middle is left out as far as it is wider than ``width`` pixels."""
    drawn = legible(text, 200)
    most = len(drawn)
    while most > 3 and font.getlength(drawn) > width:
        most -= 1
        drawn = legible(text, most)
    return drawn


@functools.cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font for pictures that Pillow draws; ``size`` in pixels."""
    return ImageFont.truetype(_file(bold), size)


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(_file(False)).get_charmap()) & frozenset(
        FT2Font(_file(True)).get_charmap()
    )


def _file(bold: bool) -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _FONTS[bold])
