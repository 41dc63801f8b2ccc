"""Rows of different lengths: they come back, whole and in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.shards.ragged import Ragged, Texts

ROWS = st.lists(st.lists(st.integers(0, 65535), max_size=5), max_size=20)
TEXTS = st.lists(st.text(max_size=8), max_size=20)


@given(ROWS)
def test_rows_come_back(rows: list[list[int]]) -> None:
    """Each row by number, from the end too, and by going through them."""
    made = Ragged.of(rows, np.uint16)
    assert made.sound and made.values.dtype == np.uint16
    assert [r.tolist() for r in made] == rows
    assert [made[n].tolist() for n in range(-len(rows), 0)] == rows
    assert made.lengths.tolist() == [len(r) for r in rows]


@given(TEXTS)
def test_texts_come_back(texts: list[str]) -> None:
    """As text and as UTF-8."""
    made = Texts.of_texts(texts)
    assert list(made) == texts and made.sound
    assert [made.raw(n) for n in range(len(texts))] == [t.encode() for t in texts]


@given(st.lists(ROWS, min_size=1, max_size=4), st.lists(TEXTS, min_size=1, max_size=4))
def test_parts_are_joined_in_order(parts: list[list[list[int]]], texts: list[list[str]]) -> None:
    """Empty parts included."""
    joined = Ragged.joined([Ragged.of(p, np.uint16) for p in parts])
    assert [r.tolist() for r in joined] == [r for p in parts for r in p] and joined.sound
    assert list(Texts.joined([Texts.of_texts(t) for t in texts])) == [t for p in texts for t in p]


@pytest.mark.parametrize("row", [2, -3, 99])
def test_row_that_there_is_not(row: int) -> None:
    """Never another row instead."""
    with pytest.raises(IndexError):
        Ragged.of([[1], [2, 3]], np.uint16)[row]
    with pytest.raises(IndexError):
        Texts.of_texts(["a", "b"])[row]


@pytest.mark.parametrize("ends", [[1, 2], [2, 1, 3], [1, 4], [1, 2**63]])
def test_arrays_that_do_not_fit_are_seen(ends: list[int]) -> None:
    """Falling ends, or others than the values have."""
    assert Ragged(np.arange(3), np.array([1, 3], np.uint64)).sound
    assert not Ragged(np.arange(3), np.array(ends, np.uint64)).sound


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=8), st.data())
def test_cells_of_rows_in_any_order(rows: list[list[int]], data: st.DataObject) -> None:
    """Each value with the place of its row among those asked for."""
    asked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    items, values = Ragged.of(rows, np.uint16).cells(np.array(asked, np.int64))
    wanted = [(place, value) for place, row in enumerate(asked) for value in rows[row]]
    assert list(zip(items.tolist(), values.tolist(), strict=True)) == wanted
