"""A contact sheet: an image, and those that are like it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from fashionbatch.drawing.shown import CAPTION, Shown, head, put

#: neighbours on a sheet, and in one of its lines
MOST = 100
_LINE = 5
_CELL, _LARGE = 168, 256
_GAP, _MARGIN = 16, 24
_HEADER = 76


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
    height = _HEADER + max(_LARGE + CAPTION, down * (_CELL + CAPTION + _GAP)) + _MARGIN
    page = Image.new("RGB", (max(width, 560), height), "white")
    pen = ImageDraw.Draw(page)
    head(page, pen, title, about, _MARGIN)
    put(page, pen, query, (_MARGIN, _HEADER), _LARGE)
    rule = left - _GAP
    pen.line((rule, _HEADER, rule, height - _MARGIN), "#dddddd")
    for place, neighbour in enumerate(shown):
        line, column = divmod(place, _LINE)
        corner = (
            left + column * (_CELL + _GAP),
            _HEADER + line * (_CELL + CAPTION + _GAP),
        )
        put(page, pen, neighbour, corner, _CELL)
    return page
