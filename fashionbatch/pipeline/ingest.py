"""What happens to an image before it is packed: looked at, and made smaller if that is wished."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

import PIL
from PIL import Image, features

from fashionbatch.errors import ImageError
from fashionbatch.pipeline import headers
from fashionbatch.pipeline.decode import EXTENSIONS, MAX_BYTES, MAX_PIXELS, decode, open_image
from fashionbatch.shards.pack import Prepared

_MOST_JPEG = 65_500  # pixels of a side, as libjpeg has it


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Prepares images for packing; called with a file's bytes, in worker processes.

    Attributes:
        check: ``decode`` decodes it whole; ``headers`` reads kind and size and looks whether the
            file is complete, and decodes it only where that is not certain; ``none`` only looks at
            the first bytes.
        resize: length in pixels of the side ``side`` that a larger image gets; smaller ones, and
            all without it, keep their bytes.
        side: ``shorter`` or ``longer``.
        quality: of the JPEG that a resized image becomes, 1 to 100, without chroma subsampling
            from 90 on.
    """

    check: str
    resize: int | None = None
    side: str = "shorter"
    quality: int = 92

    def __call__(self, data: bytes) -> Prepared:
        """Prepares one image.

        Raises:
            ImageError: it cannot be used.
        """
        if self.resize is not None:
            return self._resized(data, self.resize)
        if self.check == "none":
            return Prepared(data=data, extension=_kind(data))
        if self.check == "headers":
            found = headers.look(data)
            sound = found and found[1] * found[2] <= MAX_PIXELS and len(data) <= MAX_BYTES
            if found and sound and headers.is_whole(data):
                return Prepared(data, *found)
        image = open_image(data)
        decode(data)
        return Prepared(
            data=data,
            extension=EXTENSIONS[str(image.format)],
            width=image.width,
            height=image.height,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides about the bytes; with the decoder's version where pixels are made anew."""
        settings = asdict(self)
        if self.resize is not None:
            jpeg = features.version("libjpeg_turbo") or features.version("jpg")
            settings["encoder"] = f"Pillow {PIL.__version__}, JPEG library {jpeg}"
        return settings

    @property
    def pixels(self) -> dict[str, Any] | None:
        """What is done to the pixels; ``None`` where they stay as they are."""
        if self.resize is None:
            return None
        return {"resize": self.resize, "resize_side": self.side, "quality": self.quality}

    def _resized(self, data: bytes, target: int) -> Prepared:
        opened = open_image(data)
        extension = EXTENSIONS[str(opened.format)]
        image = decode(data)
        choose = min if self.side == "shorter" else max
        factor = target / choose(image.size)
        if factor >= 1:
            return Prepared(
                data=data, extension=extension, width=opened.width, height=opened.height
            )
        width, height = (max(1, round(length * factor)) for length in image.size)
        if max(width, height) > _MOST_JPEG:
            raise ImageError("resize", f"{width} x {height} is more than a JPEG can have")
        small = image.resize((width, height), Image.Resampling.LANCZOS)
        return Prepared(
            data=self._encoded(small),
            extension="jpg",
            width=width,
            height=height,
            original=image.size,
        )

    def _encoded(self, image: Image.Image) -> bytes:
        sampling = 0 if self.quality >= 90 else 2
        for optimize in (True, False):  # Pillow's buffer for the first is too small for mere noise
            file = io.BytesIO()
            try:
                image.save(
                    file, "JPEG", quality=self.quality, subsampling=sampling, optimize=optimize
                )
                return file.getvalue()
            except OSError as error:
                failure = error
        raise ImageError("resize", f"it cannot be written as JPEG ({failure})")


def _kind(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise ImageError("decode", f"the file has over {MAX_BYTES >> 20} MiB")
    found = headers.sniff(data)
    if found is None:
        raise ImageError("decode", headers.refusal(data))
    return found
