from __future__ import annotations

import tracemalloc

import h5py
import numpy as np
import pytest

import fashionbatch
from fashionbatch.errors import StoreError, UnknownNameError, UsageError
from fashionbatch.store import reader, rows
from fashionbatch.store.reader import open_predictions


def test_rows_and_slices(predictions):
    """Rows count from both ends, slices are lists, and what is behind the end is an IndexError."""
    with open_predictions(str(predictions())) as found:
        assert len(found) == 3
        assert (found[0].name, found[-1].name, found[np.int64(1)].name) == ("a.jpg", "c", "b/é.jpg")
        assert [row.row for row in found[::-1]] == [2, 1, 0]
        for wrong in (3, -4):
            with pytest.raises(IndexError, match="of 3"):
                found[wrong]
        with pytest.raises(TypeError):
            found[0.5]


def test_by_name(predictions):
    """An image is found by its name; a name that two rows have is refused, naming them."""
    path = predictions(shards={"s": (["a", "b/1.jpg", "a", "日本.jpg", ""], [])})
    with fashionbatch.open_predictions(path) as found:
        assert found["b/1.jpg"].row == 1
        assert found["日本.jpg"].row == 3
        assert found[""].row == 4
        assert found.rows("a") == [0, 2]
        assert "a" in found and "b" not in found and 3 not in found
        with pytest.raises(UsageError, match=r"2 rows called 'a'.*\(0, 2\)"):
            found["a"]


def test_names_of_one_hash(predictions, monkeypatch):
    """Names that share a hash are told apart."""
    monkeypatch.setattr("fashionbatch.store.names.hash", lambda name: 7, raising=False)
    with open_predictions(predictions()) as found:
        assert [found[name].row for name in ("a.jpg", "b/é.jpg", "c")] == [0, 1, 2]
        assert "d" not in found


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("catalog/dress/1.jpg", "dress/1.jpg"),
        ("Dress/1.JPG", "dress/1.jpg"),
        ("dress/summer-17.jpg", "dress/summer-71.jpg"),
        ("dress/sumer-71.jpg", "dress/summer-71.jpg"),
    ],
)
def test_name_that_there_is_not(predictions, asked, meant):
    """What was meant is named first: another folder or case, a letter or two."""
    others = [f"hat/{i}-x.png" for i in range(2000)]
    path = predictions(shards={"s": (["dress/1.jpg", *others, "dress/summer-71.jpg"], [])})
    with open_predictions(path) as found:
        with pytest.raises(UnknownNameError, match=f"did you mean '{meant}'"):
            found[asked]
        with pytest.raises(UnknownNameError, match="there are 2,002"):
            found["something else"]


@pytest.mark.parametrize("size", [1, 2, 3, 8192])
def test_iteration_is_what_rows_are(predictions, size, monkeypatch):
    """Whatever is read at a time: the same rows, columns and failures, in order."""
    monkeypatch.setattr(reader, "BATCH", size)
    monkeypatch.setattr(rows, "BATCH", size)
    shards = {"s": (["a", "b"], ["x"]), "t": (["c", "d", "e"], []), "u": ([], ["y", "z"])}
    path = predictions(shards=shards, attributes=("red", "blue"), probabilities=True)
    with open_predictions(path) as found:
        for row, again in zip(found, found[:], strict=True):
            assert (row.row, row.name, row.label) == (again.row, again.name, again.label)
            assert row.classes == again.classes and row.attributes == again.attributes
            assert np.array_equal(row.probabilities, again.probabilities)
        batches = list(found.batches(size))
        assert [len(b) for b in batches] == [min(size, 5 - b.start) for b in batches]
        assert [n for b in batches for n in b.names] == found.names == list("abcde")
        assert [s for b in batches for s in b.shards.tolist()] == [0, 0, 1, 1, 1]
        for name in ("topk_index", "topk_probability", "probability", "attribute_probability"):
            pieces = np.concatenate([getattr(b, name) for b in batches])
            assert np.array_equal(pieces, getattr(found, name)[()])
        pieces = np.concatenate([b.features() for b in batches])
        assert np.array_equal(pieces, found.features("pooled"))
        failures = [("x", "s"), ("y", "u"), ("z", "u")]
        assert [(f["name"], f["shard"]) for f in found.failures] == failures
        assert found.failures[-1] == found.failures[2] == found.failures[1:][1]
        assert (found.failures[0]["reason"], found.failures[0]["key"]) == ("why x", "000000000")
        assert len(found.failures) == 3 and found.failures != []


def test_bounded_memory(predictions, monkeypatch):
    """Iterating takes no more for ten times the rows, and the names' index 12 bytes a row."""

    monkeypatch.setattr(reader, "BATCH", 200)
    monkeypatch.setattr(rows, "BATCH", 200)

    def peak(rows: int) -> tuple[int, int]:
        names = [f"a-rather-long-name-of-a-folder/and-of-a-photograph-{i:09d}" for i in range(rows)]
        with open_predictions(predictions(f"{rows}.h5", {"s": (names, names)})) as found:
            tracemalloc.start()
            try:
                for _ in zip(found, found.failures, strict=True):
                    pass
                iterating = tracemalloc.get_traced_memory()[1]
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                assert names[-1] in found
                return iterating, tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()

    few, many = peak(800), peak(8_000)
    assert many[0] < 1.2 * few[0]
    assert many[1] < 8_000 * 14 + 20_000


def test_what_was_not_stored(predictions):
    """Asking for what the file does not hold says how to get it."""
    with open_predictions(predictions(features=None)) as found:
        with pytest.raises(UsageError, match="--features none"):
            found.features()
        with pytest.raises(UsageError, match="--probabilities"):
            _ = found.probability
        with pytest.raises(UsageError, match="--task"):
            _ = found.attribute_probability
        assert found[0].attributes == () and found.layers == [] and found.source is None
    with open_predictions(predictions(features="layer4.2", width=(3, 2, 2))) as found:
        assert found.features().shape == found.features("layer4.2").shape == (3, 3, 2, 2)
        with pytest.raises(UnknownNameError, match=r"layer4\.2"):
            found.features("pooled")


def test_no_rows(predictions):
    """A file in which all failed is read like any other."""
    with open_predictions(predictions(shards={"s": ([], ["x"])})) as found:
        assert (len(found), list(found), found.names, list(found.batches())) == (0, [], [], [])
        assert "x" not in found
        assert found.fingerprint["items"] == 1 and found.model["sha256"] == "m" * 64


@pytest.mark.parametrize("name", ["items/key", "predictions/topk_index", "features/pooled"])
def test_columns_of_other_lengths(predictions, name):
    """A file whose columns do not fit together is refused on opening."""
    path = predictions()
    with h5py.File(path, "a") as file:
        values = file[name][()]
        del file[name]
        file[name] = values[:-1]
    with pytest.raises(StoreError, match=f"{name} is not as long as items/name"):
        open_predictions(path)


@pytest.mark.parametrize("name", ["items/label", "shards/name", "classes/name"])
def test_column_that_is_missing(predictions, name):
    """A file without a column that it must have is damaged, by name."""
    path = predictions()
    with h5py.File(path, "a") as file:
        del file[name]
    with pytest.raises(StoreError, match=name), open_predictions(path) as found:
        list(found)
