"""JPEG → pixels by libjpeg-turbo without Pillow around it: the same pixels, sooner.

What Pillow hides is seen here: libjpeg goes on behind damage, paints what is missing grey, and only
warns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg

from fashionbatch.errors import ImageError

#: what libjpeg warns of where pixels are lost; the other warnings are of form only
_DAMAGE = ("premature end of data segment", "bad Huffman code", "instead of RST")
_NO_MEMORY = "Insufficient memory"
_REDUCTIONS = (8, 4, 2)  # what libjpeg does faster than decoding everything


def reduction(size: tuple[int, int], least: tuple[int, int]) -> int:
    """How much smaller a JPEG can be decoded: 8, 4, 2 or 1.

    Args:
        size: its width and height, in pixels.
        least: width and height that are enough.
    """
    fitting = (
        r for r in _REDUCTIONS if least[0] <= -(-size[0] // r) and least[1] <= -(-size[1] // r)
    )
    return next(fitting, 1)


def decode(data: bytes, size: tuple[int, int], reduction: int = 1) -> npt.NDArray[np.uint8] | None:
    """Decodes a file that :func:`fashionbatch.pipeline.headers.jpeg` calls plain.

    Args:
        data: the file.
        size: its width and height, in pixels.
        reduction: 1, or 2, 4 or 8: each block of 8 x 8 pixels is decoded to 4 x 4, 2 x 2 or one
            by its low frequencies.

    Returns:
        uint8 ``[height, width, 3]``, both divided by the reduction and rounded up, not turned as
        EXIF says; or ``None`` where Pillow has to be asked.

    Raises:
        ImageError: pixels are missing or damaged.
        MemoryError: there is not enough memory.
    """
    width, height = (-(-length // reduction) for length in size)
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, min_width=width, min_height=height
        )
    except ValueError as error:
        if any(sign in str(error) for sign in _DAMAGE):
            raise ImageError("decode", str(error)) from None
        if _NO_MEMORY in str(error):
            raise MemoryError from None
        return None
    return pixels if pixels.shape == (height, width, 3) else None
