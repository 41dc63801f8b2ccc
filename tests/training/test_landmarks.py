"""Landmarks lie in the network's input where the photograph shows them."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fashionbatch import api
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.pipeline.batches import Order, batches
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.transforms import view_matrices
from fashionbatch.registry import Component
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.specs import Preprocessing, RegularizerSpec
from fashionbatch.training import components
from fashionbatch.training.landmarks import Landmarks
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.targets import Targets
from tests.sources.deepfashion_tree import (
    CATEGORY_TYPES,
    LANDMARKS,
    SPLITS,
    images,
    write_tree,
)

SIDE = 64
#: an upper, a lower and a full one, with 6, 4 and 8 landmarks, and the photographs of each
LABELS = (1, 21, 37)
SIZES = ((48, 64), (90, 60), (64, 64))
TURNED = 6  # EXIF: stored lying, to be turned clockwise
SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


@pytest.fixture(scope="module")
def dotted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Black photographs of several shapes with a white dot each, at the only visible landmark."""
    folder = tmp_path_factory.mktemp("dotted")
    random = np.random.default_rng(0)
    shown = []
    for number, image in enumerate(images(1, width=4)[:18]):
        label, (width, height) = LABELS[number % 3], SIZES[number % 3]
        # in the middle, so that a centre crop and most views show it
        x, y = (int(length * random.uniform(0.35, 0.65)) for length in (width, height))
        others = [
            (1, 3, 4),
            (2, 0, 0),
            (0, width + 2, 5),
            (1, 5, 5),
            (1, 6, 6),
            (1, 7, 7),
            (1, 8, 8),
        ]
        marks = [(0, x, y), *others][: LANDMARKS[CATEGORY_TYPES[label - 1]]]
        split = SPLITS[number // 3 % 3]
        shown.append(dataclasses.replace(image, label=label, split=split, landmarks=tuple(marks)))

    def photo(number: int, size: tuple[int, int]) -> bytes:
        width, height = SIZES[number % 3]
        pixels = np.zeros((height, width, 3), np.uint8)
        _, x, y = shown[number].landmarks[0]
        pixels[y - 2 : y + 3, x - 2 : x + 3] = 255
        file, exif = io.BytesIO(), Image.Exif()
        picture = Image.fromarray(pixels)
        if number % 2:
            exif[0x0112] = TURNED
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        picture.save(file, "JPEG", quality=95, exif=exif)
        return file.getvalue()

    write_tree(folder / "catalog", photo=photo, shown=shown)
    api.shard(folder / "catalog", output=folder / "shards")
    with open_shards(folder / "shards") as shards:
        yield shards


def centre(image: np.ndarray) -> tuple[float, float]:
    """Of what is white in ``[height, width]``, from 0 to 1 across and down."""
    weight = np.where(image > 60, image, 0).astype(np.float64)
    places = (np.arange(len(image)) + 0.5) / len(image)
    across, down = weight.sum(axis=0) @ places, weight.sum(axis=1) @ places
    return across / weight.sum(), down / weight.sum()


@pytest.mark.parametrize("crop_mode", ["letterbox", "center", "squash"])
def test_dots_are_where_landmarks_say(dotted: ShardSet, crop_mode: Any) -> None:
    """Also in photographs that lie on their side in the file."""
    fitted = Preprocessing(size=SIDE, resize=72, crop_mode=crop_mode)
    rows = np.arange(len(dotted))
    points = Landmarks(dotted, fitted)(rows)
    assert points.shape == (len(rows), 8, 3) and points.dtype == torch.float32
    for row in rows.tolist():
        image = load(dotted.read(row), fitted)
        assert points[row, 0, 0] == 0
        assert points[row, 0, 1:].tolist() == pytest.approx(centre(image[:, :, 0]), abs=0.01)


def test_only_what_is_seen_is_visible(dotted: ShardSet) -> None:
    """One outside of the photograph, cropped away, or not there at all, is cut off."""
    rows = np.arange(len(dotted))
    points = Landmarks(dotted, Preprocessing(size=SIDE, resize=SIDE))(rows)
    assert (points[:, 0, 0] == 0).all()
    assert (points[:, 1, 0] == 1).all()
    assert (points[:, 2:4, 0] == 2).all()  # stated so, and beside the photograph
    assert {tuple(p[:, 0].tolist()) for p in points} == {
        (0, 1, 2, 2, 1, 1, 1, 1), (0, 1, 2, 2, 1, 1, 2, 2), (0, 1, 2, 2, 2, 2, 2, 2),
    }  # fmt: skip
    cropped = Landmarks(dotted, Preprocessing(size=32, resize=SIDE, crop_mode="center"))(rows)
    assert (cropped[:, 1, 0] == 2).all()


@pytest.mark.parametrize("augment", ["none", "flip", "paper"])
def test_dots_move_with_random_views(dotted: ShardSet, augment: str) -> None:
    fitted = Preprocessing(size=SIDE, resize=SIDE)
    rows = np.arange(len(dotted))
    order = Order(batches=[rows[:7], rows[7:]], augment=augment, seed=(3, 1))
    landmarks = Landmarks(dotted, fitted)
    seen, moved = 0, 0.0
    for batch in batches(dotted, order, fitted, workers=0):
        views = view_matrices(len(batch.rows), augment, order.generator(batch.number))
        points = landmarks(batch.rows, views)
        moved += float((points - landmarks(batch.rows)).abs().sum())
        for image, point in zip(batch.images.numpy(), points, strict=True):
            if point[0, 0] != 0 or not (point[0, 1:] > 0.1).all() or not (point[0, 1:] < 0.9).all():
                continue  # at the border, whose pixels repeat outwards
            seen += 1
            assert point[0, 1:].tolist() == pytest.approx(centre(image[0]), abs=0.015)
    assert seen > 9
    assert (moved > 1) == (augment != "none")


class Spy(Regularizer):
    """Keeps the targets that penalties get."""

    def __init__(self) -> None:
        self.seen: list[Targets] = []
        spies.append(self)

    def penalty(self, head: Any, outputs: Any, targets: Targets) -> None:
        assert len(outputs.logits) == len(targets)
        self.seen.append(targets)


spies: list[Spy] = []


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch, dotted: ShardSet, tmp_path: Path) -> Callable[..., Spy]:
    """``spied(needs, **options)`` trains with a spy on the dots."""

    def train(needs: bool, **options: Any) -> Spy:
        spec = RegularizerSpec(name="ema", factory=Spy, summary="", needs_landmarks=needs)
        spy = Component(kind="regularizer", spec=spec, provider="test", version="0")
        find = components.registry.find
        monkeypatch.setattr(
            components.registry,
            "find",
            lambda kind, name: spy if kind == "regularizer" else find(kind, name),
        )
        values = {
            "data": dotted.path, "backbone": "small-resnet", "weights": "none", "epochs": 1,
            "batch_size": 6, "workers": 0, "device": "cpu", "output": tmp_path, "augment": "none",
            "regularizer": ("ema",),
        }  # fmt: skip
        api.train(**{**values, **options})
        return spies[-1]

    return train


