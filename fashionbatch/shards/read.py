"""Opens a data set and reads any of its images by row, each checked against its hash."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.errors import ImageError, ShardError, UnknownNameError, UsageError
from fashionbatch.shards.index import Index, IndexRow, scan
from fashionbatch.shards.manifest import INDEX, MANIFEST, Manifest, ShardRecord

_OPEN_FILES = 64

Rows = npt.NDArray[np.int64]


class ShardSet:
    """The images of a data set, by row of its index; opened with :func:`open_shards`.

    Rows are grouped by shard. Reading needs only the bytes of the image asked for, is safe in
    several processes, and the object can be pickled.

    Attributes:
        path: the folder, or the tar file.
        manifest: what the data set states of itself.
        index: where each item lies.

    Example:
        >>> shards = open_shards(Path("shards/fashion-mnist"))  # doctest: +SKIP
        >>> image_bytes = shards.read(shards.select("val")[0])  # doctest: +SKIP
    """

    def __init__(self, path: Path, manifest: Manifest, index: Index) -> None:
        self.path = path
        self.manifest = manifest
        self.index = index
        self._files: OrderedDict[tuple[int, int], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict()}

    @property
    def classes(self) -> tuple[str, ...]:
        """The vocabulary; a label is a position in it."""
        return self.manifest.classes

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """int32 ``[N]``, -1 where unknown."""
        return self.index.label

    def name(self, row: int) -> str:
        """What the catalogue calls the item."""
        return str(self.index.name[row])

    def select(self, split: str | None = None) -> Rows:
        """The rows of a split, in order; of all without one.

        Raises:
            UnknownNameError: there is no such split.
        """
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        numbers = [i for i, s in enumerate(self.manifest.shards) if s.split == split]
        if not numbers:
            raise UnknownNameError(f"split of {self.path}", split, list(self.manifest.splits))
        return np.flatnonzero(np.isin(self.index.shard, numbers)).astype(np.int64)

    def read(self, row: int) -> bytes:
        """The image file's bytes.

        Raises:
            ImageError: the bytes are not the ones that were packed.
            ShardError: the shard is missing or shorter than indexed.
        """
        number = int(self.index.shard[row])
        offset, size = int(self.index.offset[row]), int(self.index.size[row])
        data = os.pread(self._descriptor(number), size, offset)
        if len(data) != size:
            raise ShardError(
                f"{self._file(number)} ends within item {self.name(row)!r}: copy or pack it again"
            )
        if hashlib.sha256(data).digest() != self.index.sha256[row].tobytes():
            raise ImageError("read", "the bytes are not the ones that were packed (SHA-256)")
        return data

    def _file(self, number: int) -> Path:
        return self.path / self.manifest.shards[number].file if self.path.is_dir() else self.path

    def _descriptor(self, number: int) -> int:
        # keyed by process: a fork must not share file positions or close its parent's files
        key = (os.getpid(), number)
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        try:
            descriptor = os.open(self._file(number), os.O_RDONLY)
        except OSError as error:
            raise ShardError(
                f"{self._file(number)} cannot be read ({error.strerror}): copy or pack it again"
            ) from error
        self._files[key] = descriptor
        if len(self._files) > _OPEN_FILES:
            (process, _), oldest = self._files.popitem(last=False)
            if process == os.getpid():
                os.close(oldest)
        return descriptor


def is_shards(path: Path) -> bool:
    """Whether a data set, a folder of tar files, or a tar file lies at ``path``."""
    if path.is_dir():
        return (path / MANIFEST).exists() or any(path.glob("*.tar"))
    return path.suffix == ".tar" and path.exists()


def open_shards(path: Path) -> ShardSet:
    """Opens a data set made by ``shard``, or tar files made elsewhere (these are scanned).

    Raises:
        UsageError: nothing lies there.
        ShardError: it is no data set, or is damaged.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist: name a data set made by `fashionbatch shard`")
    if (path / MANIFEST).exists():
        return _open_own(path)
    if not is_shards(path):
        raise ShardError(
            f"{path} holds no shards (no {MANIFEST}, no *.tar): "
            f"pack it first with `fashionbatch shard {path}`"
        )
    return _open_foreign(path, sorted(path.glob("*.tar")) if path.is_dir() else [path])


def _open_own(path: Path) -> ShardSet:
    manifest = Manifest.load(path)
    index = Index.load(path / INDEX)
    counts = np.bincount(index.shard, minlength=len(manifest.shards)).tolist()
    for shard, count in zip(manifest.shards, counts, strict=False):
        file = path / shard.file
        size = file.stat().st_size if file.exists() else None
        if size is None:
            raise ShardError(f"{file} is missing: copy it again, or pack the catalogue again")
        if size != shard.bytes or count != shard.items:
            raise ShardError(
                f"{file} has {size} bytes and {count} indexed items, {MANIFEST} states "
                f"{shard.bytes} and {shard.items}: copy it again, or pack the catalogue again"
            )
    if len(counts) != len(manifest.shards) or len(index) != manifest.items:
        raise ShardError(f"{path / INDEX} does not fit {MANIFEST}: pack the catalogue again")
    return ShardSet(path, manifest, index)


def _open_foreign(path: Path, tars: Sequence[Path]) -> ShardSet:
    rows: list[IndexRow] = []
    records = []
    for number, tar in enumerate(tars):
        found = scan(tar, number)
        rows += found
        records.append(
            ShardRecord(
                file=tar.name,
                split=None,
                items=len(found),
                bytes=tar.stat().st_size,
                sha256=files.sha256(tar),
            )
        )
    manifest = Manifest(
        name=path.stem, classes=(), items=len(rows), failed=0, shards=tuple(records)
    )
    return ShardSet(path, manifest, Index.of(rows))
