"""Images → a network's input: fitting to the size, and random views for training."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fashionbatch.specs import Preprocessing

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}

#: the paper's random views (Keras' ImageDataGenerator): shear in degrees, rotation in degrees,
#: zoom and shift as parts of the size. Its "shear 0.2" is an angle in degrees there.
PAPER_SHEAR, PAPER_ROTATION, PAPER_ZOOM, PAPER_SHIFT = 0.2, 30.0, 0.2, 0.2


def placed(
    size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Where a whole image lies in the network's input.

    Args:
        size: width and height of the image, in pixels.
        preprocessing: what fits it to the input.

    Returns:
        left, top, width and height in pixels of the input; partly outside of it for ``center``.
    """
    width, height = size
    side = preprocessing.size
    if preprocessing.crop_mode == "squash":
        return 0.0, 0.0, float(side), float(side)
    if preprocessing.crop_mode == "border":
        scale = side / max(width, height)
        fitted = max(1, round(width * scale)), max(1, round(height * scale))
    else:
        scale = preprocessing.resize / min(width, height)
        fitted = max(side, round(width * scale)), max(side, round(height * scale))
    left, top = (side - fitted[0]) // 2, (side - fitted[1]) // 2
    return float(left), float(top), float(fitted[0]), float(fitted[1])


def fit(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """An RGB image at the network's input size.

    Returns:
        uint8 ``[size, size, 3]``.
    """
    left, top, width, height = (int(v) for v in placed(image.size, preprocessing))
    side = preprocessing.size
    resample = _RESAMPLING[preprocessing.interpolation]
    if preprocessing.crop_mode == "center":
        # resize only what the crop keeps: an extreme panorama would need gigabytes otherwise
        scale_x, scale_y = image.width / width, image.height / height
        box = (-left * scale_x, -top * scale_y, (side - left) * scale_x, (side - top) * scale_y)
        box = (
            max(0.0, box[0]),
            max(0.0, box[1]),
            min(image.width, box[2]),
            min(image.height, box[3]),
        )
        return np.asarray(image.resize((side, side), resample, box=box))
    if (left, top, width, height) == (0, 0, *image.size):
        return np.asarray(image)
    resized = image.resize((width, height), resample)
    if (width, height) == (side, side):
        return np.asarray(resized)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(resized, (left, top))
    return np.asarray(canvas)


def augment(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Random views of a batch.

    Args:
        images: uint8 or float ``[N, C, H, W]``.
        how: ``paper`` (shear, zoom, rotation, shift, flip; edges repeat outwards), ``flip``
            (left and right), or ``none``.
        generator: makes the views repeatable.

    Returns:
        as ``images``, of the same shape; float32 for ``paper``.
    """
    if how == "none" or not len(images):
        return images
    flip = torch.rand(len(images), generator=generator) < 0.5
    if how == "flip":
        return torch.where(flip[:, None, None, None], images.flip(3), images)
    matrix = _paper_views(len(images), flip, generator)
    pixels = images.float()
    grid = functional.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _paper_views(count: int, flip: Tensor, generator: torch.Generator) -> Tensor:
    """Affine matrices ``[N, 2, 3]`` from output to input coordinates (both from -1 to 1)."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(PAPER_ROTATION))
    shear = uniform(math.radians(PAPER_SHEAR))
    zoom_x, zoom_y = 1 + uniform(PAPER_ZOOM), 1 + uniform(PAPER_ZOOM)
    shift_x, shift_y = uniform(2 * PAPER_SHIFT), uniform(2 * PAPER_SHIFT)  # the input is 2 wide
    zoom_x = torch.where(flip, -zoom_x, zoom_x)
    rows = (
        (torch.cos(angle) * zoom_x, -torch.sin(angle + shear) * zoom_y, shift_x),
        (torch.sin(angle) * zoom_x, torch.cos(angle + shear) * zoom_y, shift_y),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
