"""Images with the same bytes: found, told, left out."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.shards import twins
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.shards.twins import find_twins, torn_groups
from fashionbatch.sources import Item

Write = Callable[..., Manifest]


def digests(values: list[int]) -> np.ndarray:
    raw = b"".join(hashlib.sha256(b"%d" % v).digest() for v in values)
    return np.frombuffer(raw, np.uint8).reshape(len(values), 32)


def failures(output: Path) -> dict[str, str]:
    lines = (output / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    return {f["name"]: f["reason"] for f in map(json.loads, lines)}


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(-1, 2), st.integers(-1, 2)),
        min_size=1,
        max_size=30,
    )
)
def test_twins_are_counted_as_by_hand(rows: list[tuple[int, int, int]]) -> None:
    """Against a dictionary: sets of rows, copies, copies over splits and over labels."""
    expected = defaultdict(list)
    for row, (image, _, _) in enumerate(rows):
        expected[image].append(row)
    sets = [same for same in expected.values() if len(same) > 1]
    split = np.array([s for _, s, _ in rows], np.int8)
    label = np.array([c for _, _, c in rows], np.int32)
    found = find_twins(digests([v for v, _, _ in rows]), split, label)
    assert [g.tolist() for g in found.groups] == sets
    assert found.images == sum(len(s) - 1 for s in sets)
    assert found.across == sum(len(s) - 1 for s in sets if len(set(split[s].tolist())) > 1)
    assert found.conflicts == sum(len(s) - 1 for s in sets if len(set(label[s].tolist())) > 1)


def test_first_word_alone_makes_no_twin() -> None:
    """Images are compared by all 32 bytes."""
    sha = np.zeros((3, 32), np.uint8)
    sha[1, 31] = 1
    found = find_twins(sha, np.zeros(3, np.int8), np.zeros(3, np.int32))
    assert [g.tolist() for g in found.groups] == [[0, 2]]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 2)), max_size=30))
def test_torn_groups_are_counted_as_by_hand(rows: list[tuple[int, int]]) -> None:
    """Group 0 stands for none."""
    splits = defaultdict(set)
    for group, split in rows:
        splits[group].add(split)
    expected = sum(len(s) > 1 for g, s in splits.items() if g)
    group = np.array([g for g, _ in rows], np.uint64)
    assert torn_groups(group, np.array([s for _, s in rows], np.int8)) == expected


def test_twins_are_told_with_what_they_spoil(write: Write) -> None:
    """The copies, those in another split, those with another label; nothing where none is."""
    told: list[str] = []

    def tell(event: str, values: dict[str, Any]) -> None:
        if event == "warn":
            told.append(values["text"])

    items = [
        Item(name="a", data=b"1", label="hat", split="train", group="p"),
        Item(name="b", data=b"1", label="hat", split="val", group="p"),
        Item(name="c", data=b"2", label="hat", split="train", group="q"),
        Item(name="d", data=b"2", label="cap", split="train", group="q"),
        Item(name="e", data=b"3", label="cap", split="val"),
    ]
    write(items, tell=tell)
    assert any(
        "2 images have the same bytes" in t and "1 of them in another split" in t
        and "1 with another label" in t and "--drop-duplicates" in t
        for t in told
    )  # fmt: skip
    assert any(t.startswith("1 product has") and "--group-by" in t for t in told)
    told.clear()
    write([items[0], Item(name="f", data=b"4", label="hat", split="val")], "clean", tell=tell)
    assert told == []


def test_first_of_the_same_bytes_is_kept(write: Write, tmp_path: Path) -> None:
    """The others are recorded with the name of the first; files, ranges and bytes alike."""
    (tmp_path / "one.jpg").write_bytes(b"one")
    (tmp_path / "many.bin").write_bytes(b"__one__two")
    items = [
        Item(name="a", path=tmp_path / "one.jpg"),
        Item(name="b", data=b"one", line=7),
        Item(name="c", path=tmp_path / "many.bin", offset=2, size=3),
        Item(name="d", path=tmp_path / "many.bin", offset=7, size=3),
        Item(name="e", data=b"two!"),
        Item(name="f", path=tmp_path / "gone.jpg"),
        Item(name="g", path=tmp_path / "gone.jpg"),
    ]
    manifest = write(items, drop_duplicates=True)
    shards = open_shards(tmp_path / "set")
    assert [shards.name(row) for row in range(len(shards))] == ["a", "d", "e"]
    reasons = failures(tmp_path / "set")
    assert manifest.failed == 4 and reasons["b"] == reasons["c"] == "the same bytes as 'a'"
    assert "No such file" in reasons["f"] and "No such file" in reasons["g"]
    lines = (tmp_path / "set/failures.jsonl").read_text().splitlines()
    assert [json.loads(x).get("line") for x in lines if '"b"' in x] == [7]


def test_files_of_a_size_of_their_own_are_not_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what can be a copy is read twice."""
    read: list[str] = []

    for name, data in (("a", b"1"), ("b", b"22"), ("c", b"33"), ("d", b"4444")):
        (tmp_path / name).write_bytes(data)

    original = twins._digest
    monkeypatch.setattr(
        twins, "_digest", lambda source, item: read.append(item.name) or original(source, item)
    )
    write([Item(name=n, path=tmp_path / n) for n in "abcd"], drop_duplicates=True)
    assert sorted(read) == ["b", "c"]


def test_copies_of_what_is_packed_are_not_added(write: Write, tmp_path: Path) -> None:
    """With append, the data set counts as earlier."""
    write([Item(name="a", data=b"1")])
    new = [Item(name="b", data=b"1"), Item(name="c", data=b"2"), Item(name="d", data=b"2")]
    manifest = write(new, append=True, drop_duplicates=True)
    shards = open_shards(tmp_path / "set")
    assert [shards.name(row) for row in range(len(shards))] == ["a", "c"]
    assert manifest.failed == 2


def test_twins_of_classes_left_out_do_not_count(write: Write, tmp_path: Path) -> None:
    """What is not packed cannot stand for what is."""
    items = [
        Item(name="coat", data=b"same", label="coat"),
        Item(name="dress", data=b"same", label="dress"),
        Item(name="again", data=b"same", label="dress"),
    ]
    made = write(items, selection=Selection(classes=("dress",)), drop_duplicates=True)
    shards = open_shards(tmp_path / "set")
    assert [shards.name(row) for row in range(len(shards))] == ["dress"] and made.failed == 1
