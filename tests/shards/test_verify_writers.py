"""Verify what a writer with a bug has left: hashes that fit, and files that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashionbatch import files
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import MANIFEST, Manifest, ShardRecord
from fashionbatch.shards.ragged import Ragged, Texts
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.verification.findings import (
    REFUSED,
)
from fashionbatch.shards.verification.members import BLOCK, END
from fashionbatch.shards.verification.verify import verify
from tests.shards.damage import header, locate, only, signed


def test_failures_are_counted(packed: Path) -> None:
    """A line too many, and one that is no failure, though the hash fits."""
    path = packed / "failures.jsonl"
    whole = path.read_text()
    for text, words in (
        (whole * 2, "2 lines"),
        ("", "0 lines"),
        ('{"name": 1}\n', "line 1"),
        ("[[[[\n", "line 1"),
    ):
        path.write_text(text)
        assert only(verify(packed), "SHA-256").shard == path.name
        signed(packed)
        assert only(verify(packed), words).shard == path.name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"items": 11}, "add up"),
        ({"items": "10"}, "no number"),
        ({"failed": None}, "no number"),
        ({"name": 5}, "no text"),
    ],
)
def test_manifest_that_contradicts_itself(
    packed: Path, changes: dict[str, Any], words: str
) -> None:
    """Although every file is as it states."""
    signed(packed, **changes)
    found = [f for f in verify(packed).findings if f.shard == MANIFEST]
    assert len(found) == 1 and words in found[0].reason


def test_split_that_there_is_not(packed: Path) -> None:
    """A misspelt one would lose its images."""
    first, *rest = Manifest.load(packed).shards
    signed(packed, shards=(replace(first, split="trian"), *rest))
    assert "'trian'" in verify(packed).findings[0].reason
    assert verify(packed).findings[0].shard == MANIFEST


def test_shard_without_images(packed: Path) -> None:
    """Is whole where it is empty, and hides nothing."""
    path = packed / "test-000000.tar"
    path.write_bytes(bytes(END))
    shards = Manifest.load(packed).shards
    empty = ShardRecord(file=path.name, split="test", items=0, bytes=END, sha256="")
    signed(packed, shards=(*shards, empty))
    assert verify(packed).findings == ()
    path.write_bytes(header("x.pyd", 3) + b"cos".ljust(BLOCK, b"\0") + bytes(END))
    signed(packed)
    assert only(verify(packed)).shard == path.name


def test_hostile_manifest_is_an_error_of_ours(packed: Path) -> None:
    """Absurd numbers and names end in findings, not in a traceback, though its SHA-256 fits."""
    path = packed / MANIFEST
    values = json.loads(path.read_bytes())
    del values["sha256"]
    for changes in (
        {"bytes": 1 << 80},
        {"bytes": -5},
        {"items": -1},
        {"items": 1 << 70},
        {"split": "trian"},
        {"file": "\ud800.tar"},
        {"file": "a\0b.tar"},
        {"file": ".."},
        {"sha256": None},
    ):
        first, *rest = values["shards"]
        made = {**values, "shards": [{**first, **changes}, *rest]}
        path.write_text(json.dumps({**made, "sha256": files.fingerprint(made)}))
        report = verify(packed)
        assert not report.ok, changes
        assert not any("was changed" in f.reason for f in report.findings), changes


def _reversed(index: Index) -> dict[str, Any]:
    return {"shard": index.shard[::-1].copy()}


INDEXES: dict[str, tuple[Callable[[Index], dict[str, Any]], str]] = {
    "order": (_reversed, "order"),
    "counts": (lambda i: {"shard": np.maximum(i.shard, 1)}, "items in"),
    "label": (lambda i: {"label": i.label + 2}, "no classes"),
    "negative": (lambda i: {"label": i.label - 9}, "no classes"),
    "kind": (lambda i: {"extension": i.extension + 9}, "kind"),
    "key": (lambda i: {"key": Texts.of_texts(["000000000"] * len(i))}, "key twice"),
    "empty key": (lambda i: {"key": Texts.of_texts([""] * len(i))}, "key twice"),
    "attribute": (
        lambda i: {"positive": Ragged.of([[7]] * len(i), np.uint16)},
        "no attributes",
    ),
    "outside": (lambda i: {"offset": i.offset + np.uint64(1 << 63)}, "outside"),
    "overlap": (lambda i: {"size": i.size + np.uint32(1 << 20)}, "overlap"),
    "shifted": (lambda i: {"offset": i.offset + np.uint64(BLOCK)}, "overlap"),
    "odd": (lambda i: {"offset": i.offset + (np.arange(len(i)) == 1).astype(np.uint64)}, "overlap"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_index_that_cannot_be_right(packed: Path, case: str) -> None:
    """Found before any shard is compared with it, although its hash fits."""
    change, words = INDEXES[case]
    path = packed / "index.h5"
    index = Index.load(path)
    index.to_arrays()
    index.replaced(**change(index)).save(path)
    signed(packed)
    assert only(verify(packed), words).shard == "index.h5"


@pytest.mark.parametrize("column", ["sha256", "label", "width", "box", "name", "key", "extension"])
def test_index_of_other_facts(packed: Path, column: str) -> None:
    """One wrong value, in an index and a manifest that agree: that item is named."""
    path = packed / "index.h5"
    index = Index.load(path)
    values = index.to_arrays()[column].copy()
    if column in ("name", "key"):
        names = list(getattr(index, column))
        names[4] = f"x{names[4][1:]}"
        value: Any = Texts.of_texts(names)
    else:
        values[4] = (values[4] + 1) % (2 if column in ("label", "extension") else 99)
        value = values
    index.replaced(**{column: value}).save(path)
    signed(packed)
    assert only(verify(packed)).key == (names[4] if column == "key" else index.key[4])


def test_index_without_a_column(packed: Path) -> None:
    """Or with one that is no text: an error of ours."""
    import h5py

    with h5py.File(packed / "index.h5", "a") as file:
        del file["width"]
    signed(packed)
    found = only(verify(packed), "width")
    assert (found.shard, found.severity) == ("index.h5", REFUSED)


def test_shard_of_a_writer_with_a_bug(packed: Path) -> None:
    """Hashes that fit do not hide what contradicts the index."""
    shards = open_shards(packed)
    path, start, end = locate(shards, 1)
    name, key = shards.name(1).encode(), "000000001"
    after = end + -end % BLOCK
    size = end - start
    image = path.read_bytes()[start - BLOCK : start][:100].rstrip(b"\0").decode()
    json_size = int(path.read_bytes()[after + 124 : after + 135], 8)
    cases: dict[str, tuple[int, bytes]] = {
        "SHA-256": (start + 5, b"ABC"),
        f"header of {image} is of '{key}x'": (start - BLOCK, header(f"{key}x", size)),
        f"states {size - 1} bytes": (start - BLOCK, header(image, size - 1)),
        f"header of {image} is damaged": (start - BLOCK + 101, b"7"),
        "has the split": (after + path.read_bytes()[after:].index(b'"split":"') + 9, b"T"),
        "no plain file": (start - BLOCK, header(image, size, b"2")),
        "has the name": (after + BLOCK + path.read_bytes()[after + BLOCK :].index(name), b"NAME"),
        "JSON is no object": (after + BLOCK, b"[" + b" " * (json_size - 2) + b"]"),
        "header of 000000001.json is of": (after, header("000000001.jsom", json_size)),
        "label is": (after + 3 * BLOCK, b"7"),
        "is not empty": (end, b"hidden"),
    }
    whole = path.read_bytes()
    for words, (place, data) in cases.items():
        made = bytearray(whole)
        made[place : place + len(data)] = data
        path.write_bytes(made)
        signed(packed)
        found = only(verify(packed), words)
        assert (found.shard, found.key) == (path.name, key)
        path.write_bytes(whole)
    signed(packed)
    assert verify(packed).ok


def test_members_that_nobody_indexed(packed: Path) -> None:
    """Smuggled in behind the last sample, or behind the end."""
    path = packed / "val-000000.tar"
    whole = path.read_bytes()
    smuggled = header("x.pyd", 3) + b"cos".ljust(BLOCK, b"\0")
    path.write_bytes(whole[:-END] + smuggled + whole[-END:])
    signed(packed)
    assert only(verify(packed), "other members").shard == path.name
    path.write_bytes(whole + smuggled)
    signed(packed)
    assert not verify(packed).ok


def test_json_bomb_is_not_followed(packed: Path) -> None:
    """Lists within lists, deeper than Python goes."""
    shards = open_shards(packed)
    path, _, end = locate(shards, 3)
    after = end + -end % BLOCK
    whole = path.read_bytes()
    bomb = b"[" * 200_000
    label = b"%d" % shards.labels[3]
    tail = header("000000003.cls", 1) + label.ljust(BLOCK, b"\0") + bytes(END)
    made = whole[:after] + header("000000003.json", len(bomb)) + bomb
    path.write_bytes(made + bytes(-len(bomb) % BLOCK) + tail)
    signed(packed)
    assert any("JSON is no object" in f.reason for f in verify(packed).findings)
