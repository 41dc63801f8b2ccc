"""Which items of a prediction file can be looked through, and in which order they get pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashionbatch.store.reader import Predictions

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What is known of every row of a prediction file; 12 bytes of memory for each.

    Attributes:
        labels: int32 ``[N]``, positions in the classes; -1 unknown.
        predicted: int32 ``[N]``, the most probable class.
        confidence: float32 ``[N]``, its probability.
    """

    labels: npt.NDArray[np.int32]
    predicted: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: the label is known and another class."""
        wrong: npt.NDArray[np.bool_] = (self.labels >= 0) & (self.labels != self.predicted)
        return wrong


def read(predictions: Predictions, labels: npt.NDArray[np.int32]) -> Answers:
    """Reads them block by block."""
    predicted = np.empty(len(predictions), np.int32)
    confidence = np.empty(len(predictions), np.float32)
    for batch in predictions.batches():
        predicted[batch.start : batch.stop] = batch.topk_index[:, 0]
        confidence[batch.start : batch.stop] = batch.topk_probability[:, 0]
    return Answers(labels=labels, predicted=predicted, confidence=confidence)


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


def names(predictions: Predictions, rows: Rows) -> list[str]:
    """What the catalogue calls ascending rows; read block by block."""
    found: list[str] = []
    for batch in predictions.batches():
        low, high = np.searchsorted(rows, [batch.start, batch.stop])
        if low < high:
            block = batch.names
            found += [block[int(row) - batch.start] for row in rows[low:high]]
    return found
