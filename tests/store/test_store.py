from __future__ import annotations

import itertools
import json
import random
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import StoreError, UsageError
from fashionbatch.store import merge as merging
from fashionbatch.store import part as parts
from fashionbatch.store.reader import open_predictions

CLASSES = ("bag", "dréss", "hat")
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


def part(number, good, failed=(), seed=0, width=4):
    draw = np.random.default_rng([seed, number])
    rows = len(good)
    features = draw.normal(size=(rows, width)).astype(np.float32)
    return parts.Part(
        fingerprint="f", shard=number, sha256=f"hash-of-{number}", names=list(good),
        keys=[f"{i:09d}" for i in range(rows)],
        labels=draw.integers(-1, 3, rows).astype(np.int32),
        hashes=draw.integers(0, 256, (rows, 32)).astype(np.uint8),
        arrays={
            "predictions/topk_index": draw.integers(0, 3, (rows, 2)).astype(np.int32),
            "predictions/topk_probability": draw.random((rows, 2)).astype(np.float32),
            "features/pooled": features if rows else np.empty((0, 0), np.float32),
        },
        failures=[parts.Failed(n, "k", "decode", f"why {n}", draw.bytes(32)) for n in failed],
    )  # fmt: skip


def write(folder, made):
    for p in made:
        parts.commit(folder, p)
    return [
        merging.ShardEntry(name=f"n{p.shard}", count=len(p.names) + len(p.failures)) for p in made
    ]


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.lists(names, max_size=5), st.lists(names, max_size=3)), min_size=1, max_size=5
    )
)
def test_round_trip(plan):
    """Whatever the names, and with empty or failed shards: every row and failure comes back."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = [part(i, good, failed) for i, (good, failed) in enumerate(plan)]
        entries = write(folder, made)
        for p, e in zip(made, entries, strict=True):
            found = parts.find(folder, p.shard, fingerprint="f", count=e.count)
            assert found == (p.sha256, len(p.names), len(p.failures))
            assert not parts.find(folder, p.shard, fingerprint="g", count=e.count)
            assert not parts.find(folder, p.shard, fingerprint="f", count=e.count + 1)
        counts = merging.merge(
            folder, folder / "o.h5", entries, CLASSES, {"fingerprint": {"a": 1}}, fingerprint="f"
        )
        merging.merge(
            folder, folder / "p.h5", entries, CLASSES, {"fingerprint": {"a": 1}}, fingerprint="f"
        )
        assert (folder / "o.h5").read_bytes() == (folder / "p.h5").read_bytes()
        with open_predictions(folder / "o.h5") as found:
            assert found.names == [n for p in made for n in p.names]
            assert [f["name"] for f in found.failures] == [f[0] for p in made for f in p.failures]
            assert counts == (len(found), len(found.failures))
            for name in made[0].arrays:
                wanted = [p.arrays[name] for p in made if p.names]
                if wanted:
                    assert np.array_equal(found._storage.array(name)[()], np.concatenate(wanted))
            assert found.labels.tolist() == [v for p in made for v in p.labels.tolist()]
            assert found.classes == CLASSES
            assert found.fingerprint == {"a": 1}
            assert found.shards == [
                (e.name, p.sha256, e.count) for e, p in zip(entries, made, strict=True)
            ]
            numbers = [p.shard for p in made for _ in p.names]
            assert found._storage.array("items/shard")[()].tolist() == numbers
            for row, label in zip(found, found.labels, strict=True):
                assert row.label == (CLASSES[label] if label >= 0 else None)


def content(file):
    values = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            values[name] = (item.asstr()[()] if item.dtype.kind == "O" else item[()]).tolist()

    file.visititems(add)
    return values


def test_flipped_bytes(tmp_path):
    """A flipped byte is found out, or changes nothing: wrong values are never read."""
    made = part(0, ["a.jpg", "b/é.jpg", "c"], ["bad"])
    write(tmp_path, [made])
    path = parts.path_of(tmp_path, 0)
    whole = path.read_bytes()
    with parts.open_checked(tmp_path, 0, "f") as file:
        expected = content(file)
    found_out = 0
    places = random.Random(1).sample(range(len(whole)), 600)
    text = [whole.index(b"a.jpg"), whole.index(b"why bad")]
    for place in text + places:
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)
        valid = parts.find(tmp_path, 0, fingerprint="f", count=4) == ("hash-of-0", 3, 1)
        try:
            with parts.open_checked(tmp_path, 0, "f") as file:
                assert content(file) == expected
        except StoreError:
            assert not valid
            found_out += 1
            assert place not in text or not valid
        else:
            assert place not in text
    assert found_out > 50


def test_every_value_is_covered(tmp_path):
    """A flipped byte in any array or text is found out."""
    made = part(0, ["name-of-a", "name-of-b"], ["name-of-bad"], width=30)
    made.arrays["predictions/topk_index"] += 123_456_789  # bytes that stand nowhere else
    write(tmp_path, [made])
    path = parts.path_of(tmp_path, 0)
    whole = path.read_bytes()
    pieces = [a.tobytes() for a in (*made.arrays.values(), made.hashes)] + [
        made.failures[0].sha256,
        b"hash-of-0",  # the hash of the shard
        b"name-of-a",
        b"name-of-bad",
        b"000000001",
    ]
    for piece, offset in itertools.product(pieces, (0, 3)):
        data = bytearray(whole)
        data[whole.index(piece) + min(offset, len(piece) - 1)] ^= 1
        path.write_bytes(data)
        assert not parts.find(tmp_path, 0, fingerprint="f", count=3)
        with pytest.raises(StoreError):
            parts.open_checked(tmp_path, 0, "f")


@pytest.mark.parametrize("damage", ["delete", "truncate", "empty", "other", "count", "run"])
def test_damaged_part_ends_the_merge(tmp_path, damage):
    """A missing or damaged part is an error that names it, and no file is made."""
    entries = write(tmp_path, [part(0, ["a"]), part(1, ["b", "c"])])
    path = parts.path_of(tmp_path, 1)
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-700])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        path.write_bytes(b"no HDF5" * 500)
    elif damage == "count":
        parts.commit(tmp_path, part(1, ["b"]))
    else:
        stranger = part(1, ["b", "c"])
        stranger.fingerprint = "of another run"
        parts.commit(tmp_path, stranger)
    with pytest.raises(StoreError, match=r"part-000001\.h5") as error:
        merging.merge(tmp_path, tmp_path / "o.h5", entries, CLASSES, {}, fingerprint="f")
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".h5") == []
    assert not (tmp_path / "o.h5").exists()


def test_reader_refuses_other_files(tmp_path):
    """Only prediction files are read."""
    with pytest.raises(UsageError, match="does not exist"):
        open_predictions(tmp_path / "no.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(StoreError, match="HDF5"):
        open_predictions(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="not a prediction file"):
        open_predictions(tmp_path / "other.h5")
    entries = write(tmp_path, [part(0, ["a"])])
    merging.merge(tmp_path, tmp_path / "new.h5", entries, CLASSES, {}, fingerprint="f")
    with h5py.File(tmp_path / "new.h5", "a") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(StoreError, match="version 99"):
        open_predictions(tmp_path / "new.h5")


def test_h5py_alone(tmp_path):
    """The file is plain HDF5: names, answers, features, failures and attributes by h5py alone."""
    entries = write(tmp_path, [part(0, ["a", "ü"], ["bad"])])
    merging.merge(
        tmp_path,
        tmp_path / "o.h5",
        entries,
        CLASSES,
        {"model_card": {"k": [1]}, "t": "text"},
        fingerprint="f",
    )
    with h5py.File(tmp_path / "o.h5") as file:
        assert sorted(file) == ["classes", "failures", "features", "items", "predictions", "shards"]
        assert file["items/name"].asstr()[()].tolist() == ["a", "ü"]
        assert file["features/pooled"].shape == (2, 4)
        assert file["features/pooled"].fletcher32
        assert json.loads(file.attrs["model_card"]) == {"k": [1]}
        assert file.attrs["t"] == "text"
        assert file["shards/predicted"][()].tolist() == [2]


def test_rows(tmp_path):
    """Rows count from both ends and end with an IndexError."""
    entries = write(tmp_path, [part(0, ["a", "b"])])
    merging.merge(tmp_path, tmp_path / "o.h5", entries, CLASSES, {}, fingerprint="f")
    with open_predictions(tmp_path / "o.h5") as found:
        assert found[-1].name == "b"
        with pytest.raises(IndexError):
            found[2]
        assert [row.name for row in found] == ["a", "b"]
