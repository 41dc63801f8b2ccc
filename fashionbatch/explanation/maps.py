"""Channel maps: what a layer gives, whatever the order of its dimensions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fashionbatch.specs import MapLayout

#: standard deviations from a map's mean to black and to white
_SPREAD = 2.5


def channel_maps(values: Tensor, layout: MapLayout | None = None) -> Tensor | None:
    """A layer's output as maps.

    Args:
        values: float, of any shape.
        layout: of the values, see :class:`fashionbatch.BackboneSpec`; by default what their shape
            says: inputs are square, and so is every map of them.

    Returns:
        ``[N, C, h, w]``, a view; ``None`` where the values are no maps of that layout.

    Example:
        >>> channel_maps(torch.zeros(1, 197, 768)).shape  # doctest: +SKIP
        torch.Size([1, 768, 14, 14])
    """
    layout = layout or _layout(values)
    if layout == "tokens" and values.ndim == 3:
        count, length, channels = values.shape
        side = math.isqrt(length)
        square = values[:, length - side * side :].reshape(count, side, side, channels)
        return square.movedim(3, 1)
    if layout in ("NCHW", "NHWC") and values.ndim == 4:
        return values if layout == "NCHW" else values.movedim(3, 1)
    return None


def _layout(values: Tensor) -> MapLayout:
    if values.ndim == 3:
        return "tokens"
    if values.ndim == 4 and values.shape[1] == values.shape[2] != values.shape[3]:
        return "NHWC"
    return "NCHW"


def standardized(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Maps as grey levels: a map's mean is mid-grey, 2.5 standard deviations are black or white.

    Args:
        maps: float32 ``[C, h, w]``.

    Returns:
        uint8 of that shape; a map that is the same everywhere, such as a channel that stayed
        silent, is black.
    """
    values = maps.astype(np.float64)
    spread = values.std(axis=(1, 2), keepdims=True)
    flat = np.ptp(values, axis=(1, 2), keepdims=True) == 0
    scaled = (values - values.mean(axis=(1, 2), keepdims=True)) / np.where(flat, 1, spread)
    grey = (scaled / _SPREAD).clip(-1, 1) * 127.5 + 127.5
    return np.where(flat, 0, grey.round()).astype(np.uint8)
