"""Fitting to the input's size, and random views."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from fashionbatch.pipeline.transforms import _paper_views, augment, fit, placed
from fashionbatch.specs import CROP_MODES, INTERPOLATIONS, Preprocessing
from tests.conftest import pixels


def how(mode: str, size: int = 32, resize: int = 36, **options: object) -> Preprocessing:
    return Preprocessing(size=size, resize=resize, crop_mode=mode, **options)  # type: ignore[arg-type]  # by name


SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


@given(SIZES, st.sampled_from(CROP_MODES), st.sampled_from(INTERPOLATIONS), st.integers(1, 40))
def test_any_image_fits(size: tuple[int, int], mode: str, filter: str, side: int) -> None:
    """Whatever the size and mode: uint8 [side, side, 3], and white stays white."""
    image = Image.new("RGB", size, "white")
    found = fit(image, how(mode, side, side + 4, interpolation=filter))
    assert found.shape == (side, side, 3) and found.dtype == np.uint8
    if mode != "letterbox":
        assert (found == 255).all()


@pytest.mark.parametrize("size", [(31, 32), (32, 31), (32, 32)])
def test_images_that_need_a_border_only_get_it(size: tuple[int, int]) -> None:
    """One pixel short of the input on one side, and of its length on the other."""
    found = fit(Image.new("RGB", size, "white"), how("letterbox"))
    assert found.shape == (32, 32, 3) and (found == 255).sum() == size[0] * size[1] * 3


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
    found = fit(Image.new("RGB", size, "white"), how("letterbox"))
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


@settings(max_examples=60)
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
    if mode == "letterbox":
        outside = np.ones((64, 64), bool)
        outside[int(top) : int(top + height), int(left) : int(left + width)] = False
        assert (fit(image, preprocessing)[outside] == 0).all()
        assert left >= 0 and top >= 0 and left + width <= 64 and top + height <= 64
    if mode == "center":
        assert left <= 0 and top <= 0 and left + width >= 64 and top + height >= 64


KINDS = ("paper", "flip", "trivial", "rand", "none")


def views(kind: str, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return augment(images, kind, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_repeatable(kind: str) -> None:
    """The generator alone decides; images, their layout and everyone else's draws stay."""
    images = torch.from_numpy(np.stack([pixels(0, (24, 24))] * 12)).permute(0, 3, 1, 2)
    before, state = images.clone(), torch.get_rng_state()
    one, other = views(kind, images, 3), views(kind, images, 4)
    torch.rand(5)
    assert torch.equal(one, views(kind, images, 3))
    torch.set_rng_state(state)
    views(kind, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    assert one.shape == images.shape and one.dtype == torch.uint8
    assert one.stride() == images.stride()
    assert torch.equal(one, other) == (kind == "none")
    assert len({v.numpy().tobytes() for v in one}) > (0 if kind == "none" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_generator_goes_on(kind: str) -> None:
    """A second batch from the same generator gets other views, from draws of its own."""
    images = torch.from_numpy(np.stack([pixels(0, (24, 24))] * 12)).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(0)
    first, second = (augment(images, kind, generator) for _ in range(2))
    assert torch.equal(first, second) == (kind == "none")
    flips = torch.Generator().manual_seed(0)
    torch.rand(24, generator=flips)
    only = torch.equal(flips.get_state(), generator.get_state())
    assert only == (kind == "flip")


@pytest.mark.parametrize("kind", ["flip", "trivial", "rand"])
def test_half_is_flipped(kind: str) -> None:
    """Each image is itself or its mirror image, about half of them each."""
    image = torch.arange(40, dtype=torch.uint8) * 6
    found = views(kind, image.expand(150, 3, 40, 40)).float()
    mean = found.mean(dim=(1, 2))
    rising = (mean[:, 28:36].sum(1) > mean[:, 4:12].sum(1)).float().mean()
    assert 0.3 < rising < 0.7
    if kind == "flip":
        exact = (found == image).all(dim=(1, 2, 3)) | (found == image.flip(0)).all(dim=(1, 2, 3))
        assert exact.all()


@pytest.mark.parametrize("kind", ["trivial", "rand"])
def test_policies_keep_some_and_change_most(kind: str) -> None:
    """Geometry and colour: most views differ from the image and from its mirror image."""
    image = torch.from_numpy(pixels(1, (24, 24))).permute(2, 0, 1)
    found = views(kind, image.expand(60, 3, 24, 24))
    same = [torch.equal(v, image) or torch.equal(v, image.flip(2)) for v in found]
    assert sum(same) < 30
    assert len({v.numpy().tobytes() for v in found}) > 30


def test_white_stays_white_in_the_papers_views() -> None:
    """Edges repeat outwards: nothing black comes in."""
    white = torch.full((64, 3, 20, 20), 255, dtype=torch.uint8)
    assert (views("paper", white) == 255).all()


def test_papers_views_turn_zoom_and_shift_within_limits() -> None:
    """Up to the paper's limits and not beyond, in both directions.

    The image holds its own coordinates, so a view tells where each of its pixels comes from.
    """
    side = 101
    across = (torch.arange(side) * 2).to(torch.uint8)
    image = torch.stack([across.expand(side, side), across[:, None].expand(side, side)])
    found = views("paper", torch.cat([image, image[:1]])[None].expand(300, 3, side, side)).float()
    x, y = found[:, 0] / 2 - 50, found[:, 1] / 2 - 50  # where each pixel comes from
    # the columns of the matrix, by differences over 30 pixels far from edges that repeat
    a, c = ((v[:, 50, 65] - v[:, 50, 35]) / 30 for v in (x, y))
    b, d = ((v[:, 65, 50] - v[:, 35, 50]) / 30 for v in (x, y))
    shift_x, shift_y = x[:, 50, 50], y[:, 50, 50]
    turned = torch.rad2deg(torch.atan2(-b, d))  # the second column is not flipped
    assert 27 < turned.abs().max() < 32 and 12 < turned.abs().mean() < 18
    zoom_x, zoom_y = torch.hypot(a, c), torch.hypot(b, d)
    for zoom in (zoom_x, zoom_y):
        assert 0.77 < zoom.min() < 0.83 and 1.17 < zoom.max() < 1.23
        assert zoom.mean().item() == pytest.approx(1, abs=0.02)
    assert (zoom_x - zoom_y).abs().max() > 0.2  # each its own
    # rotated as Keras does: the shift's length is at most 0.2 · √2 of the size
    length = torch.hypot(shift_x, shift_y)
    assert 0.24 * side < length.max() < 0.2 * 2**0.5 * side + 1
    assert shift_x.mean().abs() < 2 and shift_y.mean().abs() < 2
    flipped = (a * d - b * c) < 0
    assert 0.4 < flipped.float().mean() < 0.6
    # right angles stay right but for a fifth of a degree of shear
    upright = (a * b + c * d) / (zoom_x * zoom_y)
    assert upright.abs().max() < 0.06


def test_papers_views_are_keras_matrices() -> None:
    """Rotation · shift · shear · zoom · flip, factor by factor."""
    flip = torch.tensor([False, True])
    found = _paper_views(2, flip, torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(0)

    def uniform(limit: float) -> list[float]:
        return ((torch.rand(2, generator=generator) * 2 - 1) * limit).tolist()

    drawn = zip(
        uniform(30), uniform(0.2), uniform(0.2), uniform(0.2), uniform(0.4), uniform(0.4),
        [1, -1], found, strict=True,
    )  # fmt: skip
    for angle, shear, zoom_x, zoom_y, shift_x, shift_y, mirror, matrix in drawn:
        t, s = np.deg2rad(angle), np.deg2rad(shear)
        rotation = np.array([[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]])
        shift = np.array([[1, 0, shift_x], [0, 1, shift_y], [0, 0, 1]])
        shearing = np.array([[1, -np.sin(s), 0], [0, np.cos(s), 0], [0, 0, 1]])
        zoom = np.diag([1 + zoom_x, 1 + zoom_y, 1])
        expected = rotation @ shift @ shearing @ zoom @ np.diag([mirror, 1, 1])
        assert np.allclose(matrix.numpy(), expected[:2], atol=1e-6)


def test_papers_views_are_grid_samples() -> None:
    """Against torch's own grid, on the batch as a whole."""
    images = torch.from_numpy(np.stack([pixels(n, (30, 30)) for n in range(5)])).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(7)
    flip = torch.rand(5, generator=generator) < 0.5
    grid = functional.affine_grid(
        _paper_views(5, flip, generator), [5, 3, 30, 30], align_corners=False
    )
    whole = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    assert (views("paper", images, 7).float() - whole).abs().max() <= 0.51


def test_empty_batch_stays_empty() -> None:
    """A batch whose images all failed has nothing to augment."""
    empty = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    for kind in KINDS:
        assert augment(empty, kind, torch.Generator()).shape == (0, 3, 8, 8)


def test_preprocessing_survives_json() -> None:
    """to_json and from_json; another size keeps the ratio."""
    made = how("center", 224, 256, interpolation="bicubic", mean=(0.1, 0.2, 0.3))
    assert Preprocessing.from_json(made.to_json()) == made
    assert made.with_size(112) == dataclasses.replace(made, size=112, resize=128)
