"""Labels that the images contradict with confidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """Items whose label is doubted, the most doubtful first.

    Attributes:
        places: int64 ``[S]``, among the items.
        suggested: int64 ``[S]``, the class that they seem to be of.
        own: float64 ``[S]``, probability of the label.
        other: float64 ``[S]``, of the suggested class.
        agreement: share of all items whose most probable class is their label.
    """

    places: npt.NDArray[np.int64]
    suggested: npt.NDArray[np.int64]
    own: npt.NDArray[np.float64]
    other: npt.NDArray[np.float64]
    agreement: float

    @property
    def margin(self) -> npt.NDArray[np.float64]:
        """float64 ``[S]``, ``own`` less ``other``, ascending, from -1 up to 0."""
        return self.own - self.other


def find(
    judged: Callable[[], Iterable[npt.NDArray[np.float32]]],
    labels: npt.NDArray[np.int32],
    classes: int,
) -> Suspects:
    """Confident learning (Northcutt, Jiang & Chuang 2021).

    A class is confidently an item's if its probability is at least as high as the mean of that
    class's over the items labelled so. An item is suspect whose most probable confident class is
    not its label, and more probable than that: of a class with a handful of items the mean may be
    next to nothing.

    Probabilities are taken twice, block by block: for the means, and to compare with them.

    Args:
        judged: gives float32 ``[b, classes]`` for some items after the other, from the first one
            each time it is called, of a classifier that has not seen them.
        labels: int32 ``[n]``.
        classes: how many there are.
    """
    own = np.empty(len(labels), np.float32)
    agreed = start = 0
    for block in judged():
        mine = labels[start : start + len(block)]
        own[start : start + len(block)] = block[np.arange(len(block)), mine]
        agreed += int((block.argmax(axis=1) == mine).sum())
        start += len(block)
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, own, minlength=classes)
    # of a class that no item has, nothing can be confident
    least = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    found: list[tuple[npt.NDArray[Any], ...]] = []
    start = 0
    for block in judged():
        found.append(_doubted(block.astype(np.float64), labels[start : start + len(block)], least))
        found[-1][0][:] += start
        start += len(block)
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))
    places, suggested, known, other = map(np.concatenate, zip(nothing, *found, strict=True))
    order = np.argsort(known - other, kind="stable")
    return Suspects(
        places=places[order],
        suggested=suggested[order],
        own=known[order],
        other=other[order],
        agreement=agreed / max(1, len(labels)),
    )


def _doubted(
    values: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int32],
    least: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[Any], ...]:
    """Of some items: places, suggested classes, and the probabilities of label and suggestion."""
    places = np.arange(len(labels))
    own = values[places, labels]
    confident = np.where(values >= least, values, -1.0)
    best = confident.argmax(axis=1)
    other = values[places, best]
    doubted = (confident.max(axis=1) >= 0) & (best != labels) & (own < other)
    chosen = np.flatnonzero(doubted)
    return chosen, best[chosen], own[chosen], other[chosen]
