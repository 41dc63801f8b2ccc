"""Average precision of each attribute, and how certain their mean is."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from fashionbatch.evaluation.attributes.blocks import LEVELS, Block
from fashionbatch.evaluation.intervals import Interval

#: attributes that are counted together, in 4 bytes for each level of those that have it or not
TOGETHER = 1024

Floats = npt.NDArray[np.float64]


class Precision:
    """Average precision of some attributes, exact for the probabilities that are stored.

    ``Σ (R_n - R_n-1) · P_n`` over the levels of probability, from the highest down; images of the
    same probability are taken together. A float16 has :data:`LEVELS` levels, so that counts of
    them are all that is kept, however many images there are.

    Args:
        places: int64 ``[G]``, positions of the attributes; at most :data:`TOGETHER` or so.
    """

    def __init__(self, places: npt.NDArray[np.int64]) -> None:
        self.places = places
        self.counts = np.zeros((len(places), 2, LEVELS), np.uint32)

    def add(self, block: Block) -> None:
        """Counts the rows."""
        cells, known = self._cells(block)
        np.add.at(self.counts.reshape(-1), cells[known], np.uint32(1))

    @property
    def known(self) -> npt.NDArray[np.int64]:
        """int64 ``[G]``, images of which it is known."""
        return np.asarray(self.counts.sum(axis=(1, 2)), np.int64)

    @property
    def support(self) -> npt.NDArray[np.int64]:
        """int64 ``[G]``, images that have it."""
        return np.asarray(self.counts[:, 1].sum(axis=1), np.int64)

    def average(self) -> Floats:
        """float64 ``[G]``; NaN where no image has it."""
        return np.array([_Curve(counts).average for counts in self.counts], np.float64)

    def influence(self) -> npt.NDArray[np.float32]:
        """How an image moves the sum of the average precisions, with the weight it has.

        Returns:
            float32 ``[G, 2, LEVELS]``, the derivatives by the weight of an image that has an
            attribute (1) or not (0) and got that probability; 0 where no image has the attribute.
        """
        table = np.zeros(self.counts.shape, np.float32)
        for number, counts in enumerate(self.counts):
            curve = _Curve(counts)
            if curve.total:
                table[number] = curve.influence()
        return table

    def moved(self, table: npt.NDArray[np.float32], block: Block) -> Floats:
        """float64 ``[n]``: what :meth:`influence` says of each row."""
        cells, known = self._cells(block)
        moved: Floats = np.where(known, table.reshape(-1)[cells], 0).sum(axis=1, dtype=np.float64)
        return moved

    def _cells(self, block: Block) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        own = slice(self.places[0], self.places[-1] + 1)
        width = np.arange(len(self.places), dtype=np.int64)
        cells = (2 * width + block.has[:, own]) * LEVELS + block.levels[:, own]
        return cells, block.known[:, own]


class _Curve:
    """Precision at every level, from counts ``[2, LEVELS]`` of images without and with."""

    def __init__(self, counts: npt.NDArray[np.uint32]) -> None:
        self.negative, self.positive = counts[:, ::-1].astype(np.float64)
        right = self.positive.cumsum()
        self.taken = np.maximum(right + self.negative.cumsum(), 1)
        self.precision = right / self.taken
        self.total = float(right[-1])

    @property
    def average(self) -> float:
        return float((self.positive * self.precision).sum()) / self.total if self.total else np.nan

    def influence(self) -> Floats:
        """Derivatives of the average by the counts ``[2, LEVELS]``.

        An image lowers or raises the precision at its own level and at all below.
        """

        def below(values: Floats) -> Floats:
            return values[::-1].cumsum()[::-1]

        falls = below(self.positive * self.precision / self.taken)
        rises = below(self.positive * (1 - self.precision) / self.taken)
        moved = np.stack([-falls, self.precision + rises - self.average]) / self.total
        return moved[:, ::-1]


def interval(value: float, influences: Floats, level: float = 0.95) -> Interval:
    """Of a figure, from how each image moves it.

    The infinitesimal jackknife (Efron & Tibshirani 1993, chapter 21): the figure's variance over
    bootstrap samples is, as there are more images, the sum of the squared influences. Resampling
    itself would take every probability some thousand times.

    Args:
        value: the figure, from 0 to 1, or NaN.
        influences: float64 ``[N]``, derivatives of the figure by the images' weights.
        level: share of the samples between the ends.
    """
    if np.isnan(value):
        return None
    reach = NormalDist().inv_cdf((1 + level) / 2) * float(np.sqrt((influences**2).sum()))
    return max(0.0, value - reach), min(1.0, value + reach)
