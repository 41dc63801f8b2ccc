from __future__ import annotations

import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashionbatch.errors import UsageError
from fashionbatch.retrieval import neighbours
from fashionbatch.retrieval.neighbours import nearest
from fashionbatch.store import part as parts
from fashionbatch.store.column import Column


@pytest.fixture
def column(tmp_path):
    opened = []

    def make(values):
        opened.append(h5py.File(tmp_path / f"{len(opened)}.h5", "w"))
        parts.write_array(opened[-1], "features/x", values)
        return Column(tmp_path, opened[-1]["features/x"])

    yield make
    for file in opened:
        file.close()


def reference(values, query, k, own):
    """Sorted by the cosine in float64, then by row."""
    wide, q = values.reshape(len(values), -1).astype(np.float64), query.astype(np.float64)
    lengths = np.sqrt((wide**2).sum(axis=1)) * np.sqrt((q**2).sum())
    cosine = np.where(lengths == 0, 0, wide @ q / np.where(lengths == 0, 1, lengths))
    order = np.lexsort((np.arange(len(values)), -cosine))
    return [int(i) for i in order if i != own][:k], cosine


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(64,), (3, 5, 2)])
def test_exact(column, monkeypatch, dtype, shape):
    """Whatever the blocks: the rows are those of a full sort, best first."""
    draw = np.random.default_rng(1)
    values = draw.normal(size=(500, *shape)).astype(dtype)
    queries = np.stack([draw.normal(size=shape).astype(np.float32).ravel() for _ in range(3)])
    queries[2] = values[77].astype(np.float32).ravel()
    for block in (1, 10_000, 8 << 20):
        monkeypatch.setattr(neighbours, "_BLOCK", block)
        found = nearest(column(values), queries, 20, without=[None, 400, 77])
        for best, query, own in zip(found, queries, (None, 400, 77), strict=True):
            rows, cosine = reference(values, query, 20, own)
            assert best.rows.tolist() == rows
            assert np.allclose(best.similarities, cosine[rows], atol=2e-6)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 12), st.integers(1, 9))
def test_ties_go_to_the_lower_row(values, k, size):
    """Of equally similar rows the lower ones are taken, in whatever block they are."""
    similarities = np.array(values, np.float32)
    best = neighbours.Nearest(k=k)
    for start in range(0, len(values), size):
        best.offer(start, similarities[start : start + size])
    order = np.lexsort((np.arange(len(values)), -similarities))[:k]
    assert best.rows.tolist() == order.tolist()
    assert best.similarities.tolist() == similarities[order].tolist()


def test_copies_of_an_image(column, monkeypatch):
    """Rows with the same features are equally similar to the last bit, wherever they stand."""
    draw = np.random.default_rng(2)
    values = draw.normal(size=(3001, 37)).astype(np.float16)
    copies = np.arange(5, 3001, 13)
    values[copies] = values[5]
    monkeypatch.setattr(neighbours, "_BLOCK", 5000)
    query = values[5].astype(np.float32)[None] + 0.3
    [best] = nearest(column(values), query, 100, without=[None])
    assert best.rows.tolist() == copies[:100].tolist()
    assert len(set(best.similarities.tolist())) == 1


def test_extreme_lengths(column):
    """Zeros are similar to nothing; very long and very short vectors point somewhere, too."""
    values = np.zeros((8, 4), np.float32)
    values[1] = [3e38, 3e38, 0, 0]
    values[2] = [1e-38, 1e-38, 0, 0]
    values[3] = [-1e30, -1e30, 0, 0]
    values[4] = [1e-45, 0, 0, 0]
    values[5] = [np.nan, 1, 0, 0]
    values[6] = [np.inf, 1, 0, 0]
    values[7] = [0, 0, 1, 0]
    [best] = nearest(column(values), np.float32([[2e38, 2e38, 0, 0]]), 10, without=[None])
    found = dict(zip(best.rows.tolist(), best.similarities.tolist(), strict=True))
    expected = {1: 1.0, 2: 1.0, 4: 2**-0.5, 0: 0.0, 7: 0.0, 3: -1.0}
    assert found == pytest.approx(expected, abs=1e-6)
    [best] = nearest(column(values), np.zeros((1, 4), np.float32), 3, without=[None])
    assert best.similarities.tolist() == [0, 0, 0] and best.rows.tolist() == [0, 1, 2]


def test_fewer_rows_than_asked_for(column):
    """All rows are found where there are fewer; none where there are none."""
    query = np.ones((1, 4), np.float32)
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert len(nearest(column(values), query, 10, without=[1])[0].rows) == 2
    assert (
        len(nearest(column(np.empty((0, 0), np.float32)), query, 10, without=[None])[0].rows) == 0
    )
    with pytest.raises(UsageError, match="4 numbers a row, and the image 5"):
        nearest(column(values), np.ones((1, 5), np.float32), 1, without=[None])


def test_bounded_memory(column, monkeypatch):
    """Ten times the rows take no more memory."""
    monkeypatch.setattr(neighbours, "_BLOCK", 50_000)

    def peak(rows):
        features = column(np.zeros((rows, 64), np.float16))
        tracemalloc.start()
        try:
            nearest(features, np.ones((2, 64), np.float32), 10, without=[None, 3])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(500)
    assert peak(20_000) < 1.2 * peak(2_000)
