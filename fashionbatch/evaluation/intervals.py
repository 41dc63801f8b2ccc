"""How certain figures are: bootstrap intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fashionbatch.evaluation.figures import Cells

SAMPLES = 2000
#: cells times samples that are drawn at once
_AT_ONCE = 1 << 24


def bootstrap(
    cells: Cells, *, seed: int, samples: int = SAMPLES, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of the figures (Efron & Tibshirani 1993, chapter 13).

    Items are drawn anew with replacement, as many as there are. Items of one cell cannot be told
    apart, so that how many are drawn of each cell is multinomial, whatever the number of items.

    Args:
        cells: what came of the items.
        seed: of the draws.
        samples: how many.
        level: share of the samples between the ends.

    Returns:
        each figure's lower and upper end; ``None`` where it is not known.
    """
    total = int(cells.counts.sum())
    if not total:
        return dict.fromkeys(cells.figures())
    draw = np.random.default_rng(seed)
    shares = cells.counts / total
    together = max(1, _AT_ONCE // len(shares))
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, samples, together):
        count = min(together, samples - start)
        drawn = replace(cells, counts=draw.multinomial(total, shares, size=count).astype(np.int64))
        for name, values in drawn.figures().items():
            found.setdefault(name, []).append(values)
    tail = 100 * (1 - level) / 2
    ends: dict[str, tuple[float, float] | None] = {}
    for name, blocks in found.items():
        values = np.concatenate(blocks)
        there = values[~np.isnan(values)]
        low, high = np.percentile(there, [tail, 100 - tail]) if len(there) else (np.nan, np.nan)
        ends[name] = (float(low), float(high)) if len(there) else None
    return ends
