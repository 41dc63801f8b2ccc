"""The index of a data set for workers on other machines: where to get it, or the rows to work on.

Neither grows with the data set, so that a plan can be sent to any number of workers.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.address import Address
from fashionbatch.errors import ShardError
from fashionbatch.shards.index import Index, Rows
from fashionbatch.shards.manifest import FileRecord


class Distant(Index):
    """The index of a data set at an address, before it is fetched to the disk of its process.

    Args:
        index: as it is read where it was planned.
        address: of the data set.
        key: of the copy there is, see :class:`fashionbatch.remote.mirror.Mirror`.
        record: what the data set states of the file.
    """

    def __init__(self, index: Index, address: Address, key: str, record: FileRecord) -> None:
        super().__init__({}, counts=index._counts, table=index._table)
        self._address, self._key, self._record = address, key, record

    def here(self, stack: ExitStack) -> Index:
        """See :class:`fashionbatch.shards.index.Index`."""
        from fashionbatch.remote.mirror import Mirror
        from fashionbatch.remote.trouble import ChangedError, MissingError

        file = self._record.file
        try:
            path = Mirror.of(self._address, self._key).file(file, self._record.sha256)
        except (ChangedError, MissingError):
            raise ShardError(
                f"{self._address / file} is not the file any more that this run was planned with "
                "(SHA-256): run the command again"
            ) from None
        # that it is sound was seen where it was planned
        return Index({}, path, counts=self._counts, table=self._table)


class Parcel(NamedTuple):
    """Some rows of an index, as they are sent.

    Attributes:
        rows: int64 ``[n]``, ascending.
        columns: of :meth:`fashionbatch.shards.index.Index.to_arrays`, of ``n`` rows.
    """

    rows: Rows
    columns: dict[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, index: Index, rows: Rows) -> Parcel:
        """Rows, int64 ``[n]`` and ascending, of an index.

        Raises:
            ShardError: its file is missing or damaged.
        """
        return cls(rows, index.excerpt(rows).to_arrays())


class Lent(Index):
    """The rows that were sent last of an index that lies on another machine only.

    The processes of a worker have them in a file, because those that decode are there before any
    rows are.

    Args:
        counts: int64 ``[S]``, rows of each shard.
        folder: of the file.
    """

    def __init__(self, counts: Rows, folder: Path | None = None) -> None:
        super().__init__({}, counts=counts)
        self._folder = folder
        self._lent_rows: Rows = np.empty(0, np.int64)
        self._lent = Index.of([])

    def here(self, stack: ExitStack) -> Index:
        """See :class:`fashionbatch.shards.index.Index`."""
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fashionbatch-"))
        assert self._counts is not None
        return Lent(self._counts, Path(folder))

    def unpack(self, parcel: Parcel) -> None:
        """Has all processes of the worker read these rows, in place of those before.

        Raises:
            OSError: they cannot be written.
        """
        arrays: dict[str, Any] = {"rows": parcel.rows, **parcel.columns}
        with files.atomic(self._file) as temporary, temporary.open("xb") as file:
            np.savez(file, **arrays)

    def near(self, row: int) -> tuple[Index, int]:
        """See :class:`fashionbatch.shards.index.Index`.

        Raises:
            LookupError: the row was not sent.
        """
        place = int(self._places(np.array([row]))[0])
        return self._lent, place

    def take(self, column: str, rows: Rows) -> npt.NDArray[Any]:
        """See :class:`fashionbatch.shards.index.Index`; raises as :meth:`near`."""
        places = self._places(rows)
        return self._lent.take(column, places)

    def _places(self, rows: Rows) -> Rows:
        """Of each row its place in what is held, once that has all of them."""
        if not self._holds(rows):  # of this lease it may have what neighbours of another were
            self._load_lent()
            if not self._holds(rows):
                raise LookupError(f"of rows {rows[0]} to {rows[-1]} some were not sent")
        return np.searchsorted(self._lent_rows, rows)

    def _holds(self, rows: Rows) -> bool:
        places = np.searchsorted(self._lent_rows, rows)
        if not len(rows) or places[-1] == len(self._lent_rows):
            return not len(rows)
        return bool((self._lent_rows[places] == rows).all())

    @property
    def _file(self) -> Path:
        assert self._folder is not None
        return self._folder / "rows.npz"

    def _load_lent(self) -> None:
        with np.load(self._file, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
        self._lent_rows, self._lent = columns.pop("rows"), Index.from_arrays(columns)
