"""Which items of a prediction file can be looked through, and in which order they get pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fashionbatch.store.answers import Answers
from fashionbatch.store.reader import Predictions

Rows = npt.NDArray[np.int64]


def doubtful(answers: Answers, suspects: Rows) -> Rows:
    """Rows to look at first, each once: suspects and confident mistakes in turn, then unsure ones.

    Args:
        answers: of every row.
        suspects: rows whose label an audit doubts, the worst first.
    """
    wrong = np.flatnonzero(answers.wrong)
    wrong = wrong[np.argsort(-answers.confidence[wrong], kind="stable")]
    both = np.full((2, max(len(suspects), len(wrong))), -1, np.int64)
    both[0, : len(suspects)], both[1, : len(wrong)] = suspects, wrong
    unsure = np.argsort(answers.confidence, kind="stable")
    order = np.concatenate([both.T[both.T >= 0], unsure])
    _, first = np.unique(order, return_index=True)
    ordered: Rows = order[np.sort(first)].astype(np.int64)
    return ordered


def choose(answers: Answers, suspects: Rows, most: int, seed: int) -> Rows:
    """Rows that are listed: all, or of too many half by doubt and half at random.

    Args:
        answers: of every row.
        suspects: rows whose label an audit doubts, the worst first.
        most: how many are listed.
        seed: of the random half.

    Returns:
        int64, ascending.
    """
    if len(answers) <= most:
        return np.arange(len(answers))
    first = doubtful(answers, suspects)[: most // 2]
    others = np.setdiff1d(np.arange(len(answers)), first)
    drawn = np.random.default_rng(seed).choice(others, most - len(first), replace=False)
    return np.sort(np.concatenate([first, drawn])).astype(np.int64)


def pictured(answers: Answers, rows: Rows, suspects: Rows, most: int) -> Rows:
    """Listed rows that get a picture: half by doubt, half from all predicted classes in turn.

    Args:
        answers: of every row.
        rows: that are listed, ascending.
        suspects: rows whose label an audit doubts, the worst first.
        most: pictures.

    Returns:
        int64, the first one matters most.
    """
    listed = np.zeros(len(answers), np.bool_)
    listed[rows] = True
    order = doubtful(answers, suspects)
    order = order[listed[order]]
    if len(order) <= most:
        return order
    first, rest = order[: most // 2], order[most // 2 :]
    rest = rest[np.argsort(-answers.confidence[rest], kind="stable")]  # the typical ones
    turn = np.zeros(len(rest), np.int64)  # how many of its class lie in front of an item
    classes = answers.predicted[rest]
    for number in np.unique(classes):
        mine = np.flatnonzero(classes == number)
        turn[mine] = np.arange(len(mine))
    return np.concatenate([first, rest[np.argsort(turn, kind="stable")][: most - len(first)]])


#: of the attributes of an item, so many are named, if they are at least so probable
_NAMED, _PROBABLE = 3, 0.5


def attributes(predictions: Predictions, rows: Rows) -> list[str]:
    """The most probable attributes of ascending rows, in words; empty where none is probable."""
    names = [attribute.name for attribute in predictions.attributes]
    if not names:
        return [""] * len(rows)
    found: list[str] = []
    for batch in predictions.batches():
        low, high = np.searchsorted(rows, [batch.start, batch.stop])
        if low == high:
            continue
        block = predictions.attribute_probability[batch.start : batch.stop]
        for values in block[rows[low:high] - batch.start]:
            best = np.argsort(-values, kind="stable")[:_NAMED]
            probable = [i for i in best.tolist() if values[i] >= _PROBABLE]
            found.append(", ".join(f"{names[i]} {float(values[i]):.0%}" for i in probable))
    return found
