"""Selections: how many of what, which ones, and the same ones wherever they are made."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.shards.index import priorities
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.select import SPLITS, Selection, assign, choose
from fashionbatch.sources import Item

Write = Callable[..., Manifest]
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}

# label, split and group of each item
ROWS = st.lists(
    st.tuples(st.integers(-1, 3), st.integers(-1, 2), st.integers(0, 6)), min_size=1, max_size=60
)
SELECTIONS = st.builds(
    Selection,
    fraction=st.sampled_from([1.0, 0.5, 0.3, 0.07, 0.001]),
    per_class=st.none() | st.integers(1, 8),
    limit_per_split=st.dictionaries(st.sampled_from(SPLITS), st.integers(1, 10)),
    seed=st.integers(0, 3),
)


def drawn(count: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    return np.array([priorities(b"%d" % n, seed)[0] for n in range(count)], np.uint64)


def columns(rows: list[tuple[int, int, int]]) -> tuple[Any, Any, Any]:
    label, split, group = zip(*rows, strict=True)
    return np.array(label, np.int32), np.array(split, np.int8), np.array(group, np.uint64)


def chosen_of(selection: Selection, rows: list[tuple[int, int, int]], order: list[int]) -> set[int]:
    """The items chosen from a catalogue in another order."""
    label, split, _ = columns(rows)
    priority = drawn(len(rows), selection.seed)[order]
    rows_of = choose(
        selection, label=label[order], split=split[order], priority=lambda r: priority[r]
    )
    assert rows_of.tolist() == sorted(set(rows_of.tolist()))
    return {order[row] for row in rows_of.tolist()}


@given(ROWS, SELECTIONS, st.randoms(use_true_random=False))
def test_choice_has_its_size_and_does_not_depend_on_the_order(
    rows: list[tuple[int, int, int]], selection: Selection, random: Any
) -> None:
    """Rounded up for each class in each split; the cap holds in training; then the limits."""
    order = list(range(len(rows)))
    chosen = chosen_of(selection, rows, order)
    cells = Counter((c, s) for c, s, _ in rows)
    most = {
        (c, s): min(
            math.ceil(round(count * selection.fraction, 9)),
            selection.per_class if selection.per_class and s in (-1, 0) else count,
        )
        for (c, s), count in cells.items()
    }
    kept = Counter((rows[row][0], rows[row][1]) for row in chosen)
    for split in (-1, 0, 1, 2):
        before = sum(n for (_, s), n in most.items() if s == split)
        limit = selection.limit_per_split.get(SPLITS[split], before) if split >= 0 else before
        assert sum(n for (_, s), n in kept.items() if s == split) == min(before, limit)
        if before <= limit:
            assert all(kept[cell] == most[cell] for cell in most if cell[1] == split)
    random.shuffle(order)
    assert chosen_of(selection, rows, order) == chosen


@given(ROWS, st.sampled_from([SHARES, {"train": 0.5, "test": 0.5}]), st.booleans(), st.randoms())
def test_split_loses_nothing_and_does_not_depend_on_the_order(
    rows: list[tuple[int, int, int]], shares: dict[str, float], grouped: bool, random: Any
) -> None:
    """With groups or without: each item in one split; a group in one; a class is trained."""
    label, _, group = columns(rows)
    priority = drawn(len(rows))
    split = assign(shares, label=label, group=group if grouped else None, priority=priority)
    assert {SPLITS[s] for s in split.tolist()} <= set(shares)
    if grouped:
        for number in set(group.tolist()) - {0}:
            assert len(set(split[group == number].tolist())) == 1
    else:
        for number in set(label.tolist()):
            mine = split[label == number]
            assert (mine == 0).any()
            assert abs((mine == 0).sum() - shares["train"] * len(mine)) <= 1
    order = np.array(random.sample(range(len(rows)), len(rows)))
    again = assign(
        shares,
        label=label[order],
        group=group[order] if grouped else None,
        priority=priority[order],
    )
    assert (again == split[order]).all()


def test_split_is_stratified_to_the_nearest_item() -> None:
    """Each class has its share in every split."""
    label = np.repeat([0, 1, 2], [100, 50, 10]).astype(np.int32)
    split = assign(SHARES, label=label, group=None, priority=drawn(160))
    counts = [np.bincount(split[label == c], minlength=3).tolist() for c in range(3)]
    assert counts == [[80, 10, 10], [40, 5, 5], [8, 1, 1]]
    other = assign(SHARES, label=label, group=None, priority=drawn(160, seed=1))
    assert (other != split).any()


def test_groups_meet_the_shares_nearly() -> None:
    """Products of one to five photographs, three classes: within 2 % of each share, each class."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 6, 600)
    group = np.repeat(np.arange(1, 601), sizes).astype(np.uint64)
    label = np.repeat(random.integers(0, 3, 600), sizes).astype(np.int32)
    split = assign(SHARES, label=label, group=group, priority=drawn(len(group)))
    for number in range(3):
        mine = np.bincount(split[label == number], minlength=3) / (label == number).sum()
        assert np.abs(mine - list(SHARES.values())).max() < 0.02


def catalogue(counts: dict[str, tuple[int, int]]) -> list[Item]:
    """``{"hat": (20, 5)}`` → 20 items to train on, 5 to test on."""
    return [
        Item(name=f"{s}/{c}/{n}", data=f"{s}/{c}/{n}".encode(), label=c, split=s)
        for c, both in counts.items()
        for s, count in zip(("train", "test"), both, strict=True)
        for n in range(count)
    ]


