"""The index: whole in memory, or read block by block, it says the same of each row."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import ShardError
from fashionbatch.inference import plan as plans
from fashionbatch.shards import index as indexes
from fashionbatch.shards import index_writer
from fashionbatch.shards.index import Index, IndexRow
from fashionbatch.shards.index_writer import IndexWriter
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.travel import Lent, Parcel

NUMBERS = ("shard", "offset", "size", "label", "sha256", "width", "box", "group")


def row(number: int, shard: int, text: str) -> IndexRow:
    return IndexRow(
        key=f"{number:06d}", name=text, shard=shard, offset=512 * number, size=number + 1,
        label=number % 3 - 1, sha256=number.to_bytes(32, "big"), extension="png",
        box=(number, 0, 0, 0), positive=range(number % 4), unknown=range(number % 2),
    )  # fmt: skip


@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.text(max_size=6)), max_size=30),
    block=st.integers(1, 12),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_block_says_what_the_whole_says(tmp_path, monkeypatch, rows, block, order) -> None:
    """Each column of each row, in any order of the rows, also behind a pickle."""
    monkeypatch.setattr(indexes, "_BLOCK", block)
    monkeypatch.setattr(indexes, "LOOKED_AT", block + 1)
    shards = sorted(shard for shard, _ in rows)
    texts = [text for _, text in rows]
    made = zip(range(len(rows)), shards, texts, strict=True)
    whole = Index.of([row(*values) for values in made])
    whole.save(tmp_path / "index.h5")
    opened = pickle.loads(pickle.dumps(Index.open(tmp_path / "index.h5")))
    assert len(opened) == len(whole)
    assert opened.per_shard(7).tolist() == whole.per_shard(7).tolist()
    numbers = list(range(len(rows)))
    order.shuffle(numbers)
    for number in numbers:
        near, place = opened.near(number)
        assert near is not opened and len(opened._blocks) <= indexes._KEPT
        for column in NUMBERS:
            assert np.array_equal(getattr(near, column)[place], getattr(whole, column)[number])
        for column in ("key", "name"):
            assert getattr(near, column)[place] == getattr(whole, column)[number]
        for column in ("positive", "unknown"):
            assert getattr(near, column)[place].tolist() == getattr(whole, column)[number].tolist()
    some = np.array(sorted(numbers[: len(numbers) // 2]), np.int64)
    for column in NUMBERS:
        assert np.array_equal(opened.take(column, some), whole.take(column, some))
    for held in (opened, whole):
        excerpt = held.excerpt(some)
        for name, array in whole.excerpt(some).to_arrays().items():
            assert np.array_equal(excerpt.to_arrays()[name], array)
        for place, number in enumerate(some.tolist()):
            assert excerpt.name[place] == whole.name[number]
            assert excerpt.size[place] == whole.size[number]
            assert excerpt.unknown[place].tolist() == whole.unknown[number].tolist()
    assert not opened._loaded()  # no column as a whole
    assert whole.near(0) == (whole, 0)


@pytest.mark.parametrize("open_it", [Index.open, Index.load])
def test_other_labels(tmp_path: Path, open_it: Callable[[Path], Index]) -> None:
    """One after the other, of a block, some rows, an excerpt, and what another process gets."""
    Index.of([row(n, 0, "x") for n in range(9)]).save(tmp_path / "index.h5")
    found = open_it(tmp_path / "index.h5").relabelled(np.array([5, 6, -1], np.int32))
    other = found.relabelled(np.array([9, 9, 9, 9, 9, 70, 80, -1], np.int32))
    for index in (other, pickle.loads(pickle.dumps(other)), other.absolute()):
        assert [index.near(n)[0].label[index.near(n)[1]] for n in range(3)] == [-1, 70, 80]
        assert index.take("label", np.array([2, 7])).tolist() == [80, 70]
        assert index.excerpt(np.array([0, 5])).label.tolist() == [-1, 80]
        assert index.label.tolist() == [-1, 70, 80] * 3
    assert found.label.tolist() == [-1, 5, 6] * 3


def test_written_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns of what was written at once."""
    monkeypatch.setattr(indexes, "LOOKED_AT", 7)
    monkeypatch.setattr(index_writer, "LOOKED_AT", 7)
    pieces = [[row(n, s, f"{s}/{n}") for n in range(s, s + 5)] for s in range(5)]
    with IndexWriter(tmp_path / "index.h5") as writer:
        for piece in [*pieces, []]:
            writer.add(Index.of(piece))
        writer.relabel(np.array([7, 8, -1], np.int32))
    whole = Index.of([each for piece in pieces for each in piece])
    expected = whole.relabelled(np.array([7, 8, -1], np.int32)).to_arrays()
    for open_it in (Index.open, Index.load):
        made = open_it(tmp_path / "index.h5").to_arrays()
        assert {n: (a.dtype, a.tolist()) for n, a in made.items()} == {
            n: (a.dtype, a.tolist()) for n, a in expected.items()
        }


