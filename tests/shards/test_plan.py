"""From a source to a list of shards: labels, twins of a name, groups, new classes, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.errors import SourceError, UnknownNameError, UsageError
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.shards.source import DatasetSource
from fashionbatch.sources import Failure, Item

Write = Callable[..., Manifest]
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def labelled(counts: dict[str, int], split: str | None = None) -> list[Item]:
    return [
        Item(name=f"{split}/{c}/{n}", data=f"{split}{c}{n}".encode(), label=c, split=split)
        for c, count in counts.items()
        for n in range(count)
    ]


def splits_of(shards: ShardSet) -> dict[str, int]:
    return {shards.name(row): int(shards.splits[row]) for row in range(len(shards))}


def reasons(output: Path) -> dict[str, str]:
    lines = (output / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    return {f["name"]: f["reason"] for f in map(json.loads, lines)}


def warned(told: list[str]) -> Callable[[str, dict[str, Any]], None]:
    return lambda event, values: told.append(values["text"]) if event == "warn" else None


def test_labels_are_sorted_and_splits_in_order(write: Write, tmp_path: Path) -> None:
    """Shards of train, val, test; numbered from 0 in each; keys count on over all of them."""
    items = labelled({"shoe": 7, "bag": 4}, "val") + labelled({"shoe": 5, "bag": 2}, "train")
    manifest = write(items)
    assert manifest.classes == ("bag", "shoe") and manifest.keys == len(items)
    assert [s.file for s in manifest.shards] == [
        *(f"train-{n:06d}.tar" for n in range(3)),
        *(f"val-{n:06d}.tar" for n in range(4)),
    ]
    shards = open_shards(tmp_path / "set")
    assert list(shards.index.key) == [f"{n:09d}" for n in range(18)]


def test_train_is_shuffled_and_the_others_are_not(write: Write, tmp_path: Path) -> None:
    """A reader that streams gets the classes mixed."""
    write(labelled({"a": 30, "b": 30}, "train") + labelled({"a": 10, "b": 10}, "val"))
    shards = open_shards(tmp_path / "set")
    train = shards.labels[shards.select("train")].tolist()
    assert train != sorted(train) and len(set(train[:15])) == 2
    names = [shards.name(row) for row in shards.select("val").tolist()]
    assert names == [i.name for i in labelled({"a": 10, "b": 10}, "val")]


def test_own_splits_stay_unless_others_are_asked_for(write: Write) -> None:
    """--split goes before the source's own, which go before the default."""
    own = labelled({"a": 6, "b": 6}, "train") + labelled({"a": 4, "b": 4}, "test")
    assert write(own, "own", default_split=SHARES).splits == {"train": 12, "test": 8}
    drawn = write(own, "drawn", split={"train": 0.5, "val": 0.5})
    assert drawn.splits == {"train": 10, "val": 10}
    none = labelled({"a": 10, "b": 10})
    assert write(none, "none", default_split=SHARES).splits == {"train": 16, "val": 2, "test": 2}
    unlabelled = [Item(name=str(n), data=b"%d" % n) for n in range(4)]
    assert write(unlabelled, "flat", default_split=SHARES).splits == {"all": 4}


def test_class_that_is_not_trained_is_refused(write: Write, tmp_path: Path) -> None:
    """A misnamed folder of val is an error, a class that val lacks a warning."""
    told: list[str] = []
    bad = labelled({"a": 3, "b": 3}, "train") + labelled({"a": 1, "B": 1}, "val")
    with pytest.raises(SourceError, match="'B' is in val but not in train"):
        write(bad)
    assert not (tmp_path / "set").exists()
    accepted = write(bad, allow_missing_classes=True, tell=warned(told))
    assert accepted.classes == ("B", "a", "b")
    assert "1 class is not in val: b" in told and "1 class is not in train: B" in told
    assert any("'B' and 'b' differ only in case" in text for text in told)
    told.clear()
    write(labelled({"a": 1, "b": 1}, "train") + labelled({"a": 2}, "test"), "x", tell=warned(told))
    assert "1 class is not in test: b" in told


def test_classes_in_two_unicode_forms_are_told(write: Write) -> None:
    """One é is one character or two, by the machine that made the folder; both look the same."""
    told: list[str] = []
    write(labelled({"caf\u00e9": 2, "cafe\u0301": 2}), tell=warned(told))
    text = r"the classes 'cafe\u0301' and 'caf\xe9' differ only in their Unicode form"
    assert text in told


def test_name_that_is_listed_twice(write: Write, tmp_path: Path) -> None:
    """Alike: the first is kept. Not alike: none is, and the reason names labels and lines."""
    items = [
        Item(name="a", data=b"first", label="hat", split="train", line=2),
        Item(name="b", data=b"b", label="hat", split="train", line=3),
        Item(name="a", data=b"second", label="hat", split="train", line=4),
        Item(name="c", data=b"c", label="hat", split="train", line=5),
        Item(name="c", data=b"c", label="cap", split="train", line=6),
        Item(name="d", data=b"d", label="hat", split="train"),
        Item(name="d", data=b"d", label="hat", split="test"),
    ]
    manifest = write(items)
    shards = open_shards(tmp_path / "set")
    rows = {shards.name(row): shards.read(row) for row in range(len(shards))}
    assert rows == {"a": b"first", "b": b"b"} and manifest.classes == ("hat",)
    assert manifest.failed == 5
    found = reasons(tmp_path / "set")
    assert found["a"] == "listed twice: the first one in line 2 is kept"
    assert "line 5: train/'hat', line 6: train/'cap'" in found["c"] and "none" in found["c"]
    assert "train/'hat', test/'hat'" in found["d"]
    with pytest.raises(SourceError, match="different labels"):
        write(items[3:5], "none")


