"""A page of channel maps: the image, the network's input, and a grid of each layer's maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fashionbatch.drawing.cells import INK, PALE
from fashionbatch.drawing.lettering import fitted, font
from fashionbatch.explanation.base import Photo
from fashionbatch.explanation.maps import standardized

#: maps to a row, as in the paper's figure 9
_ROW = 16
_TILE, _GAP, _MARGIN = 64, 2, 24
_HEADER, _LINE, _PHOTO = 52, 22, 256
_KEY = (
    "In each map, mid-grey is its own mean;",
    "black and white are 2.5 standard deviations from it.",
    "A map that is the same everywhere is black.",
    "The share of zeros is that of all maps of the layer.",
)
_WIDTH = _ROW * (_TILE + _GAP) - _GAP


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What a layer gave for one image.

    Attributes:
        layer: name of the module in the backbone.
        kind: of the module, such as ``MaxPool2d``.
        shape: ``(C, h, w)`` of all its maps.
        maps: float32 ``[c, h, w]``, those of the first channels.
        sparsity: share of zeros among all values, from 0 to 1.
    """

    layer: str
    kind: str
    shape: tuple[int, int, int]
    maps: npt.NDArray[np.float32]
    sparsity: float


def draw(photo: Photo, seen: Image.Image, activations: Sequence[Activation]) -> Image.Image:
    """The photo, the network's input, and below them a grid of maps of each layer.

    Args:
        photo: as it came.
        seen: RGB, the network's input.
        activations: of the layers, from top to bottom.
    """
    grids = [_grid(standardized(activation.maps)) for activation in activations]
    top = _HEADER + _LINE + _PHOTO + _MARGIN
    height = top + sum(_LINE + grid.height + _MARGIN for grid in grids)
    page = Image.new("RGB", (_WIDTH + 2 * _MARGIN, height), "white")
    pen = ImageDraw.Draw(page)
    pen.text(
        (_MARGIN, 16), fitted(photo.name, font(18, bold=True), _WIDTH), INK, font(18, bold=True)
    )
    for left, word, picture in (
        (_MARGIN, "original", photo.image),
        (2 * _MARGIN + _PHOTO, "as the network sees it", seen),
    ):
        _letter(pen, (left, _HEADER), word, f"{picture.width} × {picture.height}")
        scale = _PHOTO / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        # pixels of a small input are to be seen as such
        resample = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
        page.paste(picture.resize(size, resample), (left, _HEADER + _LINE))
    left = 3 * _MARGIN + 2 * _PHOTO
    for number, line in enumerate(_KEY):
        pen.text((left, _HEADER + _LINE + 18 * number), line, PALE, font(13))
    for activation, grid in zip(activations, grids, strict=True):
        count, high, wide = activation.shape
        shown = f"{len(activation.maps)} of {count}" if len(activation.maps) < count else count
        about = (
            f"{activation.kind}, {shown} maps of {wide} × {high}, {activation.sparsity:.1%} zeros"
        )
        _letter(pen, (_MARGIN, top), activation.layer, about)
        page.paste(grid, (_MARGIN, top + _LINE))
        top += _LINE + grid.height + _MARGIN
    return page


def _letter(pen: ImageDraw.ImageDraw, corner: tuple[int, int], word: str, about: str) -> None:
    bold = fitted(word, font(13, bold=True), _WIDTH // 2)
    pen.text(corner, bold, INK, font(13, bold=True))
    left = corner[0] + font(13, bold=True).getlength(bold) + 10
    pen.text((left, corner[1]), about, PALE, font(13))


def _grid(maps: npt.NDArray[np.uint8]) -> Image.Image:
    """Grey maps ``[c, h, w]`` side by side, 16 to a row."""
    step = _TILE + _GAP
    across, down = min(_ROW, len(maps)), -(-len(maps) // _ROW)
    page = Image.new("RGB", (across * step - _GAP, down * step - _GAP), "white")
    for place, values in enumerate(maps):
        row, column = divmod(place, _ROW)
        small = min(values.shape) < _TILE
        resample = Image.Resampling.NEAREST if small else Image.Resampling.BOX
        tile = Image.fromarray(values).resize((_TILE, _TILE), resample)
        page.paste(tile, (column * step, row * step))
    return page
