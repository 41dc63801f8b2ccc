"""Accuracies, and how each class fares, from counts of what came of the items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fashionbatch.evaluation.outcomes import Outcomes

TOP = (1, 3, 5)

Counts = npt.NDArray[np.int64]


class PerClass(NamedTuple):
    """How well a class is told from the others.

    Attributes:
        name: of the class.
        support: items that are of it.
        predicted: items that were taken for it.
        recall: share of the first that were found; ``None`` where there are none.
        precision: share of the second that are right; ``None`` where there are none.
        f1: harmonic mean of both; ``None`` where one is.
    """

    name: str
    support: int
    predicted: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Cells:
    """Items of the same label, prediction and rank, counted: all that the figures depend on.

    Attributes:
        labels: int64 ``[M]``, and so ``predicted`` and ``ranks``.
        counts: int64 ``[M]``, or ``[S, M]`` of several samples.
        classes: how many there are.
        stored: classes stored of each item.
    """

    labels: Counts
    predicted: Counts
    ranks: Counts
    counts: Counts
    classes: int
    stored: int

    @classmethod
    def of(cls, outcomes: Outcomes) -> Cells:
        """Of all outcomes."""
        classes, places = len(outcomes.classes), outcomes.stored + 1  # -1 is a rank, too
        codes = outcomes.labels.astype(np.int64) * classes + outcomes.predicted
        unique, counts = np.unique(codes * places + outcomes.ranks + 1, return_counts=True)
        pairs, ranks = np.divmod(unique, places)
        labels, predicted = np.divmod(pairs, classes)
        return cls(labels, predicted, ranks - 1, counts.astype(np.int64), classes, outcomes.stored)

    def top(self, k: int) -> npt.NDArray[np.float64]:
        """Share of the items whose label is among the ``k`` most probable; NaN unless stored.

        With fewer than ``k`` classes stored it is known only where those are all there are.
        """
        if k > self.stored and self.stored < self.classes:
            return np.full(self.counts.shape[:-1], np.nan)
        hits = (self.ranks >= 0) & (self.ranks < k)
        return share(self.counts[..., hits].sum(-1), self.counts.sum(-1))

    def support(self) -> Counts:
        """int64 ``[..., C]``: items of each class."""
        return self._by(self.labels)

    def taken(self) -> Counts:
        """int64 ``[..., C]``: items predicted as each class."""
        return self._by(self.predicted)

    def right(self) -> Counts:
        """int64 ``[..., C]``: items of each class that were predicted so."""
        return self._by(self.labels, self.ranks == 0)

    def macro_recall(self) -> npt.NDArray[np.float64]:
        """Mean over the classes that have items of the share of these that were found."""
        return _mean(share(self.right(), self.support()))

    def macro_precision(self) -> npt.NDArray[np.float64]:
        """Mean over the classes that were predicted of the share that is right."""
        return _mean(share(self.right(), self.taken()))

    def confusion(self) -> Counts:
        """int64 ``[C, C]``: items of each class (row) predicted as each class (column)."""
        matrix = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(matrix, (self.labels, self.predicted), self.counts)
        return matrix

    def figures(self) -> dict[str, npt.NDArray[np.float64]]:
        """``top1, top3, top5, macro_recall, macro_precision``."""
        tops = {f"top{k}": self.top(k) for k in TOP}
        return {
            **tops,
            "macro_recall": self.macro_recall(),
            "macro_precision": self.macro_precision(),
        }

    def _by(self, classes: Counts, mask: npt.NDArray[np.bool_] | None = None) -> Counts:
        """The counts added up by class."""
        chosen = np.arange(len(classes)) if mask is None else np.flatnonzero(mask)
        chosen = chosen[np.argsort(classes[chosen], kind="stable")]
        counts = np.zeros((*self.counts.shape[:-1], self.classes), np.int64)
        there, starts = np.unique(classes[chosen], return_index=True)
        if len(there):
            counts[..., there] = np.add.reduceat(self.counts[..., chosen], starts, axis=-1)
        return counts


def per_class(cells: Cells, names: tuple[str, ...]) -> list[PerClass]:
    """The figures of each class, in the model's order."""
    supports, takens = cells.support(), cells.taken()
    recall, precision = share(cells.right(), supports), share(cells.right(), takens)
    found = []
    for number, name in enumerate(names):
        r, p = known(recall[number]), known(precision[number])
        f1 = None if r is None or p is None else (2 * r * p / (r + p) if r + p else 0.0)
        support, taken = int(supports[number]), int(takens[number])
        found.append(PerClass(name, support, taken, r, p, f1))
    return found


def confused(cells: Cells, names: tuple[str, ...], most: int) -> list[dict[str, Any]]:
    """The most frequent mistakes: ``{"label", "predicted", "count", "share"}`` of the label."""
    wrong = cells.confusion()
    support = wrong.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [
        {
            "label": names[a],
            "predicted": names[b],
            "count": int(wrong[a, b]),
            "share": float(wrong[a, b] / support[a]),
        }
        for a, b in pairs
        if wrong[a, b]
    ]


def known(value: npt.ArrayLike) -> float | None:
    """A single figure, or ``None`` where there was nothing to count."""
    figure = float(np.asarray(value))
    return None if math.isnan(figure) else figure


def share(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Part of a whole, of the same shape; NaN where the whole is 0."""
    found = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=found, where=np.asarray(whole) > 0)
    return found


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    there = ~np.isnan(values)
    counts = there.sum(-1)
    return share(np.where(there, values, 0).sum(-1), counts)
