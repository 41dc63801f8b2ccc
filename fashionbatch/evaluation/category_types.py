"""Categories by their type, such as DeepFashion's upper body, lower body and full body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.evaluation.figures import Cells, Counts, known, share
from fashionbatch.evaluation.intervals import resampled

_TOP = (1, 3)


def evaluate(
    cells: Cells, classes: tuple[str, ...], types: Mapping[str, str], *, seed: int
) -> tuple[list[dict[str, Any]], float | None]:
    """How the items of each type fare, and how often the type is right.

    The type is right where the most probable class is of the item's type, whatever class that is.
    Items of classes without a type count nowhere here.

    Args:
        cells: what came of the items.
        classes: of the model, in order.
        types: from classes to their types.
        seed: of the bootstrap.

    Returns:
        the figures of each type, in the order of the classes: ``{"type", "classes", "items",
        "top1", "top3", "type_accuracy", "intervals"}``, where the top classes are those among all
        classes; and the share of all items of which the type is right.
    """
    names = list(dict.fromkeys(types[name] for name in classes if name in types))
    numbers = {name: number for number, name in enumerate(names)}
    of_class = np.array([numbers.get(types.get(name, ""), -1) for name in classes], np.int64)
    truth = of_class[cells.labels]
    found = []
    for name, number in numbers.items():
        mine = _chosen(cells, truth == number)
        right = of_class[mine.predicted] == number
        figures = _figures(mine, right, mine.counts)
        found.append(
            {
                "type": name,
                "classes": int((of_class == number).sum()),
                "items": int(mine.counts.sum()),
                **{key: known(value) for key, value in figures.items()},
                "intervals": resampled(
                    mine.counts,
                    partial(_figures, mine, right),
                    seed=seed,
                ),
            }
        )
    typed = _chosen(cells, truth >= 0)
    right = of_class[typed.predicted] == of_class[typed.labels]
    return found, known(share(typed.counts[right].sum(), typed.counts.sum()))


def _chosen(cells: Cells, mask: npt.NDArray[np.bool_]) -> Cells:
    return replace(
        cells,
        labels=cells.labels[mask],
        predicted=cells.predicted[mask],
        ranks=cells.ranks[mask],
        counts=cells.counts[mask],
    )


def _figures(
    cells: Cells, right: npt.NDArray[np.bool_], counts: Counts
) -> dict[str, npt.NDArray[np.float64]]:
    drawn = replace(cells, counts=counts)
    return {
        **{f"top{k}": drawn.top(k) for k in _TOP},
        "type_accuracy": share(counts[..., right].sum(-1), counts.sum(-1)),
    }
