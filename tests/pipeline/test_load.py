"""Straight to the size needed: the pixels of decode and fit, or the same reason why not."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fashionbatch.errors import ImageError
from fashionbatch.pipeline import load as module
from fashionbatch.pipeline.decode import decode
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.transforms import fit
from fashionbatch.specs import CROP_MODES, Preprocessing
from tests.conftest import encode, pixels
from tests.pipeline.files import resized_header

PHOTO = Image.fromarray(pixels(1))
SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def how(mode: str, size: int = 32, resize: int = 36, **options: object) -> Preprocessing:
    return Preprocessing(size=size, resize=resize, crop_mode=mode, **options)  # type: ignore[arg-type]  # by name


def apart(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Grey levels between load and the plain way."""
    found, expected = load(data, preprocessing), fit(decode(data), preprocessing)
    assert found.shape == expected.shape and found.dtype == np.uint8
    return np.abs(found.astype(int) - expected)


@pytest.fixture
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks Pillow to decode fails."""

    def refuse(data: bytes) -> Image.Image:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(module, "decode", refuse)


@settings(max_examples=150)
@given(
    SIZES,
    st.sampled_from(CROP_MODES),
    st.sampled_from(("bilinear", "bicubic")),
    st.integers(30, 90),
    st.sampled_from(("RGB", "L")),
    st.fixed_dictionaries(
        {
            "subsampling": st.sampled_from((0, 1, 2)),
            "progressive": st.booleans(),
            "restart_marker_blocks": st.integers(0, 3),
        }
    ),
    st.integers(0, 9),
)
@example((60, 1), "center", "bilinear", 40, "RGB", {}, 6)
def test_whole_jpegs_are_the_plain_ways(
    size: tuple[int, int],
    mode: str,
    filter: str,
    side: int,
    colours: str,
    options: dict[str, int],
    orientation: int,
) -> None:
    """Any size, shape, kind and orientation of a JPEG that is not reduced: within rounding."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels(sum(size), size)).convert(colours)
    difference = apart(
        encode(image, exif=exif, **options), how(mode, side, side + 4, interpolation=filter)
    )
    assert difference.max() <= 2 and difference.mean() < 0.5


@pytest.mark.parametrize("mode", CROP_MODES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_jpegs_look_the_same(mode: str, orientation: int, without_pillow: None) -> None:
    """Decoded at a half, a quarter or an eighth, turned or not: nearly the same."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size in ((160, 131), (299, 400), (800, 603)):
        waves = np.indices(size[::-1])[:, :, :, None] * (0.05, 0.07, 0.11)
        image = Image.fromarray((np.sin(waves).sum(0) * 60 + 127).astype(np.uint8))
        data = encode(image, exif=exif, quality=95)
        found = load(data, how(mode)).astype(int)
        expected = fit(decode(data), how(mode))
        assert np.abs(found - expected).mean() < 1


def test_reductions_leave_twice_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large photograph is decoded small, never to less than twice what it becomes."""
    sizes: list[tuple[int, int]] = []
    original = simplejpeg.decode_jpeg

    def spy(*arguments: object, **options: object) -> np.ndarray:
        found: np.ndarray = original(*arguments, **options)
        sizes.append(found.shape[1::-1])
        return found

    monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
    for width, height in ((640, 500), (639, 500), (320, 250), (128, 64), (127, 64), (64, 64)):
        load(encode(Image.new("RGB", (width, height))), how("letterbox", 32))
    assert sizes == [(80, 63), (80, 63), (80, 63), (64, 32), (64, 32), (64, 64)]


@pytest.mark.parametrize("mode", CROP_MODES)
def test_extreme_shapes_fit(mode: str) -> None:
    """A line of pixels costs no gigabytes."""
    for size in ((60_000, 1), (1, 60_000), (1, 1)):
        assert load(encode(Image.new("RGB", size, "white")), how(mode)).shape == (32, 32, 3)


def test_panoramas_are_cropped_before_they_are_resized(without_pillow: None) -> None:
    """Resized whole, the centre crop of 60,000 x 2 pixels would take a gigabyte at 224."""
    with pytest.raises(AssertionError, match="Pillow"):
        load(encode(Image.new("RGB", (60_000, 2))), how("center", 224, 256))
    load(encode(Image.new("RGB", (60_000, 2))), how("letterbox", 224, 256))


def test_nearest_is_the_plain_ways() -> None:
    """Libraries differ about which pixel is nearest."""
    assert not apart(encode(PHOTO), how("squash", interpolation="nearest")).any()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_kinds_are_the_plain_ways(kind: str) -> None:
    """PNG and WebP come from Pillow."""
    assert not apart(encode(PHOTO, kind), how("letterbox")).any()
    assert not apart(encode(PHOTO.convert("CMYK")), how("letterbox")).any()


def test_ordinary_jpegs_do_not_need_pillow(without_pillow: None) -> None:
    """Colour, grey, progressive, turned, with a trailer: all by the fast way."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (
        encode(PHOTO),
        encode(PHOTO.convert("L")),
        encode(PHOTO, progressive=True),
        encode(PHOTO, exif=exif),
        encode(PHOTO) + b"trailer",
    ):
        load(data, how("letterbox"))
    with pytest.raises(AssertionError):
        load(encode(PHOTO, "PNG"), how("letterbox"))


def test_orientation_behind_the_frame_header_counts() -> None:
    """EXIF may stand anywhere in front of the image data."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(PHOTO)
    block = exif.tobytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    scan = data.index(b"\xff\xda")
    late = data[:scan] + segment + data[scan:]
    assert (load(late, how("letterbox")) == load(encode(PHOTO, exif=exif), how("letterbox"))).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        encode(PHOTO)[:-2],
        encode(PHOTO)[:700],
        encode(PHOTO)[:-100] + b"\xff\xd9",
        resized_header(encode(PHOTO), 65500, 65500),
        encode(PHOTO, "PNG")[:300],
        encode(PHOTO, "GIF"),
    ],
    ids=["empty", "marker", "end", "half", "fake-end", "huge", "half-png", "gif"],
)
def test_reasons_are_the_plain_ways(data: bytes) -> None:
    """What cannot be used fails with the same words, whoever decodes."""
    with pytest.raises(ImageError) as plain:
        decode(data)
    with pytest.raises(ImageError) as caught:
        load(data, how("letterbox"))
    assert str(caught.value) == str(plain.value)


