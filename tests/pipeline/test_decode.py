"""Any bytes become an upright RGB image or a recorded reason (faults 25-35)."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fashionbatch.errors import ImageError
from fashionbatch.pipeline import decode as module
from fashionbatch.pipeline.decode import decode
from fashionbatch.pipeline.ingest import Ingest
from fashionbatch.shards.pack import Prepared
from tests.conftest import encode, pixels
from tests.pipeline.files import chunk, png_header, resized_header

Photo = Callable[..., bytes]

PHOTO = Image.fromarray(pixels(1))
VALID = {
    "jpg": encode(PHOTO),
    "png": encode(PHOTO, "PNG"),
    "webp": encode(PHOTO, "WEBP"),
    "palette": encode(PHOTO.quantize(16), "PNG", transparency=3),
    "progressive": encode(PHOTO, progressive=True),
}


def inspect(data: bytes, how: str) -> Prepared:
    return Ingest(check=how)(data)


def array(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def refused(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.stage == "decode" and caught.value.reason
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageError):
        inspect(data, "decode")
    return caught.value


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_plain_photographs(kind: str) -> None:
    """Pixels are the encoder's; inspect names the format and size."""
    found = array(VALID[kind])
    assert found.shape == (64, 48, 3)
    limit = 0 if kind == "png" else 4
    assert np.abs(found.astype(int) - pixels(1)).mean() <= limit
    info = inspect(VALID[kind], "decode")
    assert (info.extension, info.width, info.height) == (kind, 48, 64)
    assert inspect(VALID[kind], "headers") == info
    assert inspect(VALID[kind], "none").extension == kind


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0" * 4096, b"<!doctype html><p>404 not found</p>", b"\xff\xd8\xff"],
    ids=["empty", "zero", "zeros", "html", "marker"],
)
def test_fault_25_no_image(data: bytes) -> None:
    """Fault 25: zero bytes and web pages."""
    refused(data)


