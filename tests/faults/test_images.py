"""Faults 25 to 36: damaged and hostile images, through the pool that prediction uses.

S: the image is skipped and recorded. OK: it is used. In either case its neighbours, read by the
same process, are what they would be without it.
"""

from __future__ import annotations

import io
import os
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.pool import Limits, Pool, worker
from fashionbatch.specs import Preprocessing
from tests.conftest import encode, pixels
from tests.pipeline.files import Files, chunk, png_header, pooled, resized_header

HOW = Preprocessing(size=32, resize=36, crop_mode="squash")
PHOTO = Image.fromarray(pixels(1, (60, 80)))
JPEG, PNG = encode(PHOTO), encode(PHOTO, "PNG")
GOOD = load(JPEG, HOW)


def skipped(files: Sequence[bytes], limits: Limits | None = None) -> list[str]:
    """S of each file: the reasons. Good images between them come through, in one process."""
    images = Files([JPEG, *(data for file in files for data in (file, JPEG))])
    found, failures = pooled(images, HOW, limits=limits)
    assert sorted(failures) == list(range(1, len(images.files), 2))
    assert (found[::2] == GOOD).all()
    assert len(set(images.read_by.tolist())) == 1  # the worker lives
    return [failures[row] for row in sorted(failures)]


def used(files: Sequence[bytes]) -> np.ndarray:
    """OK of each file: uint8 ``[N, 32, 32, 3]``."""
    found, failures = pooled(Files([*files, JPEG]), HOW)
    assert not failures
    assert (found[-1] == GOOD).all()
    return found[:-1]


def near(image: np.ndarray, colour: Sequence[int] | int) -> bool:
    return bool(np.abs(image.astype(int) - colour).max() <= 3)


def when(marked: bytes, act: Callable[[], Any]) -> Callable[..., np.ndarray]:
    """A decoder that does something with one file, and decodes the others."""

    def decoder(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
        if data == marked:
            act()
        return load(data, preprocessing)

    return decoder


def test_fault_25_zero_bytes_and_web_pages() -> None:
    """Fault 25: an empty file and an error page."""
    reasons = skipped([b"", b"<!doctype html><p>404 not found</p>", bytes(4096)])
    assert reasons == ["the file is empty", *["not a JPEG, PNG or WebP image"] * 2]


def test_fault_26_half_a_jpeg() -> None:
    """Fault 26: half a JPEG, one without its last two bytes, and one that was closed again."""
    large = encode(Image.fromarray(pixels(2, (480, 640))))
    halves = [large[: len(large) // 2], JPEG[:-2], encode(PHOTO, progressive=True)[:-2]]
    assert all("truncated" in reason for reason in skipped(halves))
    assert "premature end" in skipped([halves[0] + b"\xff\xd9"])[0]


def test_fault_27_flipped_bits_in_a_png() -> None:
    """Fault 27: one bit in the pixels of each of 150 PNGs; the process lives."""
    start, end = PNG.index(b"IDAT") + 4, len(PNG) - 16
    random = np.random.default_rng(0)
    damaged = []
    for place in random.integers(start, end, 150).tolist():
        data = bytearray(PNG)
        data[place] ^= 1 << random.integers(8)
        damaged.append(bytes(data))
    skipped(damaged)


def test_fault_28_postscript_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 28: EPS named .jpg is refused without starting Ghostscript."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a program was started")

    for owner, name in ((subprocess, "Popen"), (os, "system"), (os, "posix_spawn")):
        monkeypatch.setattr(owner, name, refuse)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    assert "unsupported format PostScript" in skipped([eps])[0]


def test_fault_29_declared_sizes() -> None:
    """Fault 29: 20,000 x 20,000 in a PNG, 65,500 x 65,500 in a JPEG: refused, no memory taken."""
    files = [png_header(20_000, 20_000), resized_header(JPEG, 65_500, 65_500)]
    assert all("pixels" in reason for reason in skipped(files, Limits(memory=64 << 20)))


def test_fault_30_text_chunk_bomb() -> None:
    """Fault 30: compressed text that unpacks to 200 MiB: refused, no memory taken."""
    bomb = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(200 << 20), 1))
    (reason,) = skipped([PNG[:33] + bomb + PNG[33:]], Limits(memory=150 << 20))
    assert "too large" in reason


