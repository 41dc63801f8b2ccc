"""What a prediction file answers of every row, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashionbatch.store.reader import Predictions


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What is known of every row of a prediction file; 12 bytes of memory for each.

    Attributes:
        labels: int32 ``[N]``, positions in the classes; -1 unknown.
        predicted: int32 ``[N]``, the most probable class; -1 where the model learnt no category.
        confidence: float32 ``[N]``, its probability; 0 likewise.
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


def answers_of(predictions: Predictions, labels: npt.NDArray[np.int32] | None = None) -> Answers:
    """Reads them block by block; without ``labels``, those of the file."""
    labels = predictions.labels if labels is None else labels
    predicted = np.full(len(predictions), -1, np.int32)
    confidence = np.zeros(len(predictions), np.float32)
    if not predictions.classes:
        return Answers(labels=labels, predicted=predicted, confidence=confidence)
    for batch in predictions.batches():
        predicted[batch.start : batch.stop] = batch.topk_index[:, 0]
        confidence[batch.start : batch.stop] = batch.topk_probability[:, 0]
    return Answers(labels=labels, predicted=predicted, confidence=confidence)


def most_mistaken(confusion: npt.NDArray[np.int64], most: int) -> tuple[list[int], int]:
    """Which classes of a confusion matrix to look at.

    Args:
        confusion: ``[C, C]``, items by label (row) and by answer (column).
        most: classes.

    Returns:
        those that have or were given most mistakes, of the classes that occur, ascending; and how
        many more occur.
    """
    mistakes = confusion - np.diag(np.diag(confusion))
    counts = mistakes.sum(axis=0) + mistakes.sum(axis=1)
    occur = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    chosen = np.sort(occur[np.argsort(-counts[occur], kind="stable")][:most])
    return chosen.tolist(), len(occur) - len(chosen)


def names_of(predictions: Predictions, rows: npt.NDArray[np.int64]) -> list[str]:
    """What the catalogue calls ascending rows; read block by block."""
    found: list[str] = []
    for batch in predictions.batches():
        low, high = np.searchsorted(rows, [batch.start, batch.stop])
        if low < high:
            block = batch.names
            found += [block[int(row) - batch.start] for row in rows[low:high]]
    return found