def test_fault_26_half_a_jpeg() -> None:
    """Fault 26: a JPEG cut anywhere, be it by its last two bytes, is not painted grey."""
    for kind in ("jpg", "progressive"):
        data = VALID[kind]
        for end in (len(data) // 2, len(data) * 9 // 10, len(data) - 2, len(data) - 1):
            refused(data[:end])


def test_fault_26_missing_pixels_before_an_end_marker() -> None:
    """Fault 26: the decoder's warnings count; an end marker behind half a JPEG hides nothing."""
    large = Image.fromarray(pixels(1, (480, 640)))
    for progressive in (False, True):
        data = encode(large, progressive=progressive)
        reason = refused(data[: len(data) // 2] + b"\xff\xd9").reason
        assert reason == "Corrupt JPEG data: premature end of data segment"
    restarts = encode(PHOTO, restart_marker_blocks=1)
    assert "instead of RST" in refused(restarts.replace(b"\xff\xd3", b"\xff\xd5", 1)).reason


def test_harmless_warnings_are_ignored() -> None:
    """What the decoder warns of, such as stray bytes in front of the end, but no pixel needs."""
    data = VALID["jpg"]
    for end in (b"stray\xff\xd9", b"\xff\xd9 and a trailer"):
        assert (array(data[:-2] + end) == array(data)).all()


def test_fault_26_half_a_png_or_webp() -> None:
    """Fault 26, for the other formats."""
    for kind in ("png", "webp"):
        refused(VALID[kind][: len(VALID[kind]) // 2])


def test_fault_27_flipped_bits_in_a_png() -> None:
    """Fault 27: flips in the pixels' chunk are found by its checksum; the process lives."""
    data = VALID["png"]
    start = data.index(b"IDAT") + 4
    last_rows = range(len(data) - 120, len(data) - 12)  # there the decoder itself sees nothing
    for position in (*range(start, len(data) - 120, 97), *last_rows):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        refused(bytes(damaged))


def test_fault_28_postscript_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 28: EPS named .jpg is refused without starting Ghostscript."""

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    assert "not a JPEG, PNG or WebP" in refused(eps).reason


@pytest.mark.parametrize("size", [(20_000, 20_000), (11_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_fault_29_huge_png_header(size: tuple[int, int]) -> None:
    """Fault 29: the declared size is refused before memory is taken."""
    assert "pixels" in refused(png_header(*size)).reason
    with pytest.raises(ImageError):
        inspect(png_header(*size), "headers")


def test_fault_29_huge_jpeg_header() -> None:
    """Fault 29: 65500 x 65500 in a JPEG's header."""
    assert "pixels" in refused(resized_header(VALID["jpg"], 65500, 65500)).reason


def test_fault_29_limits_are_of_pixels_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit an image is taken, above it not."""
    monkeypatch.setattr(module, "MAX_PIXELS", 48 * 64)
    decode(VALID["png"])
    monkeypatch.setattr(module, "MAX_PIXELS", 48 * 64 - 1)
    refused(VALID["png"])
    monkeypatch.undo()
    monkeypatch.setattr(module, "MAX_BYTES", len(VALID["png"]) - 1)
    assert "MiB" in refused(VALID["png"]).reason


def test_fault_30_text_chunk_bomb() -> None:
    """Fault 30: compressed text that unpacks to 200 MiB is refused."""
    bomb = b"x\0\0" + zlib.compress(bytes(200 << 20), 9)
    data = VALID["png"]
    refused(data[:33] + chunk(b"zTXt", bomb) + data[33:])


def test_fault_31_cmyk_golden_pixels() -> None:
    """Fault 31: a CMYK JPEG has the colours that it should."""
    inks = {  # cyan, magenta, yellow, black -> what one sees
        (0, 0, 0, 0): (255, 255, 255),
        (255, 0, 0, 0): (0, 255, 255),
        (0, 255, 255, 0): (255, 0, 0),
        (0, 0, 0, 255): (0, 0, 0),
    }
    for ink, seen in inks.items():
        found = array(encode(Image.new("CMYK", (16, 16), ink), quality=100))
        assert np.abs(found.astype(int) - seen).max() <= 3


def test_fault_31_grey_and_one_bit() -> None:
    """Grey and black-and-white become RGB with equal channels."""
    grey = Image.new("L", (8, 8), 90)
    assert (array(encode(grey, "PNG")) == 90).all()
    assert np.abs(array(encode(grey)).astype(int) - 90).max() <= 1
    assert (array(encode(Image.new("1", (8, 8), 1), "PNG")) == 255).all()


def test_fault_32_sixteen_bits_are_scaled() -> None:
    """Fault 32: 16-bit grey is divided by 257, not cut off at 255."""
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    found = array(encode(Image.fromarray(values), "PNG"))
    assert found[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_every_sixteen_bit_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 65536 values are rounded to the nearest, in bands of any height."""
    values = np.arange(1 << 16, dtype=np.uint16).reshape(64, 1024)
    expected = np.rint(values / 257).astype(np.uint8)
    for band in (1 << 20, 5 * 1024, 1):
        monkeypatch.setattr(module, "_BAND", band)
        found = array(encode(Image.fromarray(values), "PNG"))
        assert (found == expected[..., None]).all()


def test_bands_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is laid on white in bands is what Pillow makes of the whole image."""
    samples = np.random.default_rng(3).integers(0, 256, (37, 41, 4), np.uint8)
    image = Image.fromarray(samples)
    ground = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(ground, image).convert("RGB"))
    palette = image.convert("RGB").quantize(16)
    for band in (1 << 20, 4 * 41, 1):
        monkeypatch.setattr(module, "_BAND", band)
        assert (array(encode(image, "PNG")) == expected).all()
        found = array(encode(palette, "PNG", transparency=3))
        clear = np.asarray(palette) == 3
        assert (found[clear] == 255).all()
        assert (found[~clear] == np.asarray(palette.convert("RGB"))[~clear]).all()


PEAK = """
import re, sys
from fashionbatch.pipeline.decode import decode

def peak():
    # not getrusage: that counts the parent's memory before exec
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

decode(open(sys.argv[1], "rb").read())
before = peak()
assert decode(open(sys.argv[2], "rb").read()).size == (5000, 5000)
print(peak() - before)
"""


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA"])
def test_memory_of_large_images(tmp_path: Path, mode: str) -> None:
    """Decoding and turning an image takes no more than twice Pillow's four bytes per pixel."""
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [tmp_path / "small.png", tmp_path / "large.png"]
    for path, side in zip(paths, (10, 5000), strict=True):
        Image.new(mode, (side, side)).save(path, exif=exif, compress_level=1)
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, check=True)
    assert int(done.stdout) * 1024 < 5000 * 5000 * 10


def test_fault_32_transparency_lies_on_white() -> None:
    """Fault 32: RGBA, grey with alpha and a transparent palette are laid on white."""
    for mode, colour in (("RGBA", (10, 20, 30)), ("LA", (50,))):
        clear = encode(Image.new(mode, (4, 4), (*colour, 0)), "PNG")
        assert (array(clear) == 255).all()
        solid = array(encode(Image.new(mode, (4, 4), (*colour, 255)), "PNG"))
        assert (solid == colour).all()
    half = array(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert np.abs(half.astype(int) - 127).max() <= 1
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    found = array(encode(palette, "PNG", transparency=1))
    assert found[0, 0].tolist() == [255, 0, 0] and (found[1:] == 255).all()
    webp = encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "WEBP", lossless=True)
    assert (array(webp) == 255).all()


def test_fault_32_transparent_colour_of_rgb() -> None:
    """Fault 32: an RGB image whose one colour is declared transparent."""
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    image.putpixel((0, 0), (9, 9, 9))
    found = array(encode(image, "PNG", transparency=(1, 2, 3)))
    assert found[0, 0].tolist() == [9, 9, 9] and (found[1:] == 255).all()


@pytest.mark.parametrize("orientation", range(0, 10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_fault_33_orientation_is_applied(orientation: int, kind: str) -> None:
    """Fault 33: EXIF 2 to 8 turn and mirror; others, such as 99, are ignored."""
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :8] = 255  # the mark is at the top left
    exif = Image.Exif()
    exif[0x0112] = 99 if orientation == 9 else orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = array(encode(Image.fromarray(corner), kind, exif=exif, **options)) > 128
    upright = {
        2: corner[:, ::-1],
        3: corner[::-1, ::-1],
        4: corner[::-1],
        5: corner.transpose(1, 0, 2),
        6: np.rot90(corner, -1),
        7: np.rot90(corner.transpose(1, 0, 2), 2),
        8: np.rot90(corner),
    }.get(orientation, corner)
    assert found.shape == upright.shape
    assert (found == (upright > 128)).mean() > 0.98


def test_fault_33_damaged_exif_keeps_the_pixels() -> None:
    """Fault 33: an EXIF block of garbage does not cost the image."""
    for garbage in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    ):
        assert array(encode(PHOTO, exif=garbage)).shape == (64, 48, 3)


def test_fault_34_animations() -> None:
    """Fault 34: of an animated WebP or PNG the first frame; GIF is not read."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (array(data) == (255, 0, 0)).all()
    refused(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def test_fault_34_jpeg_of_several_pictures() -> None:
    """Fault 34: a phone's multi-picture JPEG (MPO) is packed as a JPEG, first picture."""
    data = encode(PHOTO, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert array(data).shape == (64, 48, 3)
    for how in ("decode", "headers", "none"):
        assert inspect(data, how).extension == "jpg"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64,
        b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + b"\0" * 64,
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        encode(PHOTO, "BMP"),
        encode(PHOTO, "TIFF"),
        encode(PHOTO, "PPM"),
    ],
    ids=["heic", "avif", "svg", "bmp", "tiff", "ppm"],
)
def test_fault_35_other_formats(data: bytes) -> None:
    """Fault 35: what is not JPEG, PNG or WebP says so, at each level of checking."""
    assert "not a JPEG, PNG or WebP" in refused(data).reason
    for how in ("headers", "none"):
        with pytest.raises(ImageError, match="not a JPEG, PNG or WebP"):
            inspect(data, how)


@given(st.binary(max_size=200))
def test_random_bytes_raise_image_errors_only(data: bytes) -> None:
    """Any bytes yield an image or an ImageError."""
    for prefix in (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 "):
        for action in (decode, lambda d: inspect(d, "headers"), lambda d: inspect(d, "none")):
            try:
                action(prefix + data)
            except ImageError as error:
                assert error.stage == "decode"


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    st.floats(0.02, 1),
)
def test_damaged_images_raise_image_errors_only(
    kind: str, flips: list[tuple[float, int]], keep: float
) -> None:
    """A damaged or cut photograph yields an RGB image or an ImageError; nothing else."""
    data = bytearray(VALID[kind])
    for place, mask in flips:
        data[int(place * len(data))] ^= mask
    try:
        assert decode(bytes(data[: int(len(data) * keep)])).mode == "RGB"
    except ImageError as error:
        assert error.stage == "decode"


def test_pillows_lenient_setting_is_off() -> None:
    """LOAD_TRUNCATED_IMAGES would paint missing parts grey."""
    from PIL import ImageFile

    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert PngImagePlugin.MAX_TEXT_MEMORY <= 64 << 20


def test_real_photographs_decode(clothing: Any) -> None:
    """Twenty photographs of the clothing data set."""
    for path in sorted((clothing / "validation").rglob("*.jpg"))[::17][:20]:
        data = path.read_bytes()
        info = inspect(data, "headers")
        with Image.open(io.BytesIO(data)) as image:
            assert (info.width, info.height) == image.size
        assert decode(data).mode == "RGB"
