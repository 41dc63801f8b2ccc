"""Heat over a photograph: put back from the network's input, laid on, captioned."""

from __future__ import annotations

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fashionbatch.drawing.lettering import font, legible
from fashionbatch.pipeline.transforms import placed
from fashionbatch.specs import Preprocessing

_CAPTION, _MARGIN = 16, 6
#: below this many pixels nobody sees anything in a picture
_SMALLEST_SIDE = 160


def readable(image: Image.Image, smallest: int = _SMALLEST_SIDE) -> Image.Image:
    """A small image several times as large, pixel by pixel; others as they are."""
    factor = -(-smallest // max(image.size))
    if factor < 2:
        return image
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST)


def onto_original(
    heat: npt.NDArray[np.float32], size: tuple[int, int], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """From the network's input back to the image's own frame: crop and letterbox undone.

    Args:
        heat: float32 ``[side, side]`` over the input.
        size: width and height of the image, in pixels.
        preprocessing: what fitted the image to the input.

    Returns:
        float32 ``[height, width]``; 0 where the crop left the image out.
    """
    left, top, width, height = placed(size, preprocessing)
    scale_x, scale_y = width / size[0], height / size[1]
    # maps a pixel of the original to the input: x -> left + x * scale
    matrix = (scale_x, 0.0, left, 0.0, scale_y, top)
    source = Image.fromarray(heat)
    moved = source.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved)


def overlay(
    image: Image.Image, heat: npt.NDArray[np.float32], intensity: float, colours: str = "jet"
) -> Image.Image:
    """The image with heat on it.

    Args:
        image: RGB.
        heat: float32 ``[height, width]`` from 0 to 1.
        intensity: of the heat, from 0 (the image alone) to 1; the paper's is 0.4.
        colours: name of a matplotlib colour map.
    """
    painted = (matplotlib.colormaps[colours](heat)[..., :3] * 255).astype(np.float32)
    mixed = np.asarray(image, np.float32) * (1 - intensity) + painted * intensity
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def captioned(image: Image.Image, caption: str) -> Image.Image:
    """The image with a line of text below, as wide as both need."""
    letters = font(_CAPTION)
    text = legible(caption, 200)
    width = int(letters.getlength(text)) + 2 * _MARGIN
    bar = _CAPTION + 2 * _MARGIN
    canvas = Image.new("RGB", (max(image.width, width), image.height + bar), "white")
    canvas.paste(image, (0, 0))
    ImageDraw.Draw(canvas).text((_MARGIN, image.height + _MARGIN - 2), text, "black", letters)
    return canvas
