"""Labels that the images contradict with confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """Items whose label is doubted, the most doubtful first.

    Attributes:
        places: int64 ``[S]``, among the items.
        suggested: int64 ``[S]``, the class that they seem to be of.
        margin: float64 ``[S]``, probability of the label less that of the suggested class,
            ascending, from -1 up to 0.
    """

    places: npt.NDArray[np.int64]
    suggested: npt.NDArray[np.int64]
    margin: npt.NDArray[np.float64]


def find(probability: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> Suspects:
    """Confident learning (Northcutt, Jiang & Chuang 2021).

    A class is confidently an item's if its probability is at least as high as the mean of that
    class's over the items labelled so. An item is suspect whose most probable confident class is
    not its label, and more probable than that: of a class with a handful of items the mean may be
    next to nothing.

    Args:
        probability: float ``[n, C]``, of a classifier that has not seen the items.
        labels: int32 ``[n]``.
    """
    values = probability.astype(np.float64)
    places = np.arange(len(labels))
    own = values[places, labels]
    counts = np.bincount(labels, minlength=values.shape[1])
    sums = np.bincount(labels, own, minlength=values.shape[1])
    # of a class that no item has, nothing can be confident
    least = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    confident = np.where(values >= least, values, -1.0)
    best = confident.argmax(axis=1) if len(labels) else places
    margin = own - values[places, best]
    doubted = (confident.max(axis=1, initial=-1.0) >= 0) & (best != labels) & (margin < 0)
    chosen = np.flatnonzero(doubted)
    chosen = chosen[np.argsort(margin[chosen], kind="stable")]
    return Suspects(places=chosen, suggested=best[chosen], margin=margin[chosen])
