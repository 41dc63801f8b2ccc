"""The rows whose features point where a given vector points: exact, in one pass over the file.

The similarity is the cosine, ``a·b / (|a| |b|)``: 1 for the same direction, 0 for unrelated ones
and for vectors of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from fashionbatch.errors import UsageError
from fashionbatch.models.threads import limited
from fashionbatch.store.column import Column

#: bytes read at a time
_BLOCK = 4 << 20
#: squared lengths between these lose nothing in float32
_LEAST, _MOST = 1e-24, 1e36

Vectors = npt.NDArray[np.float32]


@dataclass(kw_only=True)
class Nearest:
    """The best rows so far, best first; of equally similar ones the lower row.

    Attributes:
        k: how many are wanted.
        rows: int64 ``[n]``, ``n`` at most ``k``.
        similarities: float32 ``[n]``, from -1 to 1.
    """

    k: int
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    similarities: Vectors = field(default_factory=lambda: np.empty(0, np.float32))

    def offer(self, start: int, similarities: Vectors) -> None:
        """Takes in the rows from ``start`` on, which are behind those that it has had."""
        full = len(self.rows) == self.k
        # a row that is only as similar as the last one is behind it
        places = np.flatnonzero(similarities > (self.similarities[-1] if full else -np.inf))
        if len(places) > self.k:
            bar = np.partition(similarities[places], -self.k)[-self.k]
            places = places[similarities[places] >= bar]
        rows = np.concatenate([self.rows, start + places])
        values = np.concatenate([self.similarities, similarities[places]])
        best = np.lexsort((rows, -values))[: self.k]
        self.rows, self.similarities = rows[best], values[best]


def nearest(
    features: Column,
    queries: Vectors,
    k: int,
    *,
    without: Sequence[int | None],
    advance: Callable[[int], None] = lambda rows: None,
) -> list[Nearest]:
    """Finds the most similar rows for each query.

    Args:
        features: ``[N, ...]``; more than two dimensions are taken as one long vector.
        queries: float32 ``[Q, D]``.
        k: how many rows for each.
        without: for each query a row to leave out, such as its own.
        advance: is told how many more rows were read.

    Raises:
        UsageError: the queries are not as long as the rows.
        StoreError: the file is damaged.
    """
    length = int(np.prod(features.shape[1:], dtype=np.int64))
    if queries.shape[1] != length and len(features):
        raise UsageError(
            f"{features.name} has {length} numbers a row, and the image {queries.shape[1]}: "
            "name the model that made the file with --model"
        )
    found = [Nearest(k=k) for _ in queries]
    units = _units(queries)
    step = max(1, _BLOCK // max(1, length * features.dtype.itemsize))
    # memory that is asked for anew takes longer to come than the numbers to be computed
    wide = torch.empty((min(step, len(features)), length))
    for start in range(0, len(features), step):
        read = torch.from_numpy(features[start : start + step])
        # torch makes float32 of float16 some thirty times as fast as numpy
        with limited(1):
            block = wide[: len(read)].copy_(read.reshape(len(read), -1)).numpy()
        scale = _scale(block)
        for best, query, own in zip(found, units, without, strict=True):
            # not by BLAS: there, what is around a row and its place change the last bit, and with
            # it the order of the same image's copies
            similarities = np.einsum("nd,d->n", block, query) * scale
            similarities = np.clip(similarities, -1, 1)
            similarities[np.isnan(similarities)] = -np.inf  # from features that are not finite
            if own is not None and start <= own < start + len(block):
                similarities[own - start] = -np.inf
            best.offer(start, similarities)
        advance(len(block))
    return found


def _scale(block: Vectors) -> Vectors:
    """1 / length of each row, 0 of a row of zeros; makes rows of extreme length handy in place."""
    squares = np.einsum("nd,nd->n", block, block)
    with np.errstate(divide="ignore", invalid="ignore"):
        for place in np.flatnonzero(~((squares > _LEAST) & (squares < _MOST))):
            peak = np.abs(block[place]).max(initial=0)
            if peak > 0:
                block[place] /= peak
            squares[place] = np.einsum("d,d->", block[place], block[place])
        return np.where(squares == 0, np.float32(0), 1 / np.sqrt(squares)).astype(np.float32)


def _units(queries: Vectors) -> Vectors:
    wide = queries.astype(np.float64)
    lengths = np.sqrt((wide**2).sum(axis=1, keepdims=True))
    return (wide / np.where(lengths == 0, 1, lengths)).astype(np.float32)
