"""What came of each item of a prediction file whose class is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.store.reader import Predictions


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Items with a known class, in the order of the file; 20 bytes of memory for each.

    Attributes:
        rows: int64 ``[N]``, of the file.
        labels: int32 ``[N]``, positions in the classes.
        predicted: int32 ``[N]``, the most probable class.
        ranks: int16 ``[N]``, place of the known class among the stored ones, best first, from 0;
            -1 where it is not among them.
        confidence: float32 ``[N]``, probability of the most probable class.
        stored: ``K``, how many classes are stored of each item.
        classes: names of all classes.
    """

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    predicted: npt.NDArray[np.int32]
    ranks: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    stored: int
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: the most probable class is the known one."""
        correct: npt.NDArray[np.bool_] = self.ranks == 0
        return correct

    def chosen(self, mask: npt.NDArray[np.bool_]) -> Outcomes:
        """Some of them; ``mask`` is bool ``[N]``."""
        return replace(
            self,
            rows=self.rows[mask],
            labels=self.labels[mask],
            predicted=self.predicted[mask],
            ranks=self.ranks[mask],
            confidence=self.confidence[mask],
        )


def gather(predictions: Predictions, labels: npt.NDArray[np.int32]) -> Outcomes:
    """Reads what was predicted of the items whose class is known.

    Args:
        predictions: the file.
        labels: int32 ``[N]``, of every row; -1 unknown.
    """
    found: list[tuple[npt.NDArray[Any], ...]] = []
    width = predictions.topk_index.shape[1]
    for batch in predictions.batches():
        mine = labels[batch.start : batch.stop]
        known = np.flatnonzero(mine >= 0)
        if not len(known):
            continue
        best, probability = batch.topk_index[known], batch.topk_probability[known]
        hits = best == mine[known, None]
        ranks = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
        found.append(
            (
                (known + batch.start).astype(np.int64),
                mine[known],
                best[:, 0],
                ranks.astype(np.int16),
                probability[:, 0],
            )
        )
    types = (np.int64, np.int32, np.int32, np.int16, np.float32)
    columns: list[npt.NDArray[Any]] = [np.empty(0, t) for t in types]
    if found:
        columns = [np.concatenate(c) for c in zip(*found, strict=True)]
    rows, known_labels, predicted, ranks, confidence = columns
    return Outcomes(
        rows=rows,
        labels=known_labels,
        predicted=predicted,
        ranks=ranks,
        confidence=confidence,
        stored=width,
        classes=predictions.classes,
    )
