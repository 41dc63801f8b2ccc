"""Which rows make which step: nothing lost, nothing twice, the same everywhere."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.training.sampling import Sampling


@given(
    st.integers(1, 200), st.integers(1, 40), st.integers(0, 3), st.integers(0, 5), st.integers(1, 4)
)
def test_every_row_once(count: int, size: int, seed: int, epoch: int, world: int) -> None:
    """In every epoch; no last step is too small for its processes, if there is another."""
    rows = np.arange(count, dtype=np.int64) * 3
    sampling = Sampling(rows=rows, batch_size=size, seed=seed, world=world)
    steps = sampling.epoch(epoch)
    assert len(steps) == sampling.steps()
    assert sorted(np.concatenate(steps).tolist()) == rows.tolist()
    assert all(len(s) == size for s in steps[:-1]) or len(steps) == 1
    assert len(steps) == 1 or len(steps[-1]) >= min(size, 2 * world)
    again = Sampling(rows=rows, batch_size=size, seed=seed, world=world).epoch(epoch)
    assert [s.tolist() for s in again] == [s.tolist() for s in steps]
    shares = [s[rank::world] for s in steps for rank in range(world)]
    assert sorted(np.concatenate(shares).tolist()) == rows.tolist()


def test_epochs_and_seeds_differ() -> None:
    """Each has an order of its own."""
    rows = np.arange(50, dtype=np.int64)
    made = {
        tuple(np.concatenate(Sampling(rows=rows, batch_size=8, seed=s).epoch(e)).tolist())
        for s in (0, 1)
        for e in (0, 1)
    }
    assert len(made) == 4


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 3))
def test_balanced_draws_each_class_alike(counts: list[int], epoch: int) -> None:
    """Numbers of the classes differ by one at most; of a class all come before any comes twice."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    rows = np.arange(len(labels), dtype=np.int64)
    sampling = Sampling(rows=rows, batch_size=7, seed=1, labels=labels)
    drawn = np.concatenate(sampling.epoch(epoch))
    assert len(drawn) == len(rows)
    found = np.bincount(labels[drawn], minlength=len(counts))
    assert found.max() - found.min() <= 1
    for number in range(len(counts)):
        times = np.bincount(drawn[labels[drawn] == number], minlength=len(rows))
        mine = times[labels == number]
        assert mine.max() - mine.min() <= 1
