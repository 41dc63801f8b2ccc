"""A contact sheet of explained images: the wrong answers, then the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from fashionbatch.drawing.cells import INK, PALE, RED
from fashionbatch.drawing.lettering import fitted, font

#: images on one sheet
MOST = 60
#: side of an image's square
CELL = 200
_GREEN = "#1e7b34"
_ROW = 5
_GAP, _MARGIN = 16, 24
_HEADER, _SECTION, _CAPTION, _FRAME = 76, 34, 62, 4


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image on the sheet.

    Attributes:
        cell: of :data:`CELL` pixels each way.
        name: of the image.
        answer: what is explained, and its probability.
        label: the image's class where the model knows that class and its answer is judged.
        right: whether the answer is the label; ``None`` where there is no label.
    """

    cell: Image.Image
    name: str
    answer: str
    label: str | None = None
    right: bool | None = None


def draw(cases: Sequence[Case], title: str, about: str) -> Image.Image:
    """Draws the cases in sections, each in the order given.

    Args:
        cases: at most :data:`MOST`.
        title: of the sheet.
        about: a line below the title.

    Example:
        >>> draw([case], "Grad-CAM", "1 of 1 right").width  # doctest: +SKIP
        560
    """
    sections = [
        (word, colour, found)
        for word, colour, right in (
            ("wrong", RED, False),
            ("right", _GREEN, True),
            ("class not known", PALE, None),
        )
        if (found := [case for case in cases if case.right is right])
    ]
    across = min(_ROW, max(len(found) for _, _, found in sections))
    deep = [-(-len(found) // across) * (CELL + _CAPTION + _GAP) for _, _, found in sections]
    # the title must fit above a single image
    width = max(2 * _MARGIN + across * (CELL + _GAP) - _GAP, 560)
    page = Image.new("RGB", (width, _HEADER + sum(deep) + _SECTION * len(sections)), "white")
    pen = ImageDraw.Draw(page)
    fits = width - 2 * _MARGIN
    pen.text((_MARGIN, 16), fitted(title, font(20, bold=True), fits), INK, font(20, bold=True))
    pen.text((_MARGIN, 44), fitted(about, font(13), fits), PALE, font(13))
    top = _HEADER
    for (word, colour, found), height in zip(sections, deep, strict=True):
        pen.text((_MARGIN, top), f"{word}: {len(found)}", colour, font(16, bold=True))
        top += _SECTION
        for place, case in enumerate(found):
            row, column = divmod(place, across)
            corner = (
                _MARGIN + column * (CELL + _GAP),
                top + row * (CELL + _CAPTION + _GAP),
            )
            _place(page, pen, case, corner, colour)
        top += height
    return page


def _place(
    page: Image.Image,
    pen: ImageDraw.ImageDraw,
    case: Case,
    corner: tuple[int, int],
    colour: str,
) -> None:
    left, top = corner
    page.paste(case.cell, corner)
    mark = {True: "✓ ", False: "✗ ", None: ""}[case.right]
    if case.right is not None:
        box = (left - _FRAME, top - _FRAME, left + CELL + _FRAME - 1, top + CELL + _FRAME - 1)
        pen.rectangle(box, outline=colour, width=_FRAME)
    lines = [(mark + case.answer, colour if mark else INK, font(13, bold=True))]
    if case.right is False:
        lines.append((f"labelled {case.label}", INK, font(12)))
    lines.append((case.name, PALE, font(12)))
    for number, (text, ink, letters) in enumerate(lines):
        pen.text((left, top + CELL + 6 + 17 * number), fitted(text, letters, CELL), ink, letters)
