"""Which items are listed, and which of them get a picture."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.reporting import items
from fashionbatch.store.answers import Answers

COUNTS = st.integers(0, 60)


def answers_of(count: int, seed: int) -> Answers:
    draw = np.random.default_rng(seed)
    return Answers(
        labels=draw.integers(-1, 4, count).astype(np.int32),
        predicted=draw.integers(0, 4, count).astype(np.int32),
        confidence=draw.random(count).astype(np.float32),
    )


@given(COUNTS, COUNTS, st.integers(1, 70), st.integers(0, 5))
def test_listed_once_and_no_more(count: int, suspects: int, most: int, seed: int) -> None:
    answers = answers_of(count, seed)
    doubted = np.random.default_rng(seed).permutation(count)[:suspects]
    rows = items.choose(answers, doubted, most, seed)
    assert len(rows) == min(count, most)
    assert (np.diff(rows) > 0).all()
    pictured = items.pictured(answers, rows, doubted, most // 2)
    assert len(pictured) == min(len(rows), most // 2)
    assert set(pictured.tolist()) <= set(rows.tolist()) and len(set(pictured.tolist())) == len(
        pictured
    )


def test_doubtful_ones_come_first() -> None:
    """Suspects and sure mistakes in turn, then the least sure."""
    answers = Answers(
        labels=np.array([0, 0, 0, -1, 1], np.int32),
        predicted=np.array([1, 0, 1, 2, 1], np.int32),
        confidence=np.array([0.5, 0.9, 0.8, 0.3, 0.7], np.float32),
    )
    assert items.doubtful(answers, np.array([4])).tolist() == [4, 2, 0, 3, 1]
    assert 4 in items.choose(answers, np.array([4]), 2, 0)


def test_every_class_gets_pictures() -> None:
    """A large class does not take them all."""
    answers = Answers(
        labels=np.zeros(100, np.int32),
        predicted=np.r_[np.zeros(97), 1, 2, 3].astype(np.int32),
        confidence=np.full(100, 0.9, np.float32),
    )
    answers.labels[:] = answers.predicted
    chosen = items.pictured(answers, np.arange(100), np.empty(0, np.int64), 20)
    assert {97, 98, 99} <= set(chosen.tolist())
