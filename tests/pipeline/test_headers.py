"""Kind and size from the first bytes: what Pillow says, or nothing."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from fashionbatch.pipeline.headers import Jpeg, is_whole, jpeg, look, sniff

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))


def encoded(size: tuple[int, int], mode: str, kind: str, **options: Any) -> bytes:
    width, height = size
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 4), np.uint8)
    image = Image.fromarray(noise, "RGBA").convert("RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


def exif(thumbnail: bytes) -> bytes:
    """With an orientation and a thumbnail, which is a JPEG file within the file."""
    made = Image.Exif()
    made[0x0112] = 6
    head = made.tobytes()
    return head + thumbnail


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    thumbnail = encoded((8, 6), "RGB", "JPEG")
    options: dict[str, Any] = {
        "progressive": draw(st.booleans()),
        "quality": draw(st.integers(1, 100)),
        "optimize": draw(st.booleans()),
    }
    mode = draw(st.sampled_from(["RGB", "L", "CMYK"]))
    if draw(st.booleans()):
        options["exif"] = exif(thumbnail)
    if draw(st.booleans()):
        options["icc_profile"] = draw(st.binary(min_size=1, max_size=70_000))
    if draw(st.booleans()):
        options["restart_marker_blocks"] = draw(st.integers(1, 5))
    if draw(st.booleans()):
        options["comment"] = thumbnail
    if mode == "RGB":
        options["subsampling"] = draw(st.sampled_from([0, 1, 2]))
    return encoded(draw(SIZES), mode, "JPEG", **options)


@given(jpegs())
def test_jpeg_is_what_pillow_says(data: bytes) -> None:
    """Baseline, progressive, grey, CMYK, with EXIF, profile, comment, thumbnail, restarts."""
    assert look(data) == ("jpg", *by_pillow(data))
    assert sniff(data) == "jpg"


@given(SIZES, st.sampled_from(["RGB", "L", "RGBA", "LA", "P", "1", "I;16"]), st.booleans())
def test_png_is_what_pillow_says(size: tuple[int, int], mode: str, profile: bool) -> None:
    """Of every mode."""
    options = {"icc_profile": b"a profile"} if profile else {}
    if mode == "I;16":
        buffer = io.BytesIO()
        Image.new("I;16", size).save(buffer, "PNG")
        data = buffer.getvalue()
    else:
        data = encoded(size, mode, "PNG", **options)
    assert look(data) == ("png", *by_pillow(data))
    assert sniff(data) == "png"


@given(jpegs(), st.integers(1, 6))
def test_fill_bytes_are_passed_over(data: bytes, count: int) -> None:
    """Any number of 0xFF may stand before a marker (T.81, B.1.1.2)."""
    filled = data[:2] + b"\xff" * count + data[2:]
    assert look(filled) == look(data)


def test_webp_is_left_to_pillow() -> None:
    """Its kind is known, its size is not."""
    data = encoded((20, 30), "RGB", "WEBP")
    assert sniff(data) == "webp" and look(data) is None


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
@example(b"", b"\xff\xd8\xff")
@example(b"\x00\x00\x00\rIHDR", b"\x89PNG\r\n\x1a\n")
def test_any_bytes_yield_an_answer(data: bytes, start: bytes) -> None:
    """Never an exception, never no end."""
    found = look(start + data)
    assert found is None or (found[1] > 0 and found[2] > 0)
    sniff(start + data)
    is_whole(start + data)


@given(jpegs(), st.data())
def test_damaged_files_yield_an_answer(data: bytes, draw: st.DataObject) -> None:
    """Bytes changed or cut off: a size, which Pillow shares if it opens the file, or none."""
    mutated = bytearray(data[: draw.draw(st.integers(0, len(data)))])
    for _ in range(draw.draw(st.integers(0, 4))):
        if mutated:
            place = draw.draw(st.integers(0, min(len(mutated), 700) - 1))
            mutated[place] = draw.draw(st.integers(0, 255))
    look(bytes(mutated))
    is_whole(bytes(mutated))


@given(jpegs(), SIZES, st.data())
def test_whole_is_what_is_not_cut(jpeg: bytes, size: tuple[int, int], draw: st.DataObject) -> None:
    """Every file of Pillow's is; a PNG that was cut, went on or has another byte is not."""
    png = encoded(size, "RGB", "PNG")
    assert is_whole(jpeg) and is_whole(png)
    cut = draw.draw(st.integers(0, len(png) - 1))
    assert not is_whole(png[:cut]) and not is_whole(png + b"x")
    damaged = bytearray(png)
    damaged[cut] ^= draw.draw(st.integers(1, 255))
    assert not is_whole(bytes(damaged))
    assert not is_whole(jpeg[:-1]) and not is_whole(jpeg[: len(jpeg) - len(jpeg) // 3] + b"\0")
    assert not is_whole(encoded(size, "RGB", "WEBP"))


@given(jpegs())
def test_cut_before_the_frame_is_not_certain(data: bytes) -> None:
    """Where the size is not in the bytes none is made up."""
    found = look(data)
    assert found is not None
    frame = data.index(struct.pack(">BHH", 8, found[2], found[1]))
    assert look(data[: frame + 4]) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xc0\x00\x11\x0c\x00\x10\x00\x10\x03",  # 12 bits
        b"\xff\xc0\x00\x11\x08\x00\x00\x00\x10\x03",  # height 0: comes later, in DNL
        b"\xff\xc0\x00\x11\x08\x00\x10\x00\x00\x03",
        b"\xff\xc0\x00\x0e\x08\x00\x10\x00\x10\x02",  # two components
        b"\xff\xc0\x00\x12\x08\x00\x10\x00\x10\x03",  # a length that does not fit
        b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00",  # image data without a frame
        b"\x00\xc0\x00\x11\x08\x00\x10\x00\x10\x03",  # no marker
    ],
)
def test_frame_out_of_the_ordinary_is_not_certain(frame: bytes) -> None:
    """Pillow decides."""
    good = b"\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03"
    assert look(b"\xff\xd8" + good + bytes(20)) == ("jpg", 16, 16)
    assert look(b"\xff\xd8" + frame + bytes(20)) is None


