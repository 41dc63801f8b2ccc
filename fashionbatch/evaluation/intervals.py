"""How certain figures are: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.evaluation.figures import Cells

SAMPLES = 2000
#: cells times samples that are drawn at once
_AT_ONCE = 1 << 24

Counts = npt.NDArray[np.int64]
Interval = tuple[float, float] | None


def bootstrap(
    cells: Cells, *, seed: int, samples: int = SAMPLES, level: float = 0.95
) -> dict[str, Interval]:
    """Intervals of the figures of categories; see :func:`resampled`.

    Args:
        cells: what came of the items.
        seed: of the draws.
        samples: how many.
        level: share of the samples between the ends.
    """
    return resampled(
        cells.counts,
        lambda counts: replace(cells, counts=counts).figures(),
        seed=seed,
        samples=samples,
        level=level,
    )


def resampled(
    counts: Counts,
    figures: Callable[[Counts], Mapping[str, npt.NDArray[np.floating[Any]]]],
    *,
    seed: int,
    samples: int = SAMPLES,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of figures (Efron & Tibshirani 1993, chapter 13).

    Items are drawn anew with replacement, as many as there are. Items of one cell cannot be told
    apart, so that how many are drawn of each cell is multinomial, whatever the number of items.

    Args:
        counts: int64 ``[M]``, items of each cell.
        figures: from int64 ``[..., M]`` of such counts to each figure's values ``[...]``.
        seed: of the draws.
        samples: how many.
        level: share of the samples between the ends.

    Returns:
        each figure's lower and upper end; ``None`` where it is not known.
    """
    total = int(counts.sum())
    if not total:
        return dict.fromkeys(figures(counts))
    draw = np.random.default_rng(seed)
    shares = counts / total
    together = max(1, _AT_ONCE // len(shares))
    found: dict[str, list[npt.NDArray[np.floating[Any]]]] = {}
    for start in range(0, samples, together):
        count = min(together, samples - start)
        drawn = draw.multinomial(total, shares, size=count).astype(np.int64)
        for name, values in figures(drawn).items():
            found.setdefault(name, []).append(values)
    tail = 100 * (1 - level) / 2
    ends: dict[str, Interval] = {}
    for name, blocks in found.items():
        values = np.concatenate(blocks)
        there = values[~np.isnan(values)]
        low, high = np.percentile(there, [tail, 100 - tail]) if len(there) else (np.nan, np.nan)
        ends[name] = (float(low), float(high)) if len(there) else None
    return ends