def test_rows_that_were_sent(tmp_path: Path) -> None:
    """All processes have the last ones, also those that were there before; and no others."""
    whole = Index.of([row(n, n // 50, f"{n}") for n in range(150)])
    with ExitStack() as stack:
        lent = Lent(whole.per_shard(3)).here(stack)
        assert isinstance(lent, Lent) and lent._folder is not None
        elsewhere = pickle.loads(pickle.dumps(lent))
        for rows in ([3, 4, 90, 91], [3, 4, 7, 90, 91], [4, 149], [], [0]):
            lent.unpack(Parcel.of(whole, np.array(rows, np.int64)))
            for index in (lent, elsewhere, pickle.loads(pickle.dumps(lent))):
                sizes = index.take("size", np.array(rows, np.int64))
                assert sizes.tolist() == [n + 1 for n in rows]
                for number in rows:
                    near, place = index.near(number)
                    assert (near.name[place], near.size[place]) == (f"{number}", number + 1)
        with pytest.raises(LookupError, match="149 some were not sent"):
            elsewhere.near(149)
        assert len(lent) == 150 and lent.per_shard(3).tolist() == [50, 50, 50]
    assert not lent._folder.exists()


def test_columns_that_are_loaded_all_the_same(tmp_path: Path) -> None:
    """Somebody who asks for whole columns does not disturb those who read blocks."""
    Index.of([row(n, 0, f"{n}") for n in range(9)]).save(tmp_path / "index.h5")
    opened = Index.open(tmp_path / "index.h5")
    opened.to_arrays()
    near, place = opened.near(5)
    assert near.size[place] == 6 and near.name[place] == "5"


@pytest.mark.parametrize("column", ["shard", "offset", "size", "label", "sha256"])
def test_damage_is_found_on_opening(tmp_path: Path, column: str) -> None:
    """One flipped bit of what reading needs, wherever it is."""
    path = tmp_path / "index.h5"
    Index.of([row(n, n // 50, f"{n}") for n in range(150)]).save(path)
    with h5py.File(path) as file:
        place = file[column].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    for open_it in (Index.open, Index.load):
        with pytest.raises(ShardError, match="cannot be read"):
            open_it(path)


def test_rows_that_are_not_grouped_are_refused(tmp_path: Path) -> None:
    """They would belong to other shards: parts are made of rows that follow each other."""
    Index.of([row(0, 1, "a"), row(1, 0, "b")]).save(tmp_path / "index.h5")
    with pytest.raises(ShardError, match="not grouped by shard"):
        Index.open(tmp_path / "index.h5")
    with pytest.raises(ShardError, match="not grouped by shard"):
        Index.load(tmp_path / "index.h5").per_shard(2)


@pytest.mark.parametrize("split", [None, "train"])
def test_a_plan_holds_nothing_of_its_items(packed: Path, split: str | None) -> None:
    """What is held of each would not fit a worker's memory where there are many."""
    plan = plans.make(packed, split=split, limit=None)
    for unit in plan.units:
        plan.labels(unit, plan.classes)
        for number in unit.rows.tolist():
            assert plan.catalogue.name(number) and plan.catalogue.key(number)
            assert plan.catalogue.read(number)
    for held in (plan, plan.absolute()):
        data = pickle.dumps(held)
        for number in range(len(open_shards(packed))):
            assert plan.catalogue.sha256(number) not in data
            assert plan.catalogue.name(number).encode() not in data
