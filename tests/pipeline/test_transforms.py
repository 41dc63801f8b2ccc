"""Fitting to the input's size, and random views."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fashionbatch.pipeline.transforms import augment, fit, placed
from fashionbatch.specs import CROP_MODES, INTERPOLATIONS, Preprocessing
from tests.conftest import pixels


def how(mode: str, size: int = 32, resize: int = 36, **options: object) -> Preprocessing:
    return Preprocessing(size=size, resize=resize, crop_mode=mode, **options)  # type: ignore[arg-type]  # by name


SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


@settings(deadline=None)
@given(SIZES, st.sampled_from(CROP_MODES), st.sampled_from(INTERPOLATIONS), st.integers(1, 40))
def test_any_image_fits(size: tuple[int, int], mode: str, filter: str, side: int) -> None:
    """Whatever the size and mode: uint8 [side, side, 3], and white stays white."""
    image = Image.new("RGB", size, "white")
    found = fit(image, how(mode, side, side + 4, interpolation=filter))
    assert found.shape == (side, side, 3) and found.dtype == np.uint8
    if mode != "border":
        assert (found == 255).all()


@pytest.mark.parametrize("mode", CROP_MODES)
@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (1, 1)])
def test_extreme_shapes_fit(mode: str, size: tuple[int, int]) -> None:
    """A line of pixels costs no gigabytes."""
    assert fit(Image.new("RGB", size, "white"), how(mode)).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("size", "box"), [((64, 32), (8, 0, 24, 32)), ((32, 64), (0, 8, 32, 24)), ((50, 50), None)]
)
def test_border_keeps_the_aspect_on_black(
    size: tuple[int, int], box: tuple[int, int, int, int] | None
) -> None:
    """All of the image is there, with its aspect; the rest is black."""
    found = fit(Image.new("RGB", size, "white"), how("border"))
    inside = np.zeros((32, 32), bool)
    top, left, bottom, right = box or (0, 0, 32, 32)
    inside[top:bottom, left:right] = True
    assert (found[inside] == 255).all() and (found[~inside] == 0).all()


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (36, 36), (300, 211), (20, 30)])
def test_center_is_a_crop_of_a_resize(size: tuple[int, int]) -> None:
    """Within rounding the same as resizing the shorter side and cutting the middle square."""
    image = Image.fromarray(pixels(3, size))
    left, top, width, height = (int(v) for v in placed(size, how("center")))
    assert min(width, height) == 36 and abs(width / height - size[0] / size[1]) < 0.05
    whole = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    expected = whole[-top : 32 - top, -left : 32 - left]
    difference = np.abs(fit(image, how("center")).astype(int) - expected)
    assert difference.max() <= 1
    assert abs(-left - (width - 32) / 2) <= 0.5 and abs(-top - (height - 32) / 2) <= 0.5


def test_center_takes_the_middle() -> None:
    """The middle third of a wide image, none of its ends."""
    image = Image.new("RGB", (96, 32), "red")
    image.paste("lime", (32, 0, 64, 32))
    assert (fit(image, how("center", 32, 32)) == (0, 255, 0)).all()


def test_squash_is_a_plain_resize() -> None:
    """The aspect is given up; nothing is cut."""
    image = Image.fromarray(pixels(4, (70, 40)))
    expected = image.resize((32, 32), Image.Resampling.BILINEAR)
    assert (fit(image, how("squash")) == np.asarray(expected)).all()


@pytest.mark.parametrize("mode", CROP_MODES)
def test_images_of_the_right_size_stay_as_they_are(mode: str) -> None:
    """No resampling where none is needed."""
    image = Image.fromarray(pixels(5, (32, 32)))
    assert (fit(image, how(mode, 32, 32)) == np.asarray(image)).all()


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_shrinking_is_antialiased(filter: str) -> None:
    """A fine checkerboard becomes grey, not stripes."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    image = Image.fromarray(board).convert("RGB")
    for mode in CROP_MODES:
        found = fit(image, how(mode, 32, 32, interpolation=filter))
        assert np.abs(found[2:-2, 2:-2].astype(int) - 127).max() <= 4


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(20, 120), st.integers(20, 120)), st.sampled_from(CROP_MODES))
def test_placed_says_where_fit_puts_the_image(size: tuple[int, int], mode: str) -> None:
    """A mark in the image is found where placed() says."""
    preprocessing = how(mode, 64, 72)
    left, top, width, height = placed(size, preprocessing)
    x, y = size[0] // 2, size[1] // 2
    image = Image.new("RGB", size, (40, 40, 40))
    image.paste((240, 240, 240), (x - 3, y - 3, x + 3, y + 3))
    found = fit(image, preprocessing)[:, :, 0] > 140
    rows, columns = np.nonzero(found)
    assert abs(rows.mean() + 0.5 - (top + y * height / size[1])) < 1
    assert abs(columns.mean() + 0.5 - (left + x * width / size[0])) < 1
    if mode == "border":
        outside = np.ones((64, 64), bool)
        outside[int(top) : int(top + height), int(left) : int(left + width)] = False
        assert (fit(image, preprocessing)[outside] == 0).all()
        assert left >= 0 and top >= 0 and left + width <= 64 and top + height <= 64
    if mode == "center":
        assert left <= 0 and top <= 0 and left + width >= 64 and top + height >= 64


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("kind", ["paper", "flip", "none"])
def test_views_are_repeatable(kind: str, dtype: torch.dtype) -> None:
    """The same generator gives the same views; the shape stays; values stay on the scale."""
    images = torch.from_numpy(pixels(0, (24, 24))).permute(2, 0, 1).repeat(6, 1, 1, 1).to(dtype)
    before = images.clone()
    one, two, other = (
        augment(images, kind, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(one, two) and one.shape == images.shape
    assert torch.equal(images, before)
    assert one.dtype == (torch.float32 if kind == "paper" else dtype)
    assert one.min() >= 0 and one.max() <= 255
    assert torch.equal(one, other) == (kind == "none")


def test_flip_is_exact() -> None:
    """Each image is itself or its mirror image, about half of them each."""
    images = torch.arange(400 * 3 * 2 * 5).view(400, 3, 2, 5).float()
    found = augment(images, "flip", torch.Generator().manual_seed(0))
    flipped = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(found, images, strict=True)])
    assert torch.equal(found[~flipped], images[~flipped])
    assert 150 < int(flipped.sum()) < 250


