"""Kind, size and completeness of an image without decoding it, many times faster than that.

Only what every well-made file has is understood here; for anything else the caller asks Pillow.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

#: JPEG markers of a frame header (ITU-T T.81, table B.1): all SOF but DHT, JPG and DAC
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive, by Huffman's codes
_SCAN = 0xDA  # image data follows
_APP1 = 0xE1  # EXIF and XMP
#: first bytes of images that are not read
_OTHERS = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
}
#: brands of the ISO base media file format (ISO/IEC 14496-12); AVIF may name HEIC's as well
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}
_PROLOGUE = 4096  # bytes in which an SVG file names its root
_PNG = b"\x89PNG\r\n\x1a\n"


def sniff(data: bytes) -> str | None:
    """``jpg``, ``png`` or ``webp`` by the first bytes, or ``None``."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(_PNG):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return None


def refusal(data: bytes) -> str:
    """Why a file that is none of the kinds that are read is refused; names the kind it is.

    Example:
        >>> refusal(b"GIF89a...")
        'unsupported format GIF: not a JPEG, PNG or WebP image'
    """
    if not data:
        return "the file is empty"
    name = _other(data)
    return (f"unsupported format {name}: " if name else "") + "not a JPEG, PNG or WebP image"


def _other(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        brands = data[8 : min(64, int.from_bytes(data[:4], "big"))]
        return next((name for brand, name in _BRANDS.items() if brand in brands), None)
    text = data[:_PROLOGUE].lstrip()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "SVG"
    return next((name for start, name in _OTHERS.items() if data.startswith(start)), None)


def look(data: bytes) -> tuple[str, int, int] | None:
    """Kind, width and height of a JPEG or PNG file, or ``None`` where that is not certain.

    Example:
        >>> look(open("hat.jpg", "rb").read())  # doctest: +SKIP
        ('jpg', 400, 533)
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 33:
        width, height = struct.unpack_from(">II", data, 16)
        return ("png", width, height) if width and height else None
    return None


def is_whole(data: bytes) -> bool:
    """Whether a JPEG or PNG file certainly comes to its end: none that was cut short does.

    A JPEG has its end marker last; all chunks of a PNG fit their checksums, up to the last one.
    False also stands for "not certain".
    """
    if data.startswith(b"\xff\xd8\xff"):
        return data.endswith(b"\xff\xd9")
    return data.startswith(_PNG) and _png_is_whole(data)


def _png_is_whole(data: bytes) -> bool:
    view = memoryview(data)
    place = len(_PNG)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        place = end + 4
        if kind == b"IEND":
            return place == len(data)
    return False


_frame = struct.Struct(">HBHHB").unpack_from
_segment = struct.Struct(">BBH").unpack_from


class Jpeg(NamedTuple):
    """What the segments in front of a JPEG's image data say.

    Attributes:
        width: in pixels, as stored.
        height: likewise.
        plain: Huffman-coded, baseline or progressive, grey or of three colours: what every decoder
            of JPEGs reads in the same way.
        tagged: it has EXIF or XMP, which may turn it.
    """

    width: int
    height: int
    plain: bool
    tagged: bool


def jpeg(data: bytes) -> Jpeg | None:
    """What a JPEG's header says, or ``None`` where that is not certain.

    Example:
        >>> jpeg(open("hat.jpg", "rb").read())  # doctest: +SKIP
        Jpeg(width=400, height=533, plain=True, tagged=False)
    """
    size: tuple[int, int] | None = None
    plain = tagged = False
    for marker, place in _segments(data):
        if marker in _FRAMES:
            if size is not None:
                return None
            size, parts = _size(data, place)
            plain = marker in _PLAIN and parts != 4
        elif marker == _SCAN:
            return Jpeg(*size, plain, tagged) if size is not None else None
        tagged = tagged or marker == _APP1
    return None


def _jpeg(data: bytes) -> tuple[str, int, int] | None:
    for marker, place in _segments(data):
        if marker in _FRAMES:
            size, _ = _size(data, place)
            return ("jpg", *size) if size is not None else None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment with a length, up to the first of image data."""
    place, end = 2, len(data) - 9
    while place < end:
        first, marker, length = _segment(data, place)
        if first != 0xFF:
            return
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker < 0xC0 or 0xD0 <= marker < _SCAN:  # no segment with a length
            return
        yield marker, place + 2
        if marker == _SCAN:
            return
        place += 2 + length


def _size(data: bytes, place: int) -> tuple[tuple[int, int] | None, int]:
    """Width and height, where they are certain, and the number of components."""
    length, bits, height, width, parts = _frame(data, place)
    sound = bits == 8 and width and height and parts in (1, 3, 4) and length == 8 + 3 * parts
    return (width, height) if sound else None, parts
