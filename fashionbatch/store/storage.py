"""Where predictions lie: in one HDF5 file, or in a folder of parts with a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from fashionbatch.errors import StoreError, UsageError
from fashionbatch.store.arrays import Array, Storage
from fashionbatch.store.parts_set import PartSet, is_set


class SingleFile:
    """An HDF5 file.

    Raises:
        StoreError: it is none.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = h5py.File(path)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"{path} cannot be read as HDF5 ({reason})") from error
        # HDF5 keeps the chunk read last with the open dataset
        self._arrays: dict[str, h5py.Dataset] = {}

    @property
    def attrs(self) -> Mapping[str, Any]:
        """See :class:`fashionbatch.store.arrays.Storage`."""
        attrs: Mapping[str, Any] = self._file.attrs
        return attrs

    def listed(self, group: str) -> list[str]:
        """See :class:`fashionbatch.store.arrays.Storage`."""
        return list(self._file[group]) if group in self._file else []

    def array(self, name: str) -> Array:
        """See :class:`fashionbatch.store.arrays.Storage`."""
        if name not in self._arrays:
            found = self._file[name]
            if not isinstance(found, h5py.Dataset) or not found.shape:
                raise KeyError(f"it is no array, but {found!r}")
            self._arrays[name] = found
        array: Array = self._arrays[name]
        return array

    def close(self) -> None:
        """See :class:`fashionbatch.store.arrays.Storage`."""
        self._file.close()


def open_storage(path: Path) -> Storage:
    """Opens what lies there.

    Raises:
        UsageError: nothing does, or a folder of something else.
        StoreError: it is neither, or damaged.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist: make it with `fashionbatch predict`")
    if is_set(path):
        return PartSet(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a prediction file, such as out.h5")
    return SingleFile(path)
