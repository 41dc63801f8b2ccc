"""Batches of a plan: every image once, and the same batch for an image whatever is left to do."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.inference.grid import Grid
from fashionbatch.inference.plan import Unit

sizes = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def grid(counts, batch, damaged=()):
    units, start = [], 100
    for number, count in enumerate(counts):
        rows = np.arange(start, start + count)
        damage = "gone" if number in damaged else None
        units.append(Unit(name=str(number), chosen=rows, sha256="", damage=damage))
        start += count
    return Grid(units, batch)


@given(sizes, st.integers(1, 7), st.sets(st.integers(0, 11)))
def test_every_image_once(counts, batch, damaged):
    """Full batches but for the last; the shares say whose each image is."""
    made = grid(counts, batch, damaged)
    wanted = [(u, p) for u, c in enumerate(counts) if u not in damaged for p in range(c)]
    found, numbers = [], made.numbers(range(len(counts)))
    assert numbers == list(range(len(made)))
    for number, rows in zip(numbers, made.batches(numbers), strict=True):
        assert len(rows) == batch or number == len(made) - 1
        assert 0 < len(rows) <= batch
        at = 0
        for share in made.shares(number):
            assert share.offset == at
            for place in share.places.tolist():
                assert rows[at] == made.units[share.unit].rows[place]
                found.append((share.unit, place))
                at += 1
        assert at == len(rows)
    assert found == wanted


@given(sizes, st.integers(1, 7), st.data())
def test_what_is_left_has_the_batches_that_it_always_had(counts, batch, data):
    """A resumed run computes batches of the whole run, and no other than it needs."""
    made = grid(counts, batch)
    pending = sorted(data.draw(st.sets(st.sampled_from(range(len(counts))))))
    numbers = made.numbers(pending)
    for number in range(len(made)):
        owners = {share.unit for share in made.shares(number)}
        assert (number in numbers) == bool(owners & set(pending))
