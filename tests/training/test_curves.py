"""curves.png: what is known of a training is drawn, whatever that is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashionbatch.training.curves import best_epoch, save_curves

BLUE, VERMILION, BAND = (0, 114, 178), (213, 94, 0), (235, 235, 235)
CATEGORY = ("top1", "top3", "top5")
ATTRIBUTES = ("attr_recall3", "attr_map")


def history(
    epochs: int, metrics: tuple[str, ...] = CATEGORY, **last: float
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        row: dict[str, Any] = {"epoch": epoch, "lr": 0.1 / epoch}
        for split, add in (("train", 0.0), ("val", 0.3)):
            row[f"{split}_loss"] = 1 / epoch + add
            row |= {f"{split}_{name}": 0.9 - 0.5 / epoch - add for name in metrics}
        rows.append({**row, "seconds": 1.0})
    rows[-1].update(last)
    return rows


def drawn(path: Path, rows: list[dict[str, Any]], **options: Any) -> np.ndarray:
    save_curves(path / "curves.png", rows, "a $title", **options)
    with Image.open(path / "curves.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


@pytest.mark.parametrize(
    ("metrics", "panels"), [(CATEGORY, 3), (ATTRIBUTES, 3), ((*CATEGORY, *ATTRIBUTES), 4), ((), 2)]
)
def test_a_panel_for_what_is_known(tmp_path: Path, metrics: tuple[str, ...], panels: int) -> None:
    """Loss, accuracies, attributes and rate, each of them where its columns are."""
    picture = drawn(tmp_path, history(3, metrics))
    assert picture.shape[1] == 440 * panels
    panel = picture.shape[1] // panels
    for place in range(panels - 1):  # training and validation are in one plot
        part = picture[:, place * panel : (place + 1) * panel]
        assert count(part, BLUE) > 50
        assert count(part, VERMILION) > 50
    assert count(picture[:, -panel + 40 :], (0, 0, 0)) > 50


@pytest.mark.parametrize("epochs", [1, 2, 100])
def test_any_number_of_epochs(tmp_path: Path, epochs: int) -> None:
    """One epoch is a dot, a hundred are a line."""
    picture = drawn(tmp_path, history(epochs), best_epoch=1, freeze_epochs=1)
    # the area of the first plot, left of its legend
    assert count(picture[60:370, 60:280], BLUE) > 15
    assert count(picture[60:370, 60:280], VERMILION) > 15


def test_column_of_one_split_only(tmp_path: Path) -> None:
    """What is computed in validation only is drawn all the same."""
    rows = [{k: v for k, v in r.items() if k != "train_attr_map"} for r in history(3, ATTRIBUTES)]
    assert drawn(tmp_path, rows).shape[1] == 440 * 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_show(tmp_path: Path, value: float) -> None:
    """They leave a cross in their colour at the foot, and the others where they are."""
    foot = (slice(340, 372), slice(40, 430))
    before = drawn(tmp_path, history(9))
    after = drawn(tmp_path, history(9, val_loss=value))
    assert count(after[foot], VERMILION) > count(before[foot], VERMILION) + 5
    every = drawn(tmp_path, [{**r, "val_loss": value, "train_loss": value} for r in history(3)])
    assert count(every[foot], BLUE) > 5
    assert count(every[foot], VERMILION) > 5


def test_loss_of_very_different_sizes(tmp_path: Path) -> None:
    """After a first loss of 1,000 the later ones still differ: they are not all in one row."""
    rows = history(9)
    rows[0]["train_loss"] = 1000.0
    blue = (drawn(tmp_path, rows)[60:370, 120:280] == BLUE).all(axis=2)
    used = np.flatnonzero(blue.any(axis=1))
    assert used.max() - used.min() > 20


def test_frozen_epochs_and_best_epoch_are_marked(tmp_path: Path) -> None:
    """A band over the frozen epochs, which grows with them; a line at the best epoch."""
    plain = drawn(tmp_path, history(10))
    one, four = (drawn(tmp_path, history(10), freeze_epochs=n) for n in (1, 4))
    assert count(plain, BAND) < 200
    assert 3 * count(one, BAND) < count(four, BAND)
    whole = drawn(tmp_path, history(10), freeze_epochs=10)  # nothing was unfrozen: no border
    assert count(whole, BAND) < 200
    third, eighth = (drawn(tmp_path, history(10), best_epoch=n) for n in (3, 8))
    assert (third != eighth).any()
    assert (plain != third).any()


def test_best_epoch_is_that_of_the_lowest_finite_loss() -> None:
    """The first of several, none of none, and whatever is not finite is not it."""
    losses = [3.0, math.nan, 1.0, math.inf, 1.0, 2.0]
    history = [{"epoch": n, "val_loss": v} for n, v in enumerate(losses, 1)]
    assert best_epoch(history) == 3
    assert best_epoch(history[1:2]) == 0
    assert best_epoch([{"epoch": 1.0}]) == 0