ITEMS = catalogue({"coat": (30, 12), "hat": (20, 5), "skirt": (9, 3)})
TYPES = {"coat": "upper", "hat": "head", "skirt": "lower"}
WAYS = [
    Selection(per_class=6),
    Selection(fraction=0.3, seed=5),
    Selection(limit_per_split={"test": 10}),
    Selection(classes=("hat", "coat")),
    Selection(category_type=("lower", "head")),
    Selection(classes=("hat",), fraction=0.5, per_class=3, limit_per_split={"test": 2}, seed=1),
]


@pytest.mark.parametrize("selection", WAYS, ids=str)
def test_packing_and_reading_choose_the_same(
    write: Write, tmp_path: Path, selection: Selection
) -> None:
    """What a selection packs is what it chooses from the whole data set, in any order."""
    write(ITEMS, "whole", types=TYPES)
    write(ITEMS[::-1], "part", types=TYPES, selection=selection)
    whole, part = open_shards(tmp_path / "whole"), open_shards(tmp_path / "part")
    for split in ("train", "test"):
        rows = whole.select(split, selection)
        mine = part.select(split)
        assert {whole.name(r) for r in rows.tolist()} == {part.name(r) for r in mine.tolist()}
    assert 0 < len(part) < len(whole)
    restricted = whole.restricted(selection)
    assert restricted.classes == part.classes
    assert restricted.manifest.class_types == part.manifest.class_types
    names = {part.name(r): int(part.labels[r]) for r in range(len(part))}
    for row in whole.select(None, selection).tolist():
        assert names[whole.name(row)] == restricted.labels[row]
        assert part.classes[names[whole.name(row)]] == whole.name(row).split("/")[1]


def test_per_class_caps_training_only(write: Write) -> None:
    """The paper's 600: test images stay as they are."""
    manifest = write(ITEMS, selection=Selection(per_class=10))
    assert manifest.splits == {"train": 10 + 10 + 9, "test": 20}
    assert manifest.classes == ("coat", "hat", "skirt")


def test_capped_splits_can_be_others(write: Write, tmp_path: Path) -> None:
    """A reader says where the cap holds."""
    write(ITEMS)
    shards = open_shards(tmp_path / "set")
    assert len(shards.select("test", Selection(per_class=2))) == 20
    assert len(shards.select("test", Selection(per_class=2), capped=("test",))) == 6


def test_selected_rows_alone_are_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read for each image, of its bytes and no others."""
    write(ITEMS)
    shards = open_shards(tmp_path / "set")
    rows = shards.select("train", Selection(per_class=3))
    ranges: list[tuple[int, int]] = []
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        ranges.append((offset, size))
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    for row in rows.tolist():
        assert shards.read(row).decode() == shards.name(row)
    index = shards.index
    assert ranges == [(int(index.offset[r]), int(index.size[r])) for r in rows.tolist()]
    assert len(ranges) == 9


def test_unknown_class_or_type_is_refused(write: Write, tmp_path: Path) -> None:
    """When packing and when reading alike; the nearest name is suggested."""
    write(ITEMS, "typed", types=TYPES)
    shards = open_shards(tmp_path / "typed")
    for bad, kind, words in (
        (Selection(classes=("haat",)), UnknownNameError, "did you mean 'hat'"),
        (Selection(category_type=("uper",)), UnknownNameError, "did you mean 'upper'"),
        (Selection(classes=("hat",), category_type=("lower",)), UsageError, "drop one"),
    ):
        with pytest.raises(kind, match=words):
            shards.select(None, bad)
        with pytest.raises(kind, match=words):
            shards.restricted(bad)
        with pytest.raises(kind, match=words):
            write(ITEMS, types=TYPES, selection=bad)
    with pytest.raises(UsageError, match="have no types"):
        write(ITEMS, selection=Selection(category_type=("upper",)))
    assert not (tmp_path / "set").exists()


def test_unlabelled_items_go_with_a_choice_of_classes(write: Write, tmp_path: Path) -> None:
    """They stay where nothing is said of classes, and count as one more class."""
    items = [*ITEMS, *(Item(name=f"x{n}", data=b"%d" % n, split="train") for n in range(10))]
    write(items)
    shards = open_shards(tmp_path / "set")
    chosen = shards.select("train", Selection(per_class=4))
    assert Counter(shards.labels[chosen].tolist()) == {0: 4, 1: 4, 2: 4, -1: 4}
    assert set(shards.labels[shards.select("train", Selection(classes=("hat",)))]) == {1}
    assert -1 not in shards.labels[shards.select(None, Selection(category_type=()))][:1]


def test_choice_is_recorded(catalog: Callable[..., Path], tmp_path: Path) -> None:
    """dataset.json says how the data set was chosen and drawn."""
    import fashionbatch

    folder = catalog({"coat": 10, "hat": 10})
    options = {
        "fraction": 0.5,
        "per_class": 3,
        "classes": ["hat"],
        "limit_per_split": "test=10",
        "split": "train=0.5,test=0.5",
        "seed": 4,
    }
    fashionbatch.shard(folder, output=tmp_path / "set", workers=1, **options)
    source = json.loads((tmp_path / "set/dataset.json").read_text())["source"]
    assert source["options"] == options
    assert source["split"] == {"train": 0.5, "test": 0.5}
    assert len(open_shards(tmp_path / "set")) == 6
