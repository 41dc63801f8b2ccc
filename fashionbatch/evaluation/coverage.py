"""How much can be left to the model: accuracy against the share of items it is trusted with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

#: shares of the items that a curve has points at
POINTS = tuple(round(0.05 * i, 2) for i in range(1, 21))


class Covered(NamedTuple):
    """The most confident items.

    Attributes:
        coverage: their share of all.
        threshold: the lowest confidence among them.
        accuracy: how many of them are right.
    """

    coverage: float
    threshold: float
    accuracy: float


def curve(
    confidence: npt.NDArray[np.floating[Any]], correct: npt.NDArray[np.bool_]
) -> list[Covered]:
    """Accuracy of the most confident items, at twenty shares of all.

    Items of the same confidence are taken together, so a point may cover more than its share.
    """
    order, ends = _ordered(confidence)
    right = np.cumsum(correct[order])
    points = []
    for share in POINTS if len(order) else ():
        end = int(ends[np.searchsorted(ends, np.ceil(share * len(order)))])
        points.append(
            Covered(
                end / len(order), float(confidence[order[end - 1]]), float(right[end - 1] / end)
            )
        )
    return points


def threshold(
    confidence: npt.NDArray[np.floating[Any]], correct: npt.NDArray[np.bool_], precision: float
) -> Covered | None:
    """The most items of which at least the share ``precision`` is right, by confidence.

    Returns:
        ``None`` where no confidence is high enough.
    """
    order, ends = _ordered(confidence)
    if not len(order):
        return None
    accuracy = np.cumsum(correct[order])[ends - 1] / ends
    fitting = np.flatnonzero(accuracy >= precision)
    if not len(fitting):
        return None
    end = int(ends[fitting[-1]])
    return Covered(
        end / len(order), float(confidence[order[end - 1]]), float(accuracy[fitting[-1]])
    )


def _ordered(
    confidence: npt.NDArray[np.floating[Any]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Items, the most confident first, and how many there are down to each confidence."""
    order = np.argsort(-confidence, kind="stable")
    changes = np.flatnonzero(np.diff(confidence[order])) + 1
    return order, np.append(changes, len(order))[: max(1, len(order))]
