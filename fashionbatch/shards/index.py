"""Where each image lies and what is known of it: one column per fact, in one HDF5 file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.errors import ShardError
from fashionbatch.shards.ragged import Ragged, Texts
from fashionbatch.shards.unfailing import Unfailing

UNKNOWN = -1
EXTENSIONS = ("jpg", "png", "webp", "jpeg")

#: name -> (dtype, shape of one row); what rows of the same length hold
_NUMBERS: Mapping[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "shard": (np.uint32, ()),
    "offset": (np.uint64, ()),
    "size": (np.uint32, ()),
    "label": (np.int32, ()),
    "sha256": (np.uint8, (32,)),
    "extension": (np.uint8, ()),
    "width": (np.uint32, ()),
    "height": (np.uint32, ()),
    "group": (np.uint64, ()),
    "box": (np.int32, (4,)),
}
_TEXTS = ("key", "name")
_RAGGED = ("positive", "unknown")
#: columns of values end to end, each with a column of ends
PACKED = (*_TEXTS, *_RAGGED)
_COLUMNS = (*_NUMBERS, *PACKED)
#: what reading needs: loaded on opening, so that worker processes share it
_AT_ONCE = ("shard", "offset", "size", "label", "sha256")
#: rows that are read together of a file that is not loaded whole, and blocks of them that are kept
_BLOCK = 4096
_KEPT = 4
LOOKED_AT = 1 << 16  # rows at once when a file is opened

Rows = npt.NDArray[np.int64]


class IndexRow(NamedTuple):
    """One item of an :class:`Index`; see there. A plain tuple, because there are millions."""

    key: str
    name: str
    shard: int
    offset: int
    size: int
    label: int
    sha256: bytes
    extension: str
    width: int = 0
    height: int = 0
    group: int = 0
    box: tuple[int, int, int, int] = (-1, -1, -1, -1)
    positive: Sequence[int] = ()
    unknown: Sequence[int] = ()


class Index:
    """Columns over the ``N`` items of a data set, grouped by shard.

    Columns that reading does not need are loaded when they are first used; of a file that was
    opened with :meth:`open`, all are, and :meth:`near` and :meth:`take` read blocks of them.

    Attributes:
        shard: uint32 ``[N]``, position in the manifest's shards.
        offset: uint64 ``[N]``, first byte of the image in its shard.
        size: uint32 ``[N]``, length of the image in bytes.
        label: int32 ``[N]``, position in the classes, or -1.
        sha256: uint8 ``[N, 32]``, of the image's bytes.
        extension: uint8 ``[N]``, position in :data:`EXTENSIONS`.
        width, height: uint32 ``[N]``, of the file in pixels; 0 where it was packed unchecked.
        group: uint64 ``[N]``, :func:`group_id` of the product; 0 where there is none.
        box: int32 ``[N, 4]``, x1, y1, x2, y2 in pixels; -1 where there is none.
        key: texts ``[N]``, the name inside the shard without extension.
        name: texts ``[N]``, the catalogue's own name.
        positive: uint16 rows ``[N]``, attributes it has.
        unknown: uint16 rows ``[N]``, attributes of which it is not known.
    """

    shard: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint32]
    label: npt.NDArray[np.int32]
    sha256: npt.NDArray[np.uint8]
    extension: npt.NDArray[np.uint8]
    width: npt.NDArray[np.uint32]
    height: npt.NDArray[np.uint32]
    group: npt.NDArray[np.uint64]
    box: npt.NDArray[np.int32]
    key: Texts
    name: Texts
    positive: Ragged
    unknown: Ragged

    def __init__(
        self,
        columns: Mapping[str, Any],
        path: Path | None = None,
        *,
        rows: slice = slice(None),  # of the file
        counts: Rows | None = None,  # rows of each shard, of a file that is read in blocks
        table: npt.NDArray[np.int32] | None = None,  # what labels of the file stand for
    ) -> None:
        self.__dict__.update(columns)
        self.path = path
        self._rows, self._counts, self._table = rows, counts, table
        self._blocks: dict[int, Index] = {}

    def __len__(self) -> int:
        return len(self.shard) if self._counts is None else int(self._counts.sum())

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_blocks": {}}
        if self._counts is not None:  # columns that somebody wanted as a whole can be read again
            state = {k: v for k, v in state.items() if k not in _COLUMNS}
        return state

    def __getattr__(self, name: str) -> Any:
        # only called for what is not loaded yet
        path = self.__dict__.get("path")
        if path is None or name not in _COLUMNS:
            raise AttributeError(name)
        with _opened(path) as file:
            self._load(file, [name])
        return self.__dict__[name]

    def replaced(self, **columns: Any) -> Index:
        """The same with other columns; of one that is not read in blocks."""
        return Index({**self._loaded(), **columns}, self.path, table=self._table)

    def relabelled(self, table: npt.NDArray[np.int32]) -> Index:
        """The same with other labels, in memory that does not grow with the items.

        Args:
            table: int32, the new label of each label there is; -1, none, takes the last.
        """
        columns = self._loaded()
        if "label" in columns:
            columns["label"] = table[columns["label"]]
        whole = table if self._table is None else table[self._table]
        return Index(columns, self.path, rows=self._rows, counts=self._counts, table=whole)

    def near(self, row: int) -> tuple[Index, int]:
        """An index that has a row, and the row's place in it.

        It is this one where its columns are loaded, and a block of it where they are not.

        Raises:
            ShardError: the file is missing or damaged.
        """
        if self._counts is None:
            return self, row
        assert self.path is not None
        number, place = divmod(row, _BLOCK)
        block = self._blocks.get(number)
        if block is None:
            block = self._block(number * _BLOCK, min((number + 1) * _BLOCK, len(self)))
            with _opened(self.path) as file:
                block._load(file, _AT_ONCE)
            if len(self._blocks) >= _KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = block
        return block, place

    def take(self, column: str, rows: Rows) -> npt.NDArray[Any]:
        """Some rows of a column of numbers; what lies between them is read with them.

        Args:
            column: its name.
            rows: int64 ``[n]``, ascending.

        Raises:
            ShardError: the file is missing or damaged.
        """
        array: npt.NDArray[Any]
        if self._counts is None or column in self.__dict__:
            array = getattr(self, column)[rows]
            return array
        if not len(rows):
            dtype, shape = _NUMBERS[column]
            return np.empty((0, *shape), dtype)
        assert self.path is not None
        first = int(rows[0])
        block = self._block(first, int(rows[-1]) + 1)
        array = getattr(block, column)[rows - first]
        return array

    def excerpt(self, rows: Rows) -> Index:
        """Some rows, whole and in memory, for a process that does not have the file.

        Args:
            rows: int64 ``[n]``, ascending; what lies between near ones is read with them.

        Raises:
            ShardError: the file is missing or damaged.
        """
        parts = []
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > _BLOCK) + 1) if len(rows) else ():
            block, first = self, 0
            if self._counts is not None:
                first = int(run[0])
                block = self._block(first, int(run[-1]) + 1)
                assert self.path is not None
                with _opened(self.path) as file:
                    block._load(file, _COLUMNS)
            columns: dict[str, Any] = {c: getattr(block, c)[run - first] for c in _NUMBERS}
            for column in PACKED:
                columns[column] = getattr(block, column).taking(run - first)
            parts.append(Index(columns))
        return Index.joined(parts)

    def _block(self, start: int, stop: int) -> Index:
        return Index({}, self.path, rows=slice(start, stop), table=self._table)

    def per_shard(self, shards: int) -> Rows:
        """int64 ``[S]``: how many rows each shard has, of at least so many shards.

        Raises:
            ShardError: rows are not grouped by shard.
        """
        if self._counts is None:
            try:
                _check_order(self.shard, 0)
            except ValueError as error:
                raise _damaged(self.path, error) from error
            return np.bincount(self.shard, minlength=shards).astype(np.int64)
        return np.pad(self._counts, (0, max(0, shards - len(self._counts))))

    def absolute(self) -> Index:
        """The same for a process that works in another folder."""
        made = copy(self)
        made.path = self.path and self.path.absolute()
        return made

    def here(self, stack: ExitStack) -> Index:
        """The same where it is to be read, perhaps on another machine than where it was made.

        Args:
            stack: ends what it needs there.

        Raises:
            ShardError: what lies at an address is not what was planned with.
            RemoteError: it cannot be had.
        """
        return self

    def _loaded(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in _COLUMNS if name in self.__dict__}

    def priority(self, rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
        """uint64 of each row: a fixed random number, drawn from its name and the seed."""
        numbers = (priorities(self.name.raw(row), seed)[0] for row in rows.tolist())
        return np.fromiter(numbers, np.uint64, len(rows))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every column as plain arrays, by the names they have in the file."""
        arrays: dict[str, npt.NDArray[Any]] = {c: getattr(self, c) for c in _NUMBERS}
        for column in PACKED:
            ragged = getattr(self, column)
            arrays |= {column: ragged.values, f"{column}_end": ragged.ends}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Index:
        """From :meth:`to_arrays`.

        Raises:
            KeyError: a column is missing.
        """
        columns: dict[str, Any] = {c: arrays[c] for c in _NUMBERS}
        for column in PACKED:
            kind = Texts if column in _TEXTS else Ragged
            columns[column] = kind(arrays[column], arrays[f"{column}_end"])
        return cls(columns)

    @classmethod
    def of(cls, rows: Sequence[IndexRow]) -> Index:
        """From rows in order."""
        values = dict(zip(IndexRow._fields, zip(*rows, strict=True), strict=True)) if rows else {}
        columns: dict[str, Any] = {
            c: np.array(values.get(c, ()), dtype).reshape(len(rows), *shape)
            for c, (dtype, shape) in _NUMBERS.items()
            if c not in ("sha256", "extension")
        }
        digests = b"".join(values.get("sha256", ()))
        columns["sha256"] = np.frombuffer(digests, np.uint8).reshape(len(rows), 32)
        places = [EXTENSIONS.index(e) for e in values.get("extension", ())]
        columns["extension"] = np.array(places, np.uint8)
        for column in _TEXTS:
            columns[column] = Texts.of_texts(values.get(column, ()))
        for column in _RAGGED:
            columns[column] = Ragged.of(values.get(column, ()), np.uint16)
        return cls(columns)

    @classmethod
    def joined(cls, parts: Sequence[Index]) -> Index:
        """One after the other; the numbers of the shards stay as they are."""
        if not parts:
            return cls.of([])
        columns: dict[str, Any] = {
            c: np.concatenate([getattr(p, c) for p in parts]) for c in _NUMBERS
        }
        for column in PACKED:
            pieces = [getattr(p, column) for p in parts]
            columns[column] = type(pieces[0]).joined(pieces)
        return cls(columns)

    def save(self, path: Path) -> None:
        """Writes the columns; the same columns make the same bytes."""
        with (
            files.atomic(path) as temporary,
            Unfailing(temporary) as opened,
            h5py.File(opened, "w") as file,
        ):
            for name, array in self.to_arrays().items():
                filled = len(array) > 0
                file.create_dataset(
                    name, data=array, fletcher32=filled, chunks=True if filled else None
                )

    @classmethod
    def load(cls, path: Path) -> Index:
        """Opens the file and reads what reading images needs.

        Raises:
            ShardError: the file is missing or damaged.
        """
        index = cls({}, path)
        with _opened(path) as file:
            index._load(file, _AT_ONCE)
        return index

    @classmethod
    def open(cls, path: Path) -> Index:
        """Opens the file to read it block by block, so that it takes no memory.

        What reading images needs is read once, to see that it is sound.

        Raises:
            ShardError: the file is missing or damaged.
        """
        counts, last = np.zeros(0, np.int64), 0
        with _opened(path) as file:
            for start in range(0, len(file["shard"]), LOOKED_AT):
                block = cls({}, path, rows=slice(start, start + LOOKED_AT))
                block._load(file, _AT_ONCE)
                last = _check_order(block.shard, last)
                counted = np.bincount(block.shard, minlength=len(counts))
                counted[: len(counts)] += counts
                counts = counted.astype(np.int64)
        return cls({}, path, counts=counts)

    def _load(self, file: h5py.File, columns: Sequence[str]) -> None:
        loaded: dict[str, Any] = {}
        for column in columns:
            if column in _NUMBERS:
                array = file[column][self._rows]
                dtype, shape = _NUMBERS[column]
                if array.dtype != dtype or array.shape[1:] != shape:
                    raise ValueError(f"{column} is {array.dtype} {array.shape}")
                if column == "label" and self._table is not None:
                    array = self._table[array]
                loaded[column] = array
                continue
            kind = Texts if column in _TEXTS else Ragged
            loaded[column] = kind(*self._ragged(file, column))
            if not loaded[column].sound:
                raise ValueError(f"{column} and {column}_end do not fit each other")
        known = self.__dict__.get("shard", next(iter(loaded.values())))
        if any(len(c) != len(known) for c in loaded.values()):
            raise ValueError("columns of different lengths")
        self.__dict__.update(loaded)

    def _ragged(
        self, file: h5py.File, column: str
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
        ends = file[f"{column}_end"][self._rows]
        if self._rows.start in (None, 0):
            first = 0
        else:
            first = int(file[f"{column}_end"][self._rows.start - 1])
        last = int(ends[-1]) if len(ends) else first
        whole = self._rows == slice(None)  # then what is behind the last end is damage
        return file[column][first : None if whole else last], ends - np.uint64(first)


def _check_order(shard: npt.NDArray[np.uint32], last: int) -> int:
    """The last number; rows are grouped by shard."""
    if len(shard) and (shard[0] < last or (shard[1:] < shard[:-1]).any()):
        raise ValueError("its rows are not grouped by shard")
    return int(shard[-1]) if len(shard) else last


class _opened:
    """The file for reading; whatever is wrong with it becomes one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> h5py.File:
        try:
            self.file = h5py.File(self.path)
        except OSError as error:
            raise _damaged(self.path, error) from error
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.file.close()
        if isinstance(error, OSError | LookupError | ValueError | TypeError | AttributeError):
            raise _damaged(self.path, error) from error


def _damaged(path: Path | None, error: BaseException) -> ShardError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ShardError(f"{path} cannot be read ({reason}): pack the catalogue again")


def priorities(name: bytes, seed: int) -> tuple[int, int]:
    """Two fixed random 64-bit numbers of an item: BLAKE2b of its name, keyed with the seed.

    What is chosen by them does not depend on the order of a catalogue, nor on what else is in it.
    """
    digest = hashlib.blake2b(name, digest_size=16, key=str(seed).encode()).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def group_id(group: str | None) -> int:
    """A product's number in the index: 64 bits of BLAKE2b of its name; 0 for none."""
    if group is None:
        return 0
    digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1
