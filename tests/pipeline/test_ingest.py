"""Preparing for packing: what is checked, and what a resized image is."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fashionbatch.errors import ImageError
from fashionbatch.pipeline import ingest
from fashionbatch.pipeline.decode import decode
from fashionbatch.pipeline.ingest import Ingest

Photo = Callable[..., bytes]
CHECKS = ("decode", "headers", "none")
KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_stay_as_they_are(photo: Photo, check: str, kind: str) -> None:
    """Kind and size are found, except that ``none`` does not look for the size."""
    data = photo(1, (50, 70), kind)
    found = Ingest(check=check)(data)
    assert found.data == data and found.extension == KINDS[kind] and found.original is None
    assert (found.width, found.height) == ((0, 0) if check == "none" else (50, 70))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("data", [b"", b"<!doctype html>", b"GIF89a" + bytes(40), b"RIFF1234WAVE"])
def test_what_is_no_image_is_refused_by_every_check(check: str, data: bytes) -> None:
    """Also when nothing else is looked at."""
    with pytest.raises(ImageError) as caught:
        Ingest(check=check)(data)
    assert caught.value.stage == "decode" and caught.value.reason


def test_checks_differ_in_what_they_see(photo: Photo) -> None:
    """A file cut short is found without decoding it; other damage only by decoding it."""
    whole = photo(0, (200, 200))
    cut = whole[: len(whole) // 2]
    start = whole.index(b"\xff\xc0")
    damaged = whole[: start + 19] + whole[-2:]  # a frame, its end, and no pixels
    for check, data in (("headers", cut), ("decode", cut), ("decode", damaged)):
        with pytest.raises(ImageError):
            Ingest(check=check)(data)
    assert Ingest(check="headers")(damaged).width == 200
    header = b"\xff\xd8\xff\xe0" + bytes(40)
    with pytest.raises(ImageError):
        Ingest(check="headers")(header)
    assert Ingest(check="none")(header).extension == "jpg"


@pytest.mark.parametrize("check", CHECKS)
def test_limits_hold(photo: Photo, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many bytes for every check; too many pixels where these are looked at."""
    data = photo(0, (60, 60), "PNG")
    for module in ("decode", "ingest"):
        monkeypatch.setattr(f"fashionbatch.pipeline.{module}.MAX_PIXELS", 60 * 60 - 1)
    if check == "none":
        assert Ingest(check=check)(data).extension == "png"
    else:
        with pytest.raises(ImageError, match="pixels"):
            Ingest(check=check)(data)
    for module in ("decode", "ingest"):
        monkeypatch.setattr(f"fashionbatch.pipeline.{module}.MAX_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match="MiB"):
        Ingest(check=check)(data)


@given(
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.integers(1, 140),
    st.sampled_from(["shorter", "longer"]),
)
def test_resized_image_has_the_length_asked_for(
    size: tuple[int, int], target: int, side: str
) -> None:
    """The side named, to the pixel; the other in proportion; a smaller image keeps its bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 10, 90)).save(buffer, "PNG")
    data = buffer.getvalue()
    found = Ingest(check="headers", resize=target, side=side)(data)
    length = min(size) if side == "shorter" else max(size)
    made = opened(found.data)
    assert made.size == (found.width, found.height)
    if length <= target:
        assert found.data == data and found.extension == "png" and found.original is None
        assert made.size == size
        return
    assert found.original == size and found.extension == "jpg" and made.format == "JPEG"
    assert (min(made.size) if side == "shorter" else max(made.size)) == target
    for own, new in zip(size, made.size, strict=True):
        assert abs(new - own * target / length) <= 0.5 or new == 1


def test_resized_pixels_are_the_images(photo: Photo) -> None:
    """Close to Pillow's own, and the same bytes each time."""
    data = photo(3, (400, 300))
    once, twice = (Ingest(check="headers", resize=100)(data) for _ in range(2))
    assert once == twice
    expected = decode(data).resize((133, 100), Image.Resampling.LANCZOS)
    difference = np.asarray(expected, np.float64) - np.asarray(opened(once.data), np.float64)
    assert np.abs(difference).mean() < 2


def test_quality_is_the_encoders(photo: Photo) -> None:
    """Less makes less; from 90 on colours are not subsampled."""
    data = photo(3, (400, 300))
    made = {q: Ingest(check="none", resize=100, quality=q)(data).data for q in (30, 89, 90)}
    assert len(made[30]) < len(made[89]) < len(made[90])
    layers = {q: [layer[1:3] for layer in opened(d).layer] for q, d in made.items()}  # type: ignore[attr-defined]  # of its JPEG reader
    assert layers[90][0] == (1, 1) and layers[89][0] == (2, 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_resized_image_is_upright(orientation: int) -> None:
    """EXIF orientation is in the pixels then, and not in the file any more."""
    image = Image.new("RGB", (80, 40), "blue")
    image.paste((255, 0, 0), (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, quality=100, subsampling=0)
    found = Ingest(check="headers", resize=20)(buffer.getvalue())
    made = opened(found.data)
    assert made.size == ((20, 40) if orientation >= 5 else (40, 20))
    assert found.original == ((40, 80) if orientation >= 5 else (80, 40))
    assert made.getexif().get(0x0112, 1) == 1
    upright = decode(buffer.getvalue()).resize(made.size)
    difference = np.asarray(upright, np.float64) - np.asarray(made, np.float64)
    assert np.abs(difference).mean() < 12


def test_damaged_image_is_not_resized(photo: Photo) -> None:
    """Whatever the check: its pixels are needed."""
    whole = photo(0, (200, 200))
    for check in CHECKS:
        with pytest.raises(ImageError):
            Ingest(check=check, resize=50)(whole[: len(whole) // 2])


def test_transparent_and_deep_images_become_jpeg(photo: Photo) -> None:
    """Transparency is laid on white, 16 bits become 8."""
    buffer = io.BytesIO()
    Image.new("RGBA", (60, 60), (0, 0, 0, 0)).save(buffer, "PNG")
    made = opened(Ingest(check="none", resize=20)(buffer.getvalue()).data)
    assert made.mode == "RGB" and np.asarray(made).min() > 250


def test_settings_name_what_decides_about_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder's version too where it makes any."""
    plain = Ingest(check="headers").settings
    resized = Ingest(check="headers", resize=9).settings
    assert plain != Ingest(check="decode").settings
    assert resized != Ingest(check="headers", resize=9, quality=10).settings
    monkeypatch.setattr(ingest.PIL, "__version__", "0.0")
    assert Ingest(check="headers").settings == plain
    assert Ingest(check="headers", resize=9).settings != resized


def test_it_travels_to_workers() -> None:
    """As it is."""
    made = Ingest(check="none", resize=5, side="longer", quality=3)
    assert pickle.loads(pickle.dumps(made)) == made


def test_what_no_jpeg_can_hold_fails_alone(photo: Photo) -> None:
    """Too long a side, or noise that outgrows the encoder's buffer: one image, not the job."""
    with pytest.raises(ImageError, match="more than a JPEG"):
        Ingest(check="headers", resize=64)(photo(0, (70, 80_000), "PNG"))
    noise = np.random.default_rng(0).integers(0, 2, (1400, 1400, 3), np.uint8) * 255
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    made = Ingest(check="headers", resize=1300)(file.getvalue())
    assert (made.width, made.height) == (1300, 1300)
    assert Image.open(io.BytesIO(made.data)).size == (1300, 1300)
