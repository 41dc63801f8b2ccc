"""One shard's results: built in memory, committed whole, valid or not there.

The commit: serialize, write under a temporary name, fsync, rename, fsync the folder. A part is
*done* when it can be read, fits its checksums and carries the fingerprint of the run; nothing else
marks it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.errors import StoreError

TEXT = h5py.string_dtype()
CHUNK_BYTES = 1 << 20
_CHECKSUM = "sha256"


@dataclass(kw_only=True)
class Part:
    """Results of one shard; row ``i`` of every array belongs to ``names[i]``.

    Attributes:
        fingerprint: of the run it belongs to.
        shard: its number in the plan.
        sha256: of the shard's content.
        names: ``[N]``, and ``keys`` ``[N]``.
        labels: int32 ``[N]``, -1 unknown.
        arrays: such as ``"predictions/topk_index"`` → ``[N, K]``.
        failures: ``(name, key, stage, reason)`` of the items that have no row.
    """

    fingerprint: str
    shard: int
    sha256: str
    names: list[str]
    keys: list[str]
    labels: npt.NDArray[np.int32]
    arrays: dict[str, npt.NDArray[Any]]
    failures: list[tuple[str, str, str, str]] = field(default_factory=list)


def path_of(folder: Path, shard: int) -> Path:
    """Where the part of a shard lies."""
    return folder / f"part-{shard:06d}.h5"


def commit(folder: Path, part: Part) -> None:
    """Writes a part for good."""
    with h5py.File("part", "w", driver="core", backing_store=False) as file:
        write_text(file, "items/name", part.names)
        write_text(file, "items/key", part.keys)
        write_array(file, "items/label", part.labels)
        for name, values in part.arrays.items():
            write_array(file, name, values)
        for column, name in enumerate(("name", "key", "stage", "reason")):
            write_text(file, f"failures/{name}", [f[column] for f in part.failures])
        file.attrs["fingerprint"] = part.fingerprint
        file.attrs["shard"] = part.shard
        file.attrs["shard_sha256"] = part.sha256
        file.attrs[_CHECKSUM] = _digest(file)
        file.flush()
        image = file.id.get_file_image()
    files.write(path_of(folder, part.shard), image)


def write_text(file: h5py.File, name: str, values: list[str]) -> None:
    """A variable-length UTF-8 column."""
    file.create_dataset(name, shape=(len(values),), data=values or None, dtype=TEXT)


def write_array(file: h5py.File, name: str, values: npt.NDArray[Any]) -> None:
    """A numeric array in checksummed chunks of about a mebibyte."""
    file.create_dataset(name, data=values, **layout(values.shape, values.dtype))


def layout(shape: tuple[int, ...], dtype: npt.DTypeLike) -> dict[str, Any]:
    """Chunks of whole rows, about a mebibyte each, with fletcher32; none for empty arrays."""
    if not all(shape):
        return {}
    row = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    return {"chunks": (min(shape[0], max(1, CHUNK_BYTES // row)), *shape[1:]), "fletcher32": True}


def _digest(file: h5py.File) -> str:
    """Over every dataset's name, type, shape and values: fletcher32 does not cover text."""
    digest = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.dtype == TEXT or item.dtype.kind == "O":
            values = item.asstr()[()].tolist()
            digest.update(files.fingerprint([name, values]).encode())
        else:
            digest.update(f"{name} {item.dtype.str} {item.shape}".encode())
            digest.update(np.ascontiguousarray(item[()]).tobytes())

    file.visititems(add)
    return digest.hexdigest()


def valid(folder: Path, shard: int, *, fingerprint: str, sha256: str, count: int) -> bool:
    """Whether the part of a shard is done.

    Args:
        folder: of the parts.
        shard: its number.
        fingerprint: of the run.
        sha256: of the shard's content.
        count: items of the shard; rows and failures together must make it.
    """
    try:
        with h5py.File(path_of(folder, shard)) as file:
            rows, failed = len(file["items/name"]), len(file["failures/name"])
            return bool(
                file.attrs["fingerprint"] == fingerprint
                and file.attrs["shard"] == shard
                and file.attrs["shard_sha256"] == sha256
                and rows + failed == count
                and file.attrs[_CHECKSUM] == _digest(file)
            )
    except (OSError, KeyError, ValueError, RuntimeError):
        return False


def fingerprint_of(folder: Path) -> str | None:
    """The fingerprint of any readable part in the folder."""
    for path in sorted(folder.glob("part-*.h5")):
        try:
            with h5py.File(path) as file:
                return str(file.attrs["fingerprint"])
        except (OSError, KeyError):
            continue
    return None


def open_checked(folder: Path, shard: int) -> h5py.File:
    """Opens a part and checks it whole; the caller closes it.

    Raises:
        StoreError: it is missing or damaged.
    """
    path = path_of(folder, shard)
    try:
        file = h5py.File(path)
        if file.attrs[_CHECKSUM] == _digest(file):
            return file
        file.close()
        reason = "its checksum does not fit"
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise StoreError(f"{path} is damaged ({reason}): remove it and run the same command again")