def test_fault_31_cmyk_and_ycck_golden_pixels() -> None:
    """Fault 31: inks become the colours that one sees."""
    inks = {  # cyan, magenta, yellow, black -> what one sees
        (0, 0, 0, 0): (255, 255, 255),
        (255, 0, 0, 0): (0, 255, 255),
        (0, 255, 255, 0): (255, 0, 0),
        (0, 0, 0, 255): (0, 0, 0),
        (0, 128, 0, 0): (255, 127, 255),
    }
    cmyk = [encode(Image.new("CMYK", (16, 16), ink), quality=100) for ink in inks]
    ycck = []
    for ink in inks:  # libjpeg-turbo makes YCCK of it, and Adobe's inks are stored inverted
        inverted = np.full((16, 16, 4), 255 - np.array(ink), np.uint8)
        ycck.append(simplejpeg.encode_jpeg(inverted, 100, "CMYK", "444"))
        assert simplejpeg.decode_jpeg_header(ycck[-1])[2] == "YCCK"
    for files in (cmyk, ycck):
        for image, seen in zip(used(files), inks.values(), strict=True):
            assert near(image, seen)


def test_fault_32_depth_and_transparency() -> None:
    """Fault 32: 16 bits are scaled; what is transparent lies on white."""
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    files = [
        encode(Image.fromarray(np.full((4, 4), 32768, np.uint16)), "PNG"),
        encode(palette, "PNG", transparency=1),
        encode(palette, "PNG", transparency=0),
        encode(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), "PNG"),
        encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"),
    ]
    seen = [128, 255, (0, 0, 255), 255, 127]
    assert all(near(image, colour) for image, colour in zip(used(files), seen, strict=True))


def test_fault_33_orientation() -> None:
    """Fault 33: EXIF 6 turns, EXIF 99 does not."""
    half = Image.new("RGB", (32, 32), "white")
    half.paste("black", (0, 0, 16, 32))  # dark on the left; turned clockwise, dark above
    files = []
    for orientation in (6, 99):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files.append(encode(half, exif=exif))
    turned, ignored = used(files)
    assert near(turned[:14], 0) and near(turned[18:], 255)
    assert near(ignored[:, :14], 0) and near(ignored[:, 18:], 255)


def test_fault_34_animations() -> None:
    """Fault 34: the first frame of an animated WebP or PNG; GIF is not read."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    moving = [
        encode(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("WEBP", "PNG")
    ]
    assert all(near(image, (255, 0, 0)) for image in used(moving))
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert "unsupported format GIF" in skipped([gif])[0]


def test_fault_35_other_formats() -> None:
    """Fault 35: HEIC, SVG and AVIF are named and unsupported."""
    files = {
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(64),
        "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    }
    for name, reason in zip(files, skipped(list(files.values())), strict=True):
        assert reason.startswith(f"unsupported format {name}")


def test_fault_36_hanging_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 36: an image that never comes to its end costs the time limit, and itself."""
    hangs = encode(PHOTO, quality=10)
    monkeypatch.setattr(worker, "load", when(hangs, lambda: time.sleep(600)))
    images = Files([JPEG, hangs, JPEG, JPEG, JPEG])
    found, failures = pooled(images, HOW, limits=Limits(seconds=0.5))
    assert failures == {1: "took over 0.5 s"}
    assert (np.delete(found, 1, axis=0) == GOOD).all()
    assert images.reads.tolist() == [1, 1, 1, 1, 1]  # no second try


def test_fault_36_stalled_disk() -> None:
    """Fault 36: the limit holds for reading, too."""
    waiting, _writer = os.pipe()

    class Stalled(Files):
        def read(self, row: int) -> bytes:
            return os.read(waiting, 1) if row == 1 else super().read(row)

    found, failures = pooled(Stalled([JPEG] * 4), HOW, limits=Limits(seconds=0.5))
    os.close(waiting)
    os.close(_writer)
    assert failures == {1: "took over 0.5 s"}
    assert (np.delete(found, 1, axis=0) == GOOD).all()


class OnDisk:
    """The one image of a pool, in a file that is written anew each time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, row: int) -> bytes:
        return self.path.read_bytes()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Pool]]:
    """A file, and a pool over it."""
    path = tmp_path_factory.mktemp("pool") / "image"
    with Pool(OnDisk(path), HOW, batch_size=1, workers=1, limits=Limits()) as opened:
        yield path, opened


@settings(max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(
            st.sampled_from([JPEG, PNG, encode(PHOTO, "WEBP"), encode(PHOTO, progressive=True)]),
            st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
            st.floats(0.02, 1),
        ),
    )
)
def test_any_bytes_yield_an_image_or_a_reason(pool: tuple[Path, Pool], file: Any) -> None:
    """Whatever the bytes: one batch of one row, with an image or a reason of one line."""
    path, opened = pool
    if isinstance(file, tuple):
        valid, flips, keep = file
        changed = bytearray(valid)
        for place, mask in flips:
            changed[int(place * len(changed))] ^= mask
        file = bytes(changed[: int(len(changed) * keep)])
    path.write_bytes(file)
    (loaded,) = opened.batches([np.array([0])])
    if loaded.failures:
        assert loaded.failures[0].reason and "\n" not in str(loaded.failures[0])
        assert not loaded.images.any()
    else:
        assert Image.open(io.BytesIO(file)).size
    loaded.release()
