"""The index: whole in memory, or read block by block, it says the same of each row."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import ShardError
from fashionbatch.inference import plan as plans
from fashionbatch.shards import index as indexes
from fashionbatch.shards.index import Index, IndexRow
from fashionbatch.shards.read import open_shards

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
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_block_says_what_the_whole_says(tmp_path, monkeypatch, rows, block, order) -> None:
    """Each column of each row, in any order of the rows, also behind a pickle."""
    monkeypatch.setattr(indexes, "_BLOCK", block)
    monkeypatch.setattr(indexes, "_LOOKED_AT", block + 1)
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
    assert not opened._loaded()  # no column as a whole
    assert whole.near(0) == (whole, 0)


def test_what_was_replaced_holds_in_blocks_too(tmp_path: Path) -> None:
    """As labels of another vocabulary do."""
    Index.of([row(n, 0, "x") for n in range(9)]).save(tmp_path / "index.h5")
    other = Index.open(tmp_path / "index.h5").replaced(label=np.arange(9, dtype=np.int32) + 40)
    near, place = other.near(5)
    assert near.label[place] == 45 and near.size[place] == 6
    assert other.take("label", np.array([2, 7])).tolist() == [42, 47]


def test_for_a_process_without_the_file(tmp_path: Path) -> None:
    """Everything goes along; the one that was opened keeps none of it, and is read on."""
    path = tmp_path / "index.h5"
    Index.of([row(n, 0, f"{n}") for n in range(9)]).save(path)
    opened = Index.open(path).replaced(label=np.arange(9, dtype=np.int32) + 40)
    near, place = opened.in_memory().near(5)
    assert set(opened._loaded()) == {"label"}
    assert opened.near(5)[0].size[5] == 6
    path.unlink()
    assert (
        near.label[place] == 45 and near.name[place] == "5" and near.positive[place].tolist() == [0]
    )


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
