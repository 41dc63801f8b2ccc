"""Bytes of an image file → a network's input, straight to the size needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from fashionbatch.errors import ImageError
from fashionbatch.pipeline import headers, jpeg
from fashionbatch.pipeline.decode import (
    MAX_BYTES,
    MAX_PIXELS,
    NO_MEMORY,
    decode,
    is_out_of_memory,
    open_image,
    orientation,
)
from fashionbatch.pipeline.transforms import fit, placed
from fashionbatch.specs import Preprocessing

#: a JPEG is decoded to no less than this many times the size that it gets, so that the filter of
#: the resize still decides: 120 photographs of clothes then differed from the same decoded whole by
#: 0.4 grey levels on average, the worst by 1.0; with 1 instead of 2, by 1.4 and 4.4
_MARGIN = 2
#: the centre crop of a long panorama is not cut from the whole of it, resized: that takes gigabytes
_MOST_AREA = 8  # of the input's
_UPWARDS = 1 + 1e-9  # torch cuts fractions off sizes


def load(data: bytes, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Decodes an image and fits it to the input size.

    An ordinary JPEG is decoded by libjpeg-turbo, at a half, a quarter or an eighth of its size
    where that leaves at least twice the size that it gets; all else by
    :func:`fashionbatch.pipeline.decode.decode` and :func:`fashionbatch.pipeline.transforms.fit`.
    Where a JPEG is decoded whole, both give the same within two grey levels.

    Returns:
        uint8 ``[size, size, 3]``.

    Raises:
        ImageError: with stage ``decode``, or ``transform`` where there is not enough memory for the
            size that it gets; any bytes yield an image or this.

    Example:
        >>> load(open("hat.jpg", "rb").read(), Preprocessing()).shape  # doctest: +SKIP
        (224, 224, 3)
    """
    pixels = _from_jpeg(data, preprocessing)
    if pixels is None:
        image = decode(data)
        with _stage("transform"):
            pixels = fit(image, preprocessing)
    return pixels


@contextmanager
def _stage(name: str) -> Iterator[None]:
    """What is done within; without memory for it, that stage has failed."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(name, NO_MEMORY) from None


def _from_jpeg(data: bytes, preprocessing: Preprocessing) -> npt.NDArray[np.uint8] | None:
    header = headers.jpeg(data) if data.startswith(b"\xff\xd8\xff") else None
    if header is None or not header.plain or preprocessing.interpolation == "nearest":
        return None
    if header.width * header.height > MAX_PIXELS or len(data) > MAX_BYTES:
        return None
    size = header.width, header.height
    how = orientation(open_image(data)) if header.tagged else 1
    lying = how >= 5  # width and height change places
    place = placed(size[::-1] if lying else size, preprocessing)
    left, top, width, height = (int(v) for v in place)
    if width * height > _MOST_AREA * preprocessing.size**2:
        return None
    fitted = (height, width) if lying else (width, height)
    reduction = jpeg.reduction(size, (_MARGIN * fitted[0], _MARGIN * fitted[1]))
    with _stage("decode"):
        pixels = jpeg.decode(data, size, reduction)
    if pixels is None:
        return None
    covered = header.width / reduction, header.height / reduction
    with _stage("transform"):
        resized = _turned(_resized(pixels, covered, fitted, preprocessing.interpolation), how)
        side = preprocessing.size
        if preprocessing.crop_mode == "center":
            return resized[-top : side - top, -left : side - left]
        if (width, height) == (side, side):
            return resized
        canvas = np.zeros((side, side, 3), np.uint8)
        canvas[top : top + height, left : left + width] = resized
        return canvas


def _resized(
    pixels: npt.NDArray[np.uint8],
    covered: tuple[float, float],
    size: tuple[int, int],
    filter: str,
) -> npt.NDArray[np.uint8]:
    """The part of the pixels that the image covers, which may end within the last, at a size."""
    if pixels.shape[1::-1] == size:
        return pixels
    # torch has vector code for bytes that lie channels last, and sees that from four dimensions
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    factors = [s / c * _UPWARDS for s, c in zip(size[::-1], covered[::-1], strict=True)]
    resized = functional.interpolate(image, scale_factor=factors, mode=filter, antialias=True)
    return resized[0, :, : size[1], : size[0]].permute(1, 2, 0).numpy()


def _turned(pixels: npt.NDArray[np.uint8], how: int) -> npt.NDArray[np.uint8]:
    """A view of ``[height, width, 3]`` pixels, upright; ``how`` is EXIF's orientation, 1 to 8."""
    if how >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if how in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if how in (3, 4, 7, 8) else pixels