def test_files_over_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits hold on the fast way, too."""
    from fashionbatch.pipeline import decode as plain

    data = encode(PHOTO)
    for limit, value in (("MAX_PIXELS", 48 * 64), ("MAX_BYTES", len(data))):
        for place in (module, plain):
            monkeypatch.setattr(place, limit, value)
        load(data, how("letterbox"))
        for place in (module, plain):
            monkeypatch.setattr(place, limit, value - 1)
        with pytest.raises(ImageError):
            load(data, how("letterbox"))
        monkeypatch.undo()


@settings(max_examples=300)
@given(
    st.sampled_from([encode(PHOTO), encode(PHOTO, progressive=True), encode(PHOTO, "WEBP")]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    st.floats(0.02, 1),
)
def test_damaged_images_are_the_plain_ways(
    data: bytes, flips: list[tuple[float, int]], keep: float
) -> None:
    """Damaged or cut: the plain way's pixels within rounding, or an ImageError where it has one."""
    changed = bytearray(data)
    for place, mask in flips:
        changed[int(place * len(changed))] ^= mask
    damaged = bytes(changed[: int(len(changed) * keep)])
    try:
        expected = fit(decode(damaged), how("squash", 64))
    except ImageError:
        with pytest.raises(ImageError):
            load(damaged, how("squash", 64))
        return
    found = load(damaged, how("squash", 64))
    if Image.open(io.BytesIO(damaged)).width < 128:  # decoded whole
        assert np.abs(found.astype(int) - expected).max() <= 2


@given(st.binary(max_size=200))
def test_random_bytes_raise_image_errors_only(data: bytes) -> None:
    """Any bytes yield an image or an ImageError."""
    for prefix in (b"", b"\xff\xd8\xff\xe0", encode(PHOTO)[:600], b"\x89PNG\r\n\x1a\n"):
        try:
            assert load(prefix + data, how("center")).shape == (32, 32, 3)
        except ImageError as error:
            assert error.stage == "decode"


def test_real_photographs(clothing: Path) -> None:
    """Whole within a grey level; reduced, on average about one."""
    for path in sorted((clothing / "validation").rglob("*.jpg"))[::25][:12]:
        data = path.read_bytes()
        for mode in CROP_MODES:
            assert apart(data, how(mode, 224, 256)).max() <= 2
            assert apart(data, how(mode, 64, 73)).mean() < 3


#: in a process of its own, which has no memory left over from other images; prints the failures
SCARCE = """
import sys
from pathlib import Path
import numpy as np
from fashionbatch.pipeline.pool import Limits, Pool
from fashionbatch.specs import Preprocessing

class Images:
    def read(self, row):
        return np.zeros(1 << 28, np.uint8) if row else Path(path).read_bytes()

for path, side in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    how, limits = Preprocessing(size=side, crop_mode="squash"), Limits(memory=40 << 20)
    with Pool(Images(), how, batch_size=2, workers=1, limits=limits, ahead=1) as pool:
        loaded = next(pool.batches([np.arange(2)]))
    print(*(loaded.failures[place] for place in range(2)), sep="; ")
"""


def test_memory_runs_out_where_it_does(tmp_path: Path) -> None:
    """The stage is that of the step: reading, decoding a large image, or enlarging a small one."""
    arguments: list[str] = []
    for kind, side in (("PNG", 8), ("JPEG", 3000)):
        for size, fitted in (((6000, 6000), side), ((9, 7), 4096)):
            path = tmp_path / f"{size[0]}.{kind}"
            path.write_bytes(encode(Image.new("RGB", size, "white"), kind))
            arguments += [str(path), str(fitted)]
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, *arguments], capture_output=True, text=True, check=True
    )
    over = "took over 40 MiB of memory"
    assert done.stdout.splitlines() == [
        f"{stage}: {over}; read: {over}" for stage in ("decode", "transform") * 2
    ]
