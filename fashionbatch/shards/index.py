"""Where each image lies: shard, offset, size, label and hash per item, in one HDF5 file."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.errors import ShardError
from fashionbatch.sources.base import to_text

UNKNOWN = -1
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_BLOCK = 512
_COLUMNS = ("shard", "offset", "size", "label", "sha256")


@dataclass(frozen=True, kw_only=True)
class Index:
    """Columns over the ``N`` items of a data set, grouped by shard.

    Attributes:
        key: object ``[N]`` of str, the name inside the shard without extension.
        name: object ``[N]`` of str, the catalogue's own name.
        shard: uint32 ``[N]``, position in the manifest's shards.
        offset: uint64 ``[N]``, first byte of the image in its shard.
        size: uint32 ``[N]``, length of the image in bytes.
        label: int32 ``[N]``, position in the classes, or -1.
        sha256: uint8 ``[N, 32]``, of the image's bytes.
    """

    key: npt.NDArray[np.object_]
    name: npt.NDArray[np.object_]
    shard: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint32]
    label: npt.NDArray[np.int32]
    sha256: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.key)

    def save(self, path: Path) -> None:
        """Writes the columns; the same columns make the same bytes."""
        with files.atomic(path) as temporary, h5py.File(temporary, "w") as file:
            for column in ("key", "name"):
                file.create_dataset(column, data=getattr(self, column), dtype=h5py.string_dtype())
            for column in _COLUMNS:
                file.create_dataset(
                    column,
                    data=getattr(self, column),
                    fletcher32=len(self) > 0,
                    chunks=True if len(self) else None,
                )

    @classmethod
    def load(cls, path: Path) -> Index:
        """Reads the columns.

        Raises:
            ShardError: the file is missing or damaged.
        """
        try:
            with h5py.File(path) as file:
                text = {c: file[c].asstr()[()] for c in ("key", "name")}
                index = cls(**text, **{c: file[c][()] for c in _COLUMNS})
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ShardError(
                f"{path} cannot be read ({reason}): pack the catalogue again"
            ) from error
        if len({len(getattr(index, c)) for c in ("key", "name", *_COLUMNS)}) != 1:
            raise ShardError(f"{path} has columns of different lengths: pack the catalogue again")
        return index

    @classmethod
    def of(cls, rows: list[IndexRow]) -> Index:
        """From rows in order."""
        hashes = np.frombuffer(b"".join(r.sha256 for r in rows), np.uint8).reshape(len(rows), 32)
        return cls(
            key=np.array([r.key for r in rows], dtype=object),
            name=np.array([r.name for r in rows], dtype=object),
            shard=np.array([r.shard for r in rows], dtype=np.uint32),
            offset=np.array([r.offset for r in rows], dtype=np.uint64),
            size=np.array([r.size for r in rows], dtype=np.uint32),
            label=np.array([r.label for r in rows], dtype=np.int32),
            sha256=hashes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """One item of an :class:`Index`."""

    key: str
    name: str
    shard: int
    offset: int
    size: int
    label: int
    sha256: bytes


def scan(path: Path, shard: int = 0) -> list[IndexRow]:
    """Indexes the images of a tar file that was made elsewhere, by WebDataset's naming.

    A sample is all members that share a path up to the first dot of the file name; its image is
    the member with an image's extension. Labels are not taken: their numbers have no names here.

    Raises:
        ShardError: it is not a tar file, is damaged, or has a key twice.
    """
    rows: dict[str, IndexRow] = {}
    try:
        length = path.stat().st_size
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for member in tar:
                folder, slash, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if not member.isfile() or extension.lower() not in IMAGE_EXTENSIONS:
                    continue
                key = to_text(folder + slash + stem)
                if key in rows:
                    raise ShardError(
                        f"{path} holds the key {key!r} twice: give every sample its own key"
                    )
                if member.offset_data + member.size > length:  # before memory is asked for
                    raise ShardError(f"{path} ends within {member.name!r}: copy or make it again")
                file.seek(member.offset_data)
                data = file.read(member.size)
                rows[key] = IndexRow(
                    key=key,
                    name=to_text(member.name),
                    shard=shard,
                    offset=member.offset_data,
                    size=member.size,
                    label=UNKNOWN,
                    sha256=hashlib.sha256(data).digest(),
                )
            # tarfile takes a damaged header for the end: the true end is zeros only
            file.seek(tar.offset)
            end = length - tar.offset
            if end < 2 * _BLOCK or any(
                any(piece) for piece in iter(lambda: file.read(1 << 20), b"")
            ):
                raise ShardError(
                    f"{path} is damaged or cut short at byte {tar.offset}: copy or make it again"
                )
    except (tarfile.TarError, EOFError, OSError, UnicodeError) as error:
        raise ShardError(f"{path} cannot be read as a tar file ({error})") from error
    return list(rows.values())
