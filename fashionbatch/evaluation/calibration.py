"""Whether probabilities mean what they say, and what makes them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fashionbatch.store.column import Column

BINS = 15
#: between which the temperature lies, as powers of e
_COLDEST, _HOTTEST = -3.0, 3.0
_PRECISE = 1e-4
#: items from which a temperature is fitted: more change its third digit
_MOST = 100_000
_SMALLEST = 1e-12  # probability: a class that was rounded to 0 is not impossible

Floats = npt.NDArray[np.floating[Any]]


class Bin(NamedTuple):
    """Items of about the same confidence.

    Attributes:
        low: the lowest confidence, exclusive, and ``high``, inclusive.
        items: how many there are.
        confidence: their mean; ``None`` without items.
        accuracy: how many of them are right; ``None`` without items.
    """

    low: float
    high: float
    items: int
    confidence: float | None
    accuracy: float | None


def reliability(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """Items by confidence, in bins of the same width.

    Args:
        confidence: ``[N]``, of the most probable class, from 0 to 1.
        correct: bool ``[N]``.
        bins: how many.
    """
    places = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums = np.bincount(places, confidence, minlength=bins)
    right = np.bincount(places, correct, minlength=bins)
    return [
        Bin(
            low=i / bins,
            high=(i + 1) / bins,
            items=int(counts[i]),
            confidence=float(sums[i] / counts[i]) if counts[i] else None,
            accuracy=float(right[i] / counts[i]) if counts[i] else None,
        )
        for i in range(bins)
    ]


def expected_error(bins: list[Bin]) -> float | None:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017), from 0 to 1.

    The mean, over the items, of how far the accuracy of their bin is from its confidence; ``None``
    without items.
    """
    total = sum(b.items for b in bins)
    if not total:
        return None
    apart = (
        b.items * abs(b.accuracy - b.confidence)
        for b in bins
        if b.accuracy is not None and b.confidence is not None
    )
    return sum(apart) / total


class Temperature(NamedTuple):
    """What divides the logits so that probabilities mean what they say.

    Attributes:
        value: above 1 makes the model less certain.
        loss: negative log-likelihood per item before, and ``scaled_loss`` behind it, in nats.
        ece: expected calibration error behind it.
        items: that it was fitted from.
        edge: the loss falls as far as the search goes (e to the power of -3 to 3), as it does where
            every answer is right: the value is where it ended, and fits nothing.
    """

    value: float
    loss: float
    scaled_loss: float
    ece: float
    items: int
    edge: bool


def temperature(
    probability: Column,
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int32],
    *,
    seed: int,
) -> Temperature:
    """Fits one number to the known classes (temperature scaling, Guo et al. 2017).

    Softmax of logits divided by ``T`` is, of the probabilities that are stored,
    ``p ** (1 / T)`` over its sum. The loss has one minimum in ``1 / T``, which is found by golden
    section.

    Args:
        probability: ``[N, C]``, of every class.
        rows: int64 ``[n]``, ascending, those with a known class; at least one.
        labels: int32 ``[n]``, of these.
        seed: of the choice where there are over 100,000.
    """
    if len(rows) > _MOST:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:_MOST])
        rows, labels = rows[chosen], labels[chosen]
    logs = np.log(np.maximum(_read(probability, rows).astype(np.float64), _SMALLEST))
    places = np.arange(len(rows))

    def scaled(heat: float) -> npt.NDArray[np.float64]:
        """Logarithms of the probabilities at the temperature ``e ** heat``."""
        values = logs / math.exp(heat)
        top = values.max(axis=1, keepdims=True)
        summed: npt.NDArray[np.float64] = top + np.log(np.exp(values - top).sum(1, keepdims=True))
        return values - summed

    def loss(heat: float) -> float:
        return float(-scaled(heat)[places, labels].mean())

    low, high = _COLDEST, _HOTTEST
    golden = (math.sqrt(5) - 1) / 2
    while high - low > _PRECISE:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    heat = (low + high) / 2
    values = scaled(heat)
    best = values.argmax(axis=1)
    bins = reliability(np.exp(values[places, best]), best == labels)
    return Temperature(
        value=math.exp(heat),
        loss=loss(0.0),
        scaled_loss=loss(heat),
        ece=expected_error(bins) or 0.0,
        items=len(rows),
        edge=heat - _COLDEST < 2 * _PRECISE or _HOTTEST - heat < 2 * _PRECISE,
    )


def _read(column: Column, rows: npt.NDArray[np.int64]) -> Floats:
    """Ascending rows, in blocks."""
    step = 8192
    found = [np.empty((0, *column.shape[1:]), column.dtype)]
    for start in range(0, int(rows[-1]) + 1, step):
        mine = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + step)]
        if len(mine):
            found.append(column[start : start + step][mine - start])
    return np.concatenate(found)