def test_no_items(write: Write, tmp_path: Path) -> None:
    """Nothing, failures only, everything excluded, nothing selected: each says so."""
    for items, options, words in (
        ([], {}, "no items"),
        ([Failure(name="a", stage="source", reason="no")], {}, "no items"),
        (labelled({"a": 2}), {"exclude_label": ("a",)}, "--exclude-label leaves none"),
    ):
        with pytest.raises(SourceError, match=words):
            write(items, **options)
    assert list(tmp_path.iterdir()) == []


def test_excluded_labels_are_no_class(write: Write) -> None:
    """Their items are left out without a failure."""
    manifest = write(labelled({"a": 2, "Not sure": 3}), exclude_label=("Not sure",))
    assert (manifest.classes, manifest.items, manifest.failed) == (("a",), 2, 0)


@given(st.permutations(range(24)), st.sampled_from([None, "product", "folder"]))
def test_order_of_the_catalogue_does_not_matter(order: list[int], group_by: str | None) -> None:
    """Splits and choice go by names; see test_select for the functions by themselves."""
    import tempfile

    from fashionbatch.shards import catalogue as catalogues
    from fashionbatch.shards import plan
    from tests.conftest import Listed

    items = [
        Item(name=f"{n % 3}/{n}", data=b"", label="ab"[n % 2], metadata={"product": n // 4})
        for n in range(24)
    ]
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for listed in (items, [items[n] for n in order]):
            log = catalogues.FailureLog(Path(folder) / "log")
            read = catalogues.collect(
                Listed(listed), Path(folder) / "spool", log, seed=1, group_by=group_by
            )
            planned = plan.make(
                read,
                selection=Selection(fraction=0.7, per_class=5, seed=1),
                split=SHARES,
                default_split={},
                by_group=group_by is not None,
                allow_missing_classes=False,
                samples_per_shard=100,
            )
            made.append(
                {
                    t.split: {i.name for i in read.spool.items(iter(t.offset.tolist()))}
                    for t in planned.tasks
                }
            )
            log.close()
            read.spool.close()
    assert made[0] == made[1]


@pytest.mark.parametrize("group_by", ["product", "folder"])
def test_groups_stay_together(write: Write, tmp_path: Path, group_by: str) -> None:
    """By a column of the catalogue or the folder; an empty cell is no group."""
    items = [
        Item(
            name=f"{n // 5}/{n}",
            data=b"%d" % n,
            label="ab"[n % 2],
            metadata={"product": "" if n < 10 else f"p{n // 5}"},
        )
        for n in range(100)
    ]
    manifest = write(items, split=SHARES, group_by=group_by)
    where: dict[int, set[int]] = {}
    shards = open_shards(tmp_path / "set")
    for name, split in splits_of(shards).items():
        if group_by == "folder" or int(name.split("/")[1]) >= 10:
            where.setdefault(int(name.split("/")[0]), set()).add(split)
    assert all(len(s) == 1 for s in where.values())
    assert manifest.splits["train"] == 80 and set(manifest.splits) == set(SHARES)
    groups = shards.index.group
    assert len(set(groups.tolist())) == (20 if group_by == "folder" else 19)
    assert (groups == 0).sum() == (0 if group_by == "folder" else 10)


def test_group_by_that_cannot_work(write: Write) -> None:
    """No such column; splits of the source's own; no splits at all."""
    items = [Item(name="a", data=b"x", label="a", metadata={"product": 1})]
    with pytest.raises(UnknownNameError, match="did you mean 'product'"):
        write(items, split=SHARES, group_by="produkt")
    with pytest.raises(UsageError, match=r"source's own: add --split"):
        write(labelled({"a": 2}, "train"), group_by="folder")
    with pytest.raises(UsageError, match="add --split"):
        write([Item(name="a", data=b"x")], group_by="folder")


@given(st.integers(1, 40), st.integers(1, 12))
def test_tasks_hold_every_item_once(count: int, most: int) -> None:
    """None empty, none over full; keys count on."""
    from fashionbatch.shards import plan
    from fashionbatch.shards.catalogue import Catalogue

    numbers = np.arange(count).astype(np.uint64)
    split = (np.arange(count) % 4 - 1).astype(np.int8)
    catalogue = Catalogue(
        spool=None,  # type: ignore[arg-type]  # not read when planning
        offset=numbers,
        label=np.zeros(count, np.int32),
        split=split,
        group=numbers,
        priority=numbers,
        order=numbers[::-1].copy(),
        classes=("a",),
        types={},
    )
    made = plan.make(
        catalogue,
        selection=Selection(),
        split=None,
        default_split={},
        by_group=False,
        allow_missing_classes=True,
        samples_per_shard=most,
    )
    offsets = [o for t in made.tasks for o in t.offset.tolist()]
    assert sorted(offsets) == list(range(count)) and made.items == count
    assert all(1 <= len(t.offset) <= most for t in made.tasks)
    keys = [t.key + n for t in made.tasks for n in range(len(t.offset))]
    assert keys == list(range(count))
    for task in made.tasks:
        expected = -1 if task.split is None else ("train", "val", "test").index(task.split)
        assert {int(split[o]) for o in task.offset.tolist()} == {expected}
    assert Counter(t.file for t in made.tasks).most_common(1)[0][1] == 1


_MEASURE = """
import re, sys
from pathlib import Path
from fashionbatch.shards import catalogue, plan
from fashionbatch.shards.select import Selection
from fashionbatch.sources import Item, Source

class Long(Source):
    def items(self):
        for n in range(int(sys.argv[1])):
            yield Item(name=f"folder/of/products/{n:09d}.jpg", path=f"/a/folder/{n:09d}.jpg",
                       label=f"class {n % 50}", metadata={"price": n, "title": "a long text" * 5})

folder = Path(sys.argv[2])
log = catalogue.FailureLog(folder / "log")
made = catalogue.collect(Long(), folder / "spool", log, seed=0)
planned = plan.make(made, selection=Selection(fraction=0.9), split={"train": 0.8, "val": 0.2},
                    default_split={}, by_group=False, allow_missing_classes=False,
                    samples_per_shard=1000)
assert planned.items >= 0.9 * int(sys.argv[1])
# not getrusage: that begins with what the process had that started this one
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_planning_holds_numbers_only(tmp_path: Path) -> None:
    """Peak memory grows by less than 200 bytes an item; as objects, items take over 1,000."""

    def peak(items: int) -> int:
        command = [sys.executable, "-c", _MEASURE, str(items), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout) * 1024

    assert peak(120_000) - peak(20_000) < 100_000 * 200


def test_options_that_change_nothing_are_told(write: Write) -> None:
    """A misspelt label to leave out, a split that is not there, a set without training images."""
    told: list[str] = []
    items = labelled({"a": 2, "b": 2}, "train") + labelled({"c": 2}, "val")
    write(items, exclude_label=("bb",), allow_missing_classes=True, tell=warned(told), output="one")
    assert any("--exclude-label 'bb'" in text for text in told)
    with pytest.raises(UsageError, match="no item of the catalogue is in test"):
        write(
            items,
            selection=Selection(limit_per_split={"test": 3}),
            allow_missing_classes=True,
            output="two",
        )
    told.clear()
    write(items, selection=Selection(classes=("c",)), tell=warned(told), output="three")
    assert any("no images to train on" in text for text in told)


def test_split_without_train_is_taken_out_of_train(write: Write, tmp_path: Path) -> None:
    """The source's own test split stays; drawing all anew is told."""
    items = labelled({"a": 20, "b": 10}, "train") + labelled({"a": 4, "b": 4}, "test")
    told: list[str] = []
    made = write(items, split={"val": 0.1}, tell=warned(told))
    assert made.splits == {"train": 27, "val": 3, "test": 8} and not told
    shards = open_shards(tmp_path / "set")
    tested = {shards.name(row) for row in shards.select("test").tolist()}
    assert tested == {item.name for item in items if item.split == "test"}
    with pytest.raises(UsageError, match="has test already"):
        write(items, split={"test": 0.1}, output="two")
    with pytest.raises(UsageError, match="no train split"):
        write(labelled({"a": 4}, None), split={"val": 0.1}, output="two")
    write(items, split={"train": 0.5, "val": 0.5}, output="three", tell=warned(told))
    assert any("train 30, test 8" in text and "not kept" in text for text in told)


def test_small_classes_are_validated_before_they_are_tested(write: Write) -> None:
    """Training needs a val split, so five images are four to train on and one for it."""
    made = write(labelled({"a": 5, "b": 3}, None), split={"train": 0.8, "val": 0.1, "test": 0.1})
    assert made.splits == {"train": 6, "val": 2}


def test_group_is_written_into_the_shards(write: Write, tmp_path: Path) -> None:
    """So that a data set that is packed anew still knows its products."""
    items = [
        Item(name=str(n), data=b"%d" % n, label="a", metadata={"sku": f"s{n // 2}"})
        for n in range(4)
    ]
    write(items, split={"train": 1.0}, group_by="sku")
    again = DatasetSource(tmp_path / "set")
    assert {item.name: item.group for item in again.items() if isinstance(item, Item)} == {
        str(n): f"s{n // 2}" for n in range(4)
    }


def test_source_of_failures_only_says_why(write: Write) -> None:
    """No items: how many entries cannot be used, and the first reason."""
    failures = [Failure(name="x", stage="source", reason="no split", line=n) for n in (2, 3)]
    with pytest.raises(SourceError, match=r"2 entries .*line 2\) because no split"):
        write(failures)
