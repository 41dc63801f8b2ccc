"""A contact sheet: an image, and those that are like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from fashionbatch.drawing.cells import INK, PALE, cell, cross
from fashionbatch.drawing.lettering import fitted, font

#: neighbours on a sheet, and in one of its lines
MOST = 100
_LINE = 5
_CELL, _LARGE = 168, 256
_GAP, _MARGIN = 16, 24
_HEADER, _CAPTION = 76, 56


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image on the sheet.

    Attributes:
        data: its file's bytes, or why there are none.
        lines: below it; the first one in bold.
    """

    data: bytes | str
    lines: tuple[str, ...]


def draw(query: Shown, neighbours: Sequence[Shown], title: str, about: str) -> Image.Image:
    """Draws the query large at the left, its neighbours beside it, best first, line by line.

    Args:
        query: what was looked for.
        neighbours: what was found; at most :data:`MOST` are drawn.
        title: of the sheet.
        about: a line below the title.
    """
    shown = neighbours[:MOST]
    across = max(1, min(_LINE, len(shown)))
    down = max(1, -(-len(shown) // _LINE))
    left = _MARGIN + _LARGE + 2 * _GAP
    width = left + across * (_CELL + _GAP) - _GAP + _MARGIN
    height = _HEADER + max(_LARGE + _CAPTION, down * (_CELL + _CAPTION + _GAP)) + _MARGIN
    page = Image.new("RGB", (max(width, 560), height), "white")
    pen = ImageDraw.Draw(page)
    fits = page.width - 2 * _MARGIN
    pen.text((_MARGIN, 16), fitted(title, font(20, bold=True), fits), INK, font(20, bold=True))
    pen.text((_MARGIN, 44), fitted(about, font(13), fits), PALE, font(13))
    _place(page, pen, query, (_MARGIN, _HEADER), _LARGE)
    rule = left - _GAP
    pen.line((rule, _HEADER, rule, height - _MARGIN), "#dddddd")
    for place, neighbour in enumerate(shown):
        line, column = divmod(place, _LINE)
        corner = (
            left + column * (_CELL + _GAP),
            _HEADER + line * (_CELL + _CAPTION + _GAP),
        )
        _place(page, pen, neighbour, corner, _CELL)
    return page


def _place(
    page: Image.Image, pen: ImageDraw.ImageDraw, shown: Shown, corner: tuple[int, int], side: int
) -> None:
    small = cell(shown.data, side)
    if isinstance(small, str):
        cross(pen, corner, side, "missing" if isinstance(shown.data, str) else "unreadable")
    else:
        page.paste(small, corner)
    top = corner[1] + side + 4
    for number, line in enumerate(shown.lines):
        letters = font(13, bold=True) if number == 0 else font(12)
        colour = INK if number == 0 else PALE
        pen.text((corner[0], top + 17 * number), fitted(line, letters, side), colour, letters)