def test_training_hands_them_over(spied: Callable[..., Spy], dotted: ShardSet) -> None:
    """In pieces, of the same items as the outputs, in any way of training; and not unasked."""
    for options in ({"micro_batch": 2}, {"prefix_cache": True, "unfreeze": "blocks:1"}):
        found = [t.landmarks for t in spied(True, **options).seen]
        fitted = Preprocessing(size=28, resize=28)
        expected = Landmarks(dotted, fitted)(dotted.select("train"))[:, 0]
        rows = torch.cat([f[:, 0] for f in found if f is not None])
        assert sorted(rows.tolist()) == sorted(expected.tolist())
    assert all(t.landmarks is None for t in spied(False).seen)


def test_what_cannot_be_followed_is_refused(spied: Callable[..., Spy]) -> None:
    with pytest.raises(UsageError, match="--augment rand moves landmarks nobody knows where"):
        spied(True, augment="rand")
    with pytest.raises(UsageError, match="--prefix-cache does not keep where"):
        spied(True, augment="flip", prefix_cache=True, unfreeze="blocks:1")
    with pytest.raises(UsageError, match="has no landmarks to train with"):
        spied(True, data=SAMPLE)


def test_damaged_json_is_named(dotted: ShardSet, tmp_path: Path) -> None:
    for file in dotted.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tar = tmp_path / "train-000000.tar"
    with tarfile.open(tar) as opened:
        member = next(m for m in opened if m.name.endswith(".json"))
    data = bytearray(tar.read_bytes())
    data[member.offset_data] = ord("x")
    tar.write_bytes(bytes(data))
    with (
        open_shards(tmp_path) as shards,
        pytest.raises(SourceError, match=r"the JSON of .* is damaged"),
    ):
        Landmarks(shards, Preprocessing())(shards.select("train"))
