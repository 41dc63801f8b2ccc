"""Items beside others: twins with different labels, and items that nothing is like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: the neighbour whose similarity says how lonely an item is
NEIGHBOUR = 10
_TOGETHER = 512  # items that are compared with all at once


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """What all pairs of items gave.

    Attributes:
        twins: int64 ``[T, 2]``, pairs of items with different labels, the first one ascending; the
            most similar first.
        similarities: float32 ``[T]``, of these: the cosine of their features.
        lonely: int64 ``[n]``, all items, the one whose tenth nearest is farthest away first.
        nearness: float32 ``[n]``, that similarity, in the same order.
    """

    twins: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]
    lonely: npt.NDArray[np.int64]
    nearness: npt.NDArray[np.float32]


def look(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    *,
    similar: float,
    advance: Callable[[int], None] = lambda rows: None,
) -> Neighbourhood:
    """Compares every item with every other one.

    Args:
        features: float32 ``[n, D]``.
        labels: int32 ``[n]``.
        similar: twins are at least so similar; from -1 to 1.
        advance: called with the number of items done.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    units = features / np.where(lengths > 0, lengths, 1)
    count = len(units)
    neighbour = min(NEIGHBOUR, count - 1)
    nearness = np.zeros(count, np.float32)
    pairs: list[npt.NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
    found: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)]
    for start in range(0, count, _TOGETHER):
        block = slice(start, start + _TOGETHER)
        cosines = units[block] @ units.T
        mine = np.arange(start, start + len(cosines))
        cosines[np.arange(len(mine)), mine] = -2.0  # itself
        if neighbour:
            nearness[block] = np.partition(cosines, count - neighbour, axis=1)[:, -neighbour]
        twin = (cosines >= similar) & (labels[block, None] != labels[None])
        rows, columns = np.nonzero(twin & (mine[:, None] < np.arange(count)[None]))
        pairs.append(np.stack([mine[rows], columns], axis=1).astype(np.int64))
        found.append(cosines[rows, columns].astype(np.float32))
        advance(len(mine))
    twins, similarities = np.concatenate(pairs), np.concatenate(found)
    order = np.argsort(-similarities, kind="stable")
    lonely = np.argsort(nearness, kind="stable")
    return Neighbourhood(
        twins=twins[order],
        similarities=similarities[order],
        lonely=lonely,
        nearness=nearness[lonely],
    )


def outliers(nearness: npt.NDArray[np.float32], deviations: float) -> int:
    """How many items are so lonely that they hardly belong to the others.

    Those whose similarity lies more than ``deviations`` robust standard deviations (1.4826 times
    the median absolute deviation, Rousseeuw & Croux 1993) below the median of all.

    Args:
        nearness: float32 ``[n]``, ascending, see :class:`Neighbourhood`.
        deviations: above 0.

    Example:
        >>> outliers(np.array([0.1, 0.88, 0.89, 0.9, 0.91, 0.92], np.float32), 3.0)
        1
    """
    if not len(nearness):
        return 0
    values = nearness.astype(np.float64)
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return int(np.searchsorted(values, middle - deviations * spread))
