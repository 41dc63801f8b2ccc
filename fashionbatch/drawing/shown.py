"""An image of a sheet with lines of text below it, and a plain sheet of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from fashionbatch.drawing.cells import INK, PALE, cell, cross
from fashionbatch.drawing.lettering import fitted, font

CAPTION = 56  # pixels below an image: three lines
_LINE = 17
_CELL, _GAP, _MARGIN, _HEADER = 168, 16, 24, 76
_ACROSS = 6


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image on a sheet.

    Attributes:
        data: its file's bytes, or why there are none.
        lines: below it; the first one in bold.
    """

    data: bytes | str
    lines: tuple[str, ...]


def sheet(shown: Sequence[Shown], title: str, about: str, *, across: int = _ACROSS) -> Image.Image:
    """Draws images line by line.

    Args:
        shown: the images.
        title: of the sheet.
        about: a line below the title.
        across: images in a line.
    """
    columns = max(1, min(across, len(shown)))
    lines = -(-len(shown) // columns)
    width = 2 * _MARGIN + columns * (_CELL + _GAP) - _GAP
    height = _HEADER + lines * (_CELL + CAPTION + _GAP) + _MARGIN
    page = Image.new("RGB", (max(width, 560), height), "white")
    pen = ImageDraw.Draw(page)
    head(page, pen, title, about, _MARGIN)
    for place, each in enumerate(shown):
        line, column = divmod(place, columns)
        left, top = _MARGIN + column * (_CELL + _GAP), _HEADER + line * (_CELL + CAPTION + _GAP)
        put(page, pen, each, (left, top), _CELL)
    return page


def head(page: Image.Image, pen: ImageDraw.ImageDraw, title: str, about: str, margin: int) -> None:
    """A title, and a line below it."""
    fits = page.width - 2 * margin
    pen.text((margin, 16), fitted(title, font(20, bold=True), fits), INK, font(20, bold=True))
    pen.text((margin, 44), fitted(about, font(13), fits), PALE, font(13))


def put(
    page: Image.Image, pen: ImageDraw.ImageDraw, shown: Shown, corner: tuple[int, int], side: int
) -> None:
    """An image at a corner, and its lines below; crossed out where it cannot be shown."""
    small = cell(shown.data, side)
    if isinstance(small, str):
        cross(pen, corner, side, "missing" if isinstance(shown.data, str) else "unreadable")
    else:
        page.paste(small, corner)
    top = corner[1] + side + 4
    for number, line in enumerate(shown.lines):
        letters = font(13, bold=True) if number == 0 else font(12)
        colour = INK if number == 0 else PALE
        pen.text((corner[0], top + _LINE * number), fitted(line, letters, side), colour, letters)
