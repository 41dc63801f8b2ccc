"""Memory that the processes of a pool share: workers write pixels where the pool reads them."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from math import prod
from mmap import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

HASH = 32  # bytes of a SHA-256
_PAGE = 4096


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Buffers for batches, and how far each worker is.

    It has no name in the file system, so it goes with the last of its processes, however those end.

    Attributes:
        raw: the bytes; can be handed over to a process that is being started, and to no other.
        workers: how many there are at the same time.
        buffers: how many batches fit in.
        batch_size: images of a batch.
        side: their height and width, in pixels.
    """

    raw: Any
    workers: int
    buffers: int
    batch_size: int
    side: int

    @classmethod
    def make(
        cls, *, workers: int, buffers: int, batch_size: int, side: int, forked: bool
    ) -> Shared:
        """Takes the memory; ``forked`` where processes get it by a fork."""
        sizes = {"workers": workers, "buffers": buffers, "batch_size": batch_size, "side": side}
        size = sum(prod(shape) * itemsize for shape, itemsize in _layout(**sizes)) + 4 * _PAGE
        if forked:
            return cls(raw=mmap(-1, size), **sizes)
        return cls(raw=multiprocessing.get_context("spawn").RawArray("B", size), **sizes)

    @property
    def progress(self) -> npt.NDArray[np.int64]:
        """int64 ``[workers, 2]``: the job that each is at, and the place in its batch."""
        return self._array(0, np.int64)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """int64 ``[buffers, batch_size]``."""
        return self._array(1, np.int64)

    @property
    def sha256(self) -> npt.NDArray[np.uint8]:
        """uint8 ``[buffers, batch_size, 32]``."""
        return self._array(2, np.uint8)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """uint8 ``[buffers, batch_size, side, side, 3]``."""
        return self._array(3, np.uint8)

    def _array(self, number: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
        layout = _layout(self.workers, self.buffers, self.batch_size, self.side)
        # each part starts on a page of its own
        start = sum(-(-prod(s) * i // _PAGE) * _PAGE for s, i in layout[:number])
        shape = layout[number][0]
        return np.frombuffer(self.raw, dtype, prod(shape), start).reshape(shape)


def _layout(
    workers: int, buffers: int, batch_size: int, side: int
) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Shape and size of an item of each part."""
    return (
        ((workers, 2), 8),
        ((buffers, batch_size), 8),
        ((buffers, batch_size, HASH), 1),
        ((buffers, batch_size, side, side, 3), 1),
    )
