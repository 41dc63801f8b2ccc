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
    if preprocessing.crop_mode == "letterbox":
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
    same = image.size == (width, height)
    resized = image if same else image.resize((width, height), resample)
    if (width, height) == (side, side):
        return np.asarray(resized)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(resized, (left, top))
    return np.asarray(canvas)


def augment(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Random views of a batch, each image its own.

    Args:
        images: uint8 ``[N, 3, size, size]``.
        how: ``paper`` (shear, zoom, rotation, shift, flip; edges repeat outwards), ``flip``
            (left and right), ``trivial`` (flip, then one operation of TrivialAugmentWide, Müller &
            Hutter 2021), ``rand`` (flip, then two of RandAugment, Cubuk et al. 2020), or ``none``.
        generator: of the CPU; makes the views repeatable.

    Returns:
        as ``images``.
    """
    if how == "none" or not len(images):
        return images
    flip = _flips(len(images), generator)
    if how == "paper":
        return _warped(images, _paper_views(len(images), flip, generator))
    flipped = torch.where(flip[:, None, None, None], images.flip(3), images)
    return flipped if how == "flip" else _automatic(flipped, how, generator)


def view_matrices(count: int, how: str, generator: torch.Generator) -> Tensor:
    """Where the views lie that :func:`augment` makes with a generator in the same state.

    Args:
        count: images of the batch.
        how: ``paper``, ``flip`` or ``none``; the others are not affine.
        generator: of the CPU.

    Returns:
        float32 ``[count, 2, 3]``, affine matrices from the coordinates of a view to those of the
        image, both from -1 to 1 across and down.
    """
    if how == "none" or not count:
        return torch.eye(2, 3).expand(count, 2, 3)
    flip = _flips(count, generator)
    if how == "paper":
        return _paper_views(count, flip, generator)
    across = torch.where(flip, -1.0, 1.0)
    return torch.eye(2, 3) * torch.stack([across, torch.ones(count)], dim=1)[:, :, None]


def _flips(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < 0.5


def _paper_views(count: int, flip: Tensor, generator: torch.Generator) -> Tensor:
    """Affine matrices ``[N, 2, 3]`` from output to input coordinates (both from -1 to 1).

    Rotation · shift · shear · zoom, as Keras' ``apply_affine_transform`` multiplies them.
    """

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(PAPER_ROTATION))
    shear = uniform(math.radians(PAPER_SHEAR))
    zoom_x, zoom_y = 1 + uniform(PAPER_ZOOM), 1 + uniform(PAPER_ZOOM)
    shift_x, shift_y = uniform(2 * PAPER_SHIFT), uniform(2 * PAPER_SHIFT)  # the input is 2 wide
    zoom_x = torch.where(flip, -zoom_x, zoom_x)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        (cos * zoom_x, -torch.sin(angle + shear) * zoom_y, cos * shift_x - sin * shift_y),
        (sin * zoom_x, torch.cos(angle + shear) * zoom_y, sin * shift_x + cos * shift_y),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Bilinear samples of the images where the matrices say; edges repeat outwards."""
    centres = (torch.arange(images.shape[-1]) * 2 + 1) / images.shape[-1] - 1
    views = torch.empty_like(images)
    # one by one, the numbers of an image stay in the processor's cache: twice as fast
    for image, matrix, view in zip(images, matrices, views, strict=True):
        across = centres[:, None] * matrix[:, 0]
        down = centres[:, None] * matrix[:, 1] + matrix[:, 2]
        grid = across[None] + down[:, None]
        pixels = image.float().contiguous()[None]
        warped = functional.grid_sample(
            pixels, grid[None], padding_mode="border", align_corners=False
        )
        view.copy_(warped[0].round_())
    return views


def _automatic(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """torchvision's policies, which draw from the global generator: it is lent our state."""
    from torchvision.transforms import v2  # takes a second, and few need it

    policy = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}[how]
    change = policy(interpolation=v2.InterpolationMode.BILINEAR)
    views = torch.empty_like(images)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        for image, view in zip(images, views, strict=True):
            view.copy_(change(image.contiguous()))
        generator.set_state(torch.get_rng_state())
    return views
