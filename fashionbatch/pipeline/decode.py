"""Bytes of an image file → an upright RGB image, or the reason why not.

Ordinary JPEGs are decoded by libjpeg-turbo, which says where pixels are missing; all else by
Pillow, because torchvision's PNG decoder ends the process on damaged files. Only the formats named
here are tried: others can start programs (EPS) or are seldom what they claim.
"""

from __future__ import annotations

import errno
import io
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fashionbatch.errors import ImageError
from fashionbatch.pipeline import headers, jpeg
from fashionbatch.sources import base

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
#: Pillow's JPEG reader calls a file of several pictures, as many phones make them, by this name
EXTENSIONS = {**FORMATS, "MPO": "jpg"}
#: most pixels of an image: 100 megapixels take 0.4 to 0.8 GiB while decoding, 1.1 GiB as a
#: progressive JPEG, 1.5 GiB as a WebP; beside the file
MAX_PIXELS = 100_000_000
#: most bytes of an image file
MAX_BYTES = base.MAX_BYTES
#: the reason where decoding takes more memory than there is
NO_MEMORY = "not enough memory"

# What matters raises; hints would fill the log. For the process, because catch_warnings is not safe
# in the threads that check images.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_EXIF_ORIENTATION = 0x0112
_TURNS = {  # what makes an image of an orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND = 1 << 20  # pixels


def decode(data: bytes) -> Image.Image:
    """Decodes a JPEG, PNG or WebP file; the first frame where there are several.

    EXIF orientation is applied, transparency is laid on white, 16-bit samples become 8-bit ones,
    CMYK and palettes become RGB.

    Returns:
        an image of mode RGB.

    Raises:
        ImageError: with stage ``decode``; any bytes yield an image or this.

    Example:
        >>> decode(open("hat.jpg", "rb").read()).size  # doctest: +SKIP
        (400, 533)
    """
    image = open_image(data)
    try:
        if image.format == "PNG":
            image.verify()  # damage to the last rows shows in the checksums only
            image = open_image(data)
        pixels = _jpeg(data) if image.format in ("JPEG", "MPO") else None
        if pixels is None:
            image.load()
        turn = _TURNS.get(orientation(image))
        if pixels is not None:
            image = Image.fromarray(pixels)
            del pixels
        if turn is not None:
            image = image.transpose(turn)
        return _rgb(image)
    except ImageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise ImageError("decode", _reason(error)) from None


def open_image(data: bytes) -> Image.Image:
    """Reads an image's header; its pixels are not decoded yet.

    Raises:
        ImageError: it is no JPEG, PNG or WebP file, or over a limit.
    """
    if len(data) > MAX_BYTES:
        raise ImageError("decode", f"the file has over {MAX_BYTES >> 20} MiB")
    try:
        image = Image.open(io.BytesIO(data), formats=list(FORMATS))
    except Image.DecompressionBombError:
        raise ImageError("decode", f"over {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageError("decode", headers.refusal(data)) from None
    except Exception as error:
        raise ImageError("decode", _reason(error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("decode", f"{image.width} x {image.height} is over {MAX_PIXELS:,} pixels")
    return image


def orientation(image: Image.Image) -> int:
    """How an opened image is turned, as EXIF numbers it, 1 to 8; 1 where it says nothing valid."""
    try:
        found = image.getexif().get(_EXIF_ORIENTATION)
        return int(found) if found in _TURNS else 1
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return 1


def _jpeg(data: bytes) -> npt.NDArray[np.uint8] | None:
    header = headers.jpeg(data)
    if header is None or not header.plain:
        return None
    return jpeg.decode(data, (header.width, header.height))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _by_bands(image, _scaled)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _by_bands(image, _on_white)
    return image.convert("RGB")


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts to RGB some rows at a time: each step of the whole takes 4 bytes a pixel."""
    converted = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(convert(band), (0, top))
    return converted


def _scaled(band: Image.Image) -> Image.Image:
    # Pillow's own conversion cuts 16-bit samples off at 255 instead of scaling them
    samples = np.clip(np.asarray(band).astype(np.int32), 0, 65535)
    return Image.fromarray(((samples + 128) // 257).astype(np.uint8)).convert("RGB")


def _on_white(band: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", band.size, "white")
    return Image.alpha_composite(ground, band.convert("RGBA")).convert("RGB")


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says so in the way of Python, of the system, of Pillow, or of torch."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    # the latter have no class of their own for it
    return any(text in str(error) for text in ("out of memory", "allocate memory"))


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return NO_MEMORY
    return " ".join(str(error).split())[:200] or type(error).__name__
