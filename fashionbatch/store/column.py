"""One dataset of a prediction file, read as it is sliced; damage is told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import StoreError
from fashionbatch.store.arrays import Array


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns what HDF5 says of a damaged file into a line that names the file and the dataset."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError, MemoryError) as error:
        reason = str(error).strip("'\"").splitlines()
        raise StoreError(
            f"{path} is damaged: {what} cannot be read ({reason[0] if reason else error!r}); "
            "copy the file again, or predict again"
        ) from error


class Column:
    """A numeric dataset, row by row of the file; slice it to read.

    Args:
        path: of the file, for messages.
        dataset: to read from.

    Attributes:
        name: such as ``"features/pooled"``.

    Example:
        >>> with fashionbatch.open_predictions("predictions/catalog.h5") as p:  # doctest: +SKIP
        ...     p.features("pooled")[:1000].shape
        (1000, 2048)
    """

    def __init__(self, path: Path, dataset: Array) -> None:
        self.path = path
        self.name = str(dataset.name).lstrip("/")
        self._dataset = dataset

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, ...)``."""
        shape: tuple[int, ...] = self._dataset.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored numbers."""
        dtype: np.dtype[Any] = self._dataset.dtype
        return dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """An array, or a scalar, as numpy would give.

        Raises:
            StoreError: the file is damaged there.
        """
        with reading(self.path, self.name):
            return self._dataset[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[()], dtype)

    def __repr__(self) -> str:
        return f"<{self.name} {list(self.shape)} {self.dtype}>"


class TextColumn:
    """A dataset of texts; slice it to read.

    Args:
        path: of the file, for messages.
        dataset: to read from.
    """

    def __init__(self, path: Path, dataset: Array) -> None:
        self.path = path
        self.name = str(dataset.name).lstrip("/")
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, start: int, stop: int) -> list[str]:
        """The texts from ``start`` to ``stop``.

        Raises:
            StoreError: the file is damaged there.
        """
        with reading(self.path, self.name):
            # twice as fast as asstr(), which asks for each one's type
            return [text.decode() for text in self._dataset[start:stop].tolist()]

    def blocks(self, size: int) -> Iterator[tuple[int, list[str]]]:
        """``(start, texts)`` of ``size`` texts each, to the end."""
        for start in range(0, len(self), size):
            yield start, self.read(start, start + size)
