"""Rows that come a few at a time → whole chunks on the disk.

A chunk that is written in two goes is read back, checked and hashed in between, which takes ten
times as long.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import numpy.typing as npt


class Appender:
    """Fills a dataset from its first row to its last.

    Args:
        dataset: of the length that it is going to have.

    Example:
        >>> appender = Appender(file["features/pooled"])  # doctest: +SKIP
        >>> for rows in blocks:  # doctest: +SKIP
        ...     appender.add(rows)
        >>> appender.close()  # doctest: +SKIP
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self.row = 0  # that is written next
        self._chunk = dataset.chunks[0] if dataset.chunks else 1
        self._waiting: list[npt.NDArray[Any]] = []
        self._count = 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """``[n, ...]`` more rows."""
        if not len(rows):
            return
        self._waiting.append(rows)
        self._count += len(rows)
        if self._count >= self._chunk:
            self._write(self._count - self._count % self._chunk)

    def close(self) -> None:
        """Writes what is left."""
        self._write(self._count)

    def _write(self, count: int) -> None:
        if not count:
            return
        rows = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        self.dataset[self.row : self.row + count] = rows[:count]
        self.row += count
        self._count -= count
        self._waiting = [rows[count:]] if self._count else []
