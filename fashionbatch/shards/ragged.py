"""Rows of different lengths as two arrays: compact in memory, plain in HDF5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Ragged:
    """``N`` rows of numbers.

    Attributes:
        values: ``[V]``, all rows one after the other.
        ends: uint64 ``[N]``, where in ``values`` each row ends.

    Example:
        >>> rows = Ragged.of([[3, 5], [], [7]], np.uint16)
        >>> len(rows), rows[0].tolist(), rows[1].tolist()
        (3, [3, 5], [])
    """

    def __init__(self, values: npt.NDArray[Any], ends: npt.NDArray[np.uint64]) -> None:
        self.values = values
        self.ends = ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> Any:
        start, end = self.span(row)
        return self.values[start:end]

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))

    def span(self, row: int) -> tuple[int, int]:
        """Where the row starts and ends in ``values``."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        return int(self.ends[row - 1]) if row else 0, int(self.ends[row])

    def spans(self, rows: Rows) -> tuple[Rows, Rows]:
        """Where each of the rows, int64 ``[n]``, starts and ends in ``values``; int64 ``[n]``."""
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        return starts.astype(np.int64), self.ends[rows].astype(np.int64)

    def cells(self, rows: Rows) -> tuple[Rows, Rows]:
        """Everything that some rows hold.

        Args:
            rows: int64 ``[n]``, in any order.

        Returns:
            int64 ``[V]`` each: the place in ``rows``, and the value.

        Example:
            >>> Ragged.of([[3, 5], [], [7]], np.uint16).cells(np.array([2, 0]))
            (array([0, 1, 1]), array([7, 3, 5]))
        """
        starts, ends = self.spans(rows)
        lengths = ends - starts
        items = np.repeat(np.arange(len(rows), dtype=np.int64), lengths)
        # the n-th value of all lies as far behind its row's start as n is behind the row's first n
        shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return items, self.values[np.arange(len(items)) + shifts].astype(np.int64)

    def taking(self, rows: Rows) -> Self:
        """Some of the rows, int64 ``[n]``, in any order.

        Example:
            >>> Ragged.of([[3, 5], [], [7]], np.uint16).taking(np.array([2, 0])).values.tolist()
            [7, 3, 5]
        """
        starts, ends = self.spans(rows)
        values = self.cells(rows)[1].astype(self.values.dtype)
        return type(self)(values, np.cumsum(ends - starts, dtype=np.uint64))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 ``[N]``."""
        ends = self.ends.astype(np.int64)
        return np.asarray(ends - np.concatenate([[0], ends[:-1]]), np.int64)

    @property
    def sound(self) -> bool:
        """Whether the two arrays fit each other."""
        return bool((self.lengths >= 0).all()) and int(self.ends[-1:].sum()) == len(self.values)

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]], dtype: npt.DTypeLike) -> Self:
        """From rows in order."""
        kept = list(rows)
        ends = np.cumsum([len(r) for r in kept], dtype=np.uint64)
        flat = [value for row in kept for value in row]
        return cls(np.array(flat, dtype), ends)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other."""
        shifts = np.cumsum([0, *(len(p.values) for p in parts)])[:-1].astype(np.uint64)
        ends = [p.ends + shift for p, shift in zip(parts, shifts, strict=True)]
        return cls(np.concatenate([p.values for p in parts]), np.concatenate(ends))


class Texts(Ragged):
    """``N`` texts as UTF-8; indexing gives ``str``.

    Example:
        >>> texts = Texts.of_texts(["hat", "t-shirt"])
        >>> texts[1]
        't-shirt'
    """

    def __getitem__(self, row: int) -> str:
        start, end = self.span(row)
        return self.values[start:end].tobytes().decode()

    def raw(self, row: int) -> bytes:
        """The text's UTF-8."""
        start, end = self.span(row)
        return self.values[start:end].tobytes()

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Self:
        """From texts in order."""
        encoded = [t.encode() for t in texts]
        ends = np.cumsum([len(t) for t in encoded], dtype=np.uint64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)
