"""Two prediction files of the same items: which one is right more often, and whether by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import UsageError, counted
from fashionbatch.evaluation.outcomes import Outcomes, gather
from fashionbatch.store.reader import Predictions

#: items named one by one
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the other file changes.

    Attributes:
        items: that both have, with a known class.
        both: right in both.
        won: right only in this one.
        lost: right only in the other one.
        neither: right in none.
        p: of McNemar's exact test: how probable at least this difference is by chance alone.
        won_names: some of the items won, and ``lost_names`` of those lost.
    """

    items: int
    both: int
    won: int
    lost: int
    neither: int
    p: float
    won_names: tuple[str, ...]
    lost_names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


def compare(
    one: Predictions, outcomes: Outcomes, labels: npt.NDArray[np.int32], other: Predictions
) -> Comparison:
    """Holds the items of a file against those of another one, by name.

    A name that stands for several items of either file is left out.

    Args:
        one: the file.
        outcomes: of it.
        labels: int32, of every row of it.
        other: the file that it is compared with; classes may be in another order.

    Raises:
        UsageError: they have no item in common, or other classes.
    """
    if set(one.classes) != set(other.classes):
        raise UsageError(
            f"{other.path} has other classes than {one.path}: compare predictions of one vocabulary"
        )
    mine: dict[str, tuple[int, bool]] = {}
    correct = dict(zip(outcomes.rows.tolist(), outcomes.correct.tolist(), strict=True))
    twice: set[str] = set()
    for batch in one.batches():
        for row, name in enumerate(batch.names, batch.start):
            if row in correct:
                twice.update({name} & mine.keys())
                mine[name] = int(labels[row]), correct[row]
    numbers = {name: number for number, name in enumerate(other.classes)}
    translated = np.array([numbers[name] for name in one.classes], np.int32)
    its = np.full(len(other), -1, np.int32)
    rows: dict[str, int] = {}
    for batch in other.batches():
        for row, name in enumerate(batch.names, batch.start):
            if name in mine:
                twice.update({name} & rows.keys())
                rows[name] = row
    names = {row: name for name, row in rows.items() if name not in twice}
    for row, name in names.items():
        its[row] = translated[mine[name][0]]
    found = gather(other, its)
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    shown: dict[tuple[bool, bool], list[str]] = {(True, False): [], (False, True): []}
    for row, right in zip(found.rows.tolist(), found.correct.tolist(), strict=True):
        pair = mine[names[row]][1], right
        counts[pair] += 1
        if pair in shown and len(shown[pair]) < _SHOWN:
            shown[pair].append(names[row])
    if not len(found):
        several = f"; {counted(len(twice), 'name')} stand for several" if twice else ""
        raise UsageError(f"{other.path} and {one.path} have no labelled item of one name{several}")
    won, lost = counts[True, False], counts[False, True]
    return Comparison(
        items=len(found),
        both=counts[True, True],
        won=won,
        lost=lost,
        neither=counts[False, False],
        p=mcnemar(won, lost),
        won_names=tuple(shown[True, False]),
        lost_names=tuple(shown[False, True]),
    )


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test (1947): of ``won + lost`` fair coins, at least so uneven.

    Example:
        >>> round(mcnemar(1, 9), 4)
        0.0215
    """
    total, few = won + lost, min(won, lost)
    if not total:
        return 1.0

    def log(k: int) -> float:
        ways = math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        return ways - total * math.log(2)

    return min(1.0, 2 * math.fsum(math.exp(log(k)) for k in range(few + 1)))
