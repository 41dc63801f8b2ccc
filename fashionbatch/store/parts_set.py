"""Predictions that were not merged: a folder of parts, and a manifest that makes one of them.

Arrays are those of the merged file, row by row, put together as they are read. Each part is checked
against its SHA-256 before HDF5 sees it, once for each time that the folder is opened.
"""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.errors import StoreError
from fashionbatch.store import part as parts
from fashionbatch.store.arrays import Array

MANIFEST = "predictions.json"
_SCHEMA, _VERSION = "fashionbatch-prediction-set", 1
#: parts that are open at a time: a block of rows may lie in several
_OPEN = 16
#: with a row per item, and with a row per failure
_ITEMS, _FAILURES = ("items", "predictions", "features"), ("failures",)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What makes one of the parts of a folder.

    Attributes:
        fingerprint: of the run, which each part carries.
        attrs: what the merged file would say of itself.
        columns: of the arrays with a row for each item or failure: numpy's name of the type
            (``"text"`` of texts) and the shape of a row.
        texts: of the short lists, such as ``"classes/name"``, whole.
        counts: ``"shards/count"``, ``predicted`` and ``failed``, whole.
    """

    fingerprint: str
    attrs: Mapping[str, Any]
    columns: Mapping[str, tuple[str, tuple[int, ...]]]
    texts: Mapping[str, Sequence[str]]
    counts: Mapping[str, Sequence[int]]


def is_set(path: Path) -> bool:
    """Whether a folder holds predictions."""
    return (path / MANIFEST).is_file()


def write(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest beside the parts; atomic."""
    values = {"schema": _SCHEMA, "schema_version": _VERSION, **vars(manifest)}
    files.write_json(folder / MANIFEST, values)


def read(folder: Path) -> Manifest:
    """Reads it back.

    Raises:
        StoreError: it is damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_bytes())
        said = values.pop("schema"), values.pop("schema_version")
        if said != (_SCHEMA, _VERSION):
            raise ValueError(f"schema {said[0]}, version {said[1]}; wanted {_SCHEMA}, {_VERSION}")
        values["columns"] = {
            n: (kind, tuple(tail)) for n, (kind, tail) in values["columns"].items()
        }
        return Manifest(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}): copy the folder again, or predict again"
        ) from error


class PartSet:
    """See :class:`fashionbatch.store.arrays.Storage`.

    Args:
        path: of the folder.

    Raises:
        StoreError: its manifest is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read(path)
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._checked: set[int] = set()
        borders = {}
        for groups, column in ((_ITEMS, "predicted"), (_FAILURES, "failed")):
            counts = np.array(self.manifest.counts[f"shards/{column}"], np.int64)
            borders.update(dict.fromkeys(groups, np.concatenate([[0], counts.cumsum()])))
        self._borders: dict[str, npt.NDArray[np.int64]] = borders

    @property
    def attrs(self) -> Mapping[str, Any]:
        """See :class:`fashionbatch.store.arrays.Storage`."""
        return self.manifest.attrs

    def listed(self, group: str) -> list[str]:
        """See :class:`fashionbatch.store.arrays.Storage`."""
        made = self.manifest
        own = ["items/shard", "failures/shard"]
        names = [*made.columns, *made.texts, *made.counts, *own]
        return sorted(name.partition("/")[2] for name in names if name.partition("/")[0] == group)

    def array(self, name: str) -> Array:
        """See :class:`fashionbatch.store.arrays.Storage`."""
        made, group = self.manifest, name.partition("/")[0]
        if name in made.texts:
            return _Whole(name, np.array([t.encode() for t in made.texts[name]], object))
        if name in made.counts:
            return _Whole(name, np.array(made.counts[name], np.int64))
        if name in ("items/shard", "failures/shard"):
            return _Numbers(name, self._borders[group])
        kind, tail = made.columns[name]
        dtype = np.dtype(object) if kind == "text" else np.dtype(kind)
        return _Concatenated(self, name, self._borders[group], dtype, tail)

    def close(self) -> None:
        """See :class:`fashionbatch.store.arrays.Storage`."""
        while self._open:
            self._open.popitem()[1].close()

    def part(self, number: int) -> h5py.File:
        """An open part; the caller does not keep it.

        Raises:
            StoreError: it is missing, damaged, or of another run.
        """
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if number not in self._checked:
            # in memory as a whole, which so many open ones are not to be
            parts.open_checked(self.path, number, self.manifest.fingerprint).close()
            self._checked.add(number)
        file = self._open[number] = h5py.File(parts.path_of(self.path, number))
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)[1].close()
        return file


class _Rows:
    """Reads an array by numpy's keys, given how to read some rows that follow each other."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows ``start`` to ``stop``."""
        raise NotImplementedError  # of each kind of rows

    def __getitem__(self, key: Any) -> Any:
        key, *rest = key if isinstance(key, tuple) and key else (key,)
        further = (slice(None), *rest)
        if key is Ellipsis or (isinstance(key, tuple) and not key):
            return self.read(0, len(self))[further if rest else ()]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)][further]
            return self.read(start, max(start, stop))[further]
        if np.ndim(key) == 0:
            row = int(key) + (len(self) if key < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"{self.name} has no row {key}")
            return self.read(row, row + 1)[0][tuple(rest)] if rest else self.read(row, row + 1)[0]
        rows = np.asarray(key)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        found = [self.read(row, row + 1) for row in rows.tolist()]
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *found])[further]


class _Whole(_Rows):
    """What the manifest holds."""

    def __init__(self, name: str, values: npt.NDArray[Any]) -> None:
        self.name, self.values = name, values
        self.shape, self.dtype = values.shape, values.dtype

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self.values[start:stop]


class _Numbers(_Rows):
    """The number of its shard for each row."""

    def __init__(self, name: str, borders: npt.NDArray[np.int64]) -> None:
        self.name, self.borders = name, borders
        self.shape, self.dtype = (int(borders[-1]),), np.dtype(np.uint32)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = np.arange(start, stop)
        return (np.searchsorted(self.borders, rows, side="right") - 1).astype(np.uint32)


class _Concatenated(_Rows):
    """The rows of all parts."""

    def __init__(
        self,
        parts_set: PartSet,
        name: str,
        borders: npt.NDArray[np.int64],
        dtype: np.dtype[Any],
        tail: tuple[int, ...],
    ) -> None:
        self.set, self.name, self.borders = parts_set, name, borders
        self.shape, self.dtype = (int(borders[-1]), *tail), dtype

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        found = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        first = int(np.searchsorted(self.borders, start, side="right")) - 1
        for number, (low, high) in enumerate(
            itertools.pairwise(self.borders[first:].tolist()), first
        ):
            if low >= stop:
                break
            one, other = max(low, start), min(high, stop)
            if one < other:
                dataset = self.set.part(number)[self.name]
                if len(dataset) != high - low:
                    raise KeyError(f"part {number} has other rows than the manifest says")
                found[one - start : other - start] = dataset[one - low : other - low]
        return found
