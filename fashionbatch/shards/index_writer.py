"""An index that is written piece by piece, where not all of it is to be in memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch.shards.index import LOOKED_AT, PACKED, Index
from fashionbatch.shards.unfailing import Unfailing

_CHUNK = 1024


class IndexWriter:
    """Writes the file of an index.

    Args:
        path: of the file.

    Example:
        >>> with IndexWriter(Path("index.h5")) as writer:  # doctest: +SKIP
        ...     writer.add(index)
    """

    def __init__(self, path: Path) -> None:
        self._opened = Unfailing(path)
        self._file = h5py.File(self._opened, "w")
        for name, array in Index.of([]).to_arrays().items():
            shape = array.shape[1:]
            self._file.create_dataset(
                name,
                (0, *shape),
                array.dtype,
                maxshape=(None, *shape),
                chunks=(_CHUNK, *shape),
                fletcher32=True,
            )

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._opened.__exit__(kind, error, traceback)

    def add(self, index: Index) -> None:
        """Appends rows.

        Raises:
            OSError: they cannot be written; of the last ones it is raised at the end.
        """
        ends = {column: len(self._file[column]) for column in PACKED}
        for name, array in index.to_arrays().items():
            column = name.removesuffix("_end")
            shift = ends[column] if column != name else 0
            dataset = self._file[name]
            start = len(dataset)
            dataset.resize(start + len(array), axis=0)
            dataset[start:] = array + np.uint64(shift) if shift else array
        self._opened.check()

    def relabel(self, table: npt.NDArray[np.int32]) -> None:
        """Gives all rows other labels; see :meth:`Index.relabelled`."""
        label = self._file["label"]
        for start in range(0, len(label), LOOKED_AT):
            label[start : start + LOOKED_AT] = table[label[start : start + LOOKED_AT]]