def test_paper_views_turn_within_limits_and_repeat_edges() -> None:
    """White stays white (edges repeat outwards); the middle of an image stays in it."""
    generator = torch.Generator().manual_seed(1)
    white = torch.full((16, 3, 20, 20), 255, dtype=torch.uint8)
    assert torch.allclose(augment(white, "paper", generator), torch.tensor(255.0))
    spot = torch.zeros(64, 1, 41, 41)
    spot[:, :, 19:22, 19:22] = 1.0
    views = augment(spot, "paper", generator)
    assert (views.sum(dim=(1, 2, 3)) > 0.5).all()
    mirrored = augment(torch.arange(41.0).expand(64, 1, 41, 41), "paper", generator)
    rising = (mirrored[:, 0, 20, 30] > mirrored[:, 0, 20, 10]).float().mean()
    assert 0.2 < rising < 0.8


def test_empty_batch_stays_empty() -> None:
    """A batch whose images all failed has nothing to augment."""
    empty = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    for kind in ("paper", "flip", "none"):
        assert augment(empty, kind, torch.Generator()).shape == (0, 3, 8, 8)


def test_preprocessing_survives_json() -> None:
    """to_json and from_json; another size keeps the ratio."""
    made = how("center", 224, 256, interpolation="bicubic", mean=(0.1, 0.2, 0.3))
    assert Preprocessing.from_json(made.to_json()) == made
    assert made.with_size(112) == dataclasses.replace(made, size=112, resize=128)
