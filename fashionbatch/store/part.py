"""One shard's results: built in memory, committed whole, valid or not there.

The commit: serialize, write under a temporary name, fsync, rename, fsync the folder. A part is
*done* when it can be read, fits its checksums and carries the fingerprint of the run; nothing else
marks it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.errors import StoreError

TEXT = h5py.string_dtype()
CHUNK_BYTES = 1 << 20
#: begins a part, in front of the SHA-256 of what follows behind the block
_MAGIC = b"fashionbatch part, SHA-256 "
#: bytes in front of the HDF5 file: where HDF5 looks for the beginning of one that is not at 0
SEAL = 512
#: what a run's folder says of itself: for messages; whether a part counts, the part says
ABOUT = "about.json"


class MissingPartError(StoreError):
    """A part that was there, and was taken away by somebody else."""


class Failed(NamedTuple):
    """An item without a row.

    Attributes:
        name: of the item.
        key: in its shard.
        stage: where it failed: ``read``, ``shard``, ``decode``, ``transform``, ``model``,
            ``write``, or what a scan of shards made elsewhere found.
        reason: why, in a few words.
        sha256: of its bytes; zeros where they could not be read.
    """

    name: str
    key: str
    stage: str
    reason: str
    sha256: bytes = bytes(32)


class Found(NamedTuple):
    """A part that is there and whole.

    Attributes:
        sha256: of the shard's content.
        rows: how many are predicted, and how many ``failed``.
    """

    sha256: str
    rows: int
    failed: int


@dataclass(kw_only=True)
class Part:
    """Results of one shard; row ``i`` of every array belongs to ``names[i]``.

    Attributes:
        fingerprint: of the run it belongs to.
        shard: its number in the plan.
        sha256: of the shard's content.
        names: ``[N]``, and ``keys`` ``[N]``.
        labels: int32 ``[N]``, -1 unknown.
        hashes: uint8 ``[N, 32]``, the SHA-256 of each image's bytes.
        arrays: such as ``"predictions/topk_index"`` → ``[N, K]``.
        failures: the items that have no row.
    """

    fingerprint: str
    shard: int
    sha256: str
    names: list[str]
    keys: list[str]
    labels: npt.NDArray[np.int32]
    hashes: npt.NDArray[np.uint8]
    arrays: dict[str, npt.NDArray[Any]]
    failures: list[Failed] = field(default_factory=list)


def path_of(folder: Path, shard: int) -> Path:
    """Where the part of a shard lies."""
    return folder / f"part-{shard:06d}.h5"


def commit(folder: Path, part: Part, *, again: bool = False) -> None:
    """Writes a part for good.

    Args:
        folder: of the parts.
        part: to write.
        again: make the folder anew where another process of the same run has tidied it away.

    Raises:
        OSError: the disk is full, say; nothing is left then.
    """
    data = to_bytes(part)
    try:
        files.write(path_of(folder, part.shard), data)
    except FileNotFoundError:
        if not again:
            raise
        folder.mkdir(parents=True, exist_ok=True)
        files.write(path_of(folder, part.shard), data)


def to_bytes(part: Part) -> bytes:
    """A part as it is written."""
    with h5py.File("part", "w", driver="core", backing_store=False) as file:
        write_text(file, "items/name", part.names)
        write_text(file, "items/key", part.keys)
        write_array(file, "items/label", part.labels)
        write_array(file, "items/sha256", part.hashes)
        for name, values in part.arrays.items():
            write_array(file, name, values)
        for name in ("name", "key", "stage", "reason"):
            write_text(file, f"failures/{name}", [getattr(f, name) for f in part.failures])
        hashes = b"".join(f.sha256 for f in part.failures)
        write_array(file, "failures/sha256", np.frombuffer(hashes, np.uint8).reshape(-1, 32))
        file.attrs["fingerprint"] = part.fingerprint
        file.attrs["shard"] = part.shard
        file.attrs["shard_sha256"] = part.sha256
        file.flush()
        return _sealed(file.id.get_file_image())


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


def _sealed(image: bytes) -> bytes:
    """An HDF5 file behind a block that HDF5 passes over, which holds the SHA-256 of the file."""
    seal = _MAGIC + hashlib.sha256(image).hexdigest().encode()
    return seal.ljust(SEAL, b"\0") + image


def _opened(path: Path) -> h5py.File:
    """A part whose every byte is as it was written, in memory.

    HDF5 itself must not see a damaged one: a flipped bit in a text can end the process, or hang it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    data = path.read_bytes()
    image = memoryview(data)[SEAL:]
    seal = data[:SEAL].rstrip(b"\0")
    if seal != _MAGIC + hashlib.sha256(image).hexdigest().encode():
        raise ValueError("its checksum does not fit")
    return h5py.File(h5py.h5f.open_file_image(image.tobytes()))


def is_whole(path: Path) -> bool:
    """Whether a part is there with every byte as it was written."""
    try:
        _opened(path).close()
    except (OSError, ValueError):
        return False
    return True


def find(folder: Path, shard: int, *, fingerprint: str, count: int) -> Found | None:
    """The part of a shard, if it is done.

    Args:
        folder: of the parts.
        shard: its number.
        fingerprint: of the run.
        count: items of the shard; rows and failures together must make it.
    """
    try:
        with _opened(path_of(folder, shard)) as file:
            rows, failed = len(file["items/name"]), len(file["failures/name"])
            fits = file.attrs["fingerprint"] == fingerprint and file.attrs["shard"] == shard
            if not fits or rows + failed != count:
                return None
            return Found(str(file.attrs["shard_sha256"]), rows, failed)
    except (OSError, KeyError, ValueError):
        return None


def say(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes down what the parts of a folder are of, for :func:`said`."""
    files.write_json(folder / ABOUT, about)


def said(folder: Path) -> dict[str, Any] | None:
    """What the parts of a folder are of, where that can be read."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return None
    return about


def fingerprint_of(folder: Path) -> str | None:
    """The fingerprint of any readable part in the folder."""
    for path in sorted(folder.glob("part-*.h5")):
        try:
            with _opened(path) as file:
                return str(file.attrs["fingerprint"])
        except (OSError, KeyError, ValueError):
            continue
    return None


def open_checked(folder: Path, shard: int, fingerprint: str) -> h5py.File:
    """Opens a part of a run and checks it whole; the caller closes it.

    Raises:
        MissingPartError: it is not there.
        StoreError: it is damaged.
    """
    path = path_of(folder, shard)
    try:
        file = _opened(path)
        if file.attrs["fingerprint"] == fingerprint and file.attrs["shard"] == shard:
            return file
        file.close()
        raise ValueError("it is of another run")
    except FileNotFoundError:
        raise MissingPartError(f"{path} is missing: run the same command again") from None
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be used ({error}): remove it and run the same command again"
        ) from error