@pytest.mark.parametrize("size", [(0, 4), (4, 0)])
def test_png_without_pixels_is_not_certain(size: tuple[int, int]) -> None:
    """Pillow says what is wrong with it."""
    data = bytearray(encoded((4, 4), "RGB", "PNG"))
    struct.pack_into(">II", data, 16, *size)
    assert look(bytes(data)) is None


@given(jpegs())
def test_jpeg_headers_say_what_pillow_says(data: bytes) -> None:
    """Size, colours and whether EXIF is there; of a header that was cut, nothing."""
    image = Image.open(io.BytesIO(data))
    assert jpeg(data) == Jpeg(*image.size, image.mode != "CMYK", "exif" in image.info)
    scan = max(i for i in range(len(data)) if data.startswith(b"\xff\xda", i))
    for end in range(0, min(scan, 700), 13):
        found = jpeg(data[:end])
        assert found is None or found == jpeg(data)


def test_only_plain_jpegs_are_plain() -> None:
    """Lossless and arithmetic coding are not; two frame headers are nothing certain."""
    data = encoded((20, 10), "RGB", "JPEG")
    frame = data.index(b"\xff\xc0")
    for marker in range(0xC1, 0xD0):
        changed = bytearray(data)
        changed[frame + 1] = marker
        found = jpeg(bytes(changed))
        if marker in (0xC4, 0xC8, 0xCC):
            assert found is None
        else:
            assert found == Jpeg(20, 10, marker in (0xC1, 0xC2), False)
    header = data[frame : frame + 19]
    assert jpeg(data[:frame] + header + data[frame:]) is None
