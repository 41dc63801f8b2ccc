"""Opens a data set and reads any of its images by row, each checked against its hash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import ImageError, ShardError, UnknownNameError, UsageError
from fashionbatch.shards.foreign import index_foreign
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import MANIFEST, Manifest
from fashionbatch.shards.select import NO_SPLIT, Selection, choose
from fashionbatch.sources import Failure
from fashionbatch.sources.base import from_text
from fashionbatch.sources.webdataset import holds_tars
from fashionbatch.specs import SPLITS

_OPEN_FILES = 64
_BLOCK = 512  # of a tar file

Rows = npt.NDArray[np.int64]


class ShardSet:
    """The images of a data set, by row of its index; opened with :func:`open_shards`.

    Rows are grouped by shard. Reading needs only the bytes of the image asked for, is safe in
    several processes, and the object can be pickled. Files that reading opens are closed by
    :meth:`close`, at the end of a ``with`` block, or with the object.

    Attributes:
        path: the folder, or the tar file.
        manifest: what the data set states of itself.
        index: where each item lies.
        damaged: shards that cannot be used, from their number to the reason; reading from them
            fails.
        skipped: of shards made elsewhere: what is in them and is no image that can be used.
        notes: of shards made elsewhere: what is worth knowing.

    Example:
        >>> with open_shards(Path("shards/fashion-mnist")) as shards:  # doctest: +SKIP
        ...     image_bytes = shards.read(shards.select("val")[0])
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        index: Index,
        damaged: Mapping[int, str] | None = None,
        skipped: Mapping[int, Sequence[Failure]] | None = None,
        notes: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.index = index
        self.damaged = damaged or {}
        self.skipped = skipped or {}
        self.notes = notes or {}
        self._files = _Files()

    def __len__(self) -> int:
        return len(self.index)

    def __enter__(self) -> ShardSet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files that this process has open; reading opens them again."""
        self._files.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """The vocabulary; a label is a position in it."""
        return self.manifest.classes

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """int32 ``[N]``, -1 where unknown."""
        return self.index.label

    @cached_property
    def splits(self) -> npt.NDArray[np.int8]:
        """int8 ``[N]``, position in ``("train", "val", "test")``, -1 where there is none."""
        splits = [s.split for s in self.manifest.shards]
        numbers = [NO_SPLIT if s is None else SPLITS.index(s) for s in splits]
        return np.array(numbers, np.int8)[self.index.shard]

    def name(self, row: int) -> str:
        """What the catalogue calls the item."""
        return self.index.name[row]

    def restricted(self, selection: Selection) -> ShardSet:
        """The same images with the vocabulary of a selection; others lose their label.

        Raises:
            UsageError: it names classes or types that there are not.
        """
        kept = selection.vocabulary(self.classes, self.manifest.class_types, self.path)
        if kept == self.classes:
            return self
        places = {name: i for i, name in enumerate(kept)}
        table = np.array([*(places.get(c, -1) for c in self.classes), -1], np.int32)
        types = self.manifest.class_types
        manifest = replace(
            self.manifest,
            classes=kept,
            class_types=tuple(types[self.classes.index(c)] for c in kept) if types else (),
        )
        index = self.index.replaced(label=table[self.labels])
        return ShardSet(self.path, manifest, index, self.damaged, self.skipped, self.notes)

    def absolute(self) -> ShardSet:
        """The same for a process that works in another folder."""
        return ShardSet(
            self.path.absolute(), self.manifest, self.index, self.damaged, self.skipped, self.notes
        )

    def select(
        self,
        split: str | None = None,
        selection: Selection | None = None,
        capped: Sequence[str | None] = (None, "train"),
    ) -> Rows:
        """The rows of a split, in order; of all without one.

        Args:
            split: ``"train"``, ``"val"``, ``"test"``, or ``"all"`` for items without a split.
            selection: what of them to take.
            capped: the splits in which the selection's ``per_class`` holds.

        Raises:
            UnknownNameError: there is no such split, class or type.

        Example:
            >>> shards.select("train", Selection(per_class=600))  # doctest: +SKIP
        """
        rows = np.arange(len(self), dtype=np.int64)
        if split is not None:
            if split not in self.manifest.splits:
                raise UnknownNameError(f"split of {self.path}", split, list(self.manifest.splits))
            wanted = SPLITS.index(split) if split in SPLITS else NO_SPLIT
            rows = np.flatnonzero(self.splits == wanted)
        if selection is None or selection.everything:
            return rows
        if selection.classes or selection.category_type:
            labels = self.restricted(selection).labels
            rows = rows[labels[rows] >= 0]
        chosen = choose(
            selection,
            label=self.labels[rows],
            split=self.splits[rows],
            priority=lambda places: self.index.priority(rows[places], selection.seed),
            capped=capped,
        )
        return rows[chosen]

    def read(self, row: int, *, check: bool = True) -> bytes:
        """The image file's bytes.

        Args:
            row: of the index.
            check: compare them with their SHA-256, which takes most of the time.

        Raises:
            ImageError: the bytes are not the ones that were packed.
            ShardError: the shard is missing or shorter than indexed.
        """
        index = self.index
        number = index.shard.item(row)
        size = index.size.item(row)
        data = os.pread(self._descriptor(number), size, index.offset.item(row))
        if len(data) != size:
            raise ShardError(
                f"{self.file(number)} ends within item {self.name(row)!r}: copy or pack it again"
            )
        if check and hashlib.sha256(data).digest() != index.sha256[row].tobytes():
            raise ImageError("read", "the bytes are not the ones that were packed (SHA-256)")
        return data

    def about(self, row: int) -> dict[str, Any]:
        """The JSON beside an image of a data set that ``shard`` wrote, right behind it in the tar.

        Returns:
            its fields, see ``shards/README.md``.

        Raises:
            ValueError, RecursionError, tarfile.TarError: it is damaged, or not there.
            ShardError: the shard is missing.
        """
        number = self.index.shard.item(row)
        descriptor = self._descriptor(number)
        end = self.index.offset.item(row) + self.index.size.item(row)
        start = end + -end % _BLOCK
        header = tarfile.TarInfo.frombuf(os.pread(descriptor, _BLOCK, start), "utf-8", "strict")
        left = self.manifest.shards[number].bytes - start - _BLOCK
        if header.name != f"{self.index.key[row]}.json" or not 0 <= header.size <= left:
            raise ValueError("it is not behind the image")
        about = json.loads(os.pread(descriptor, header.size, start + _BLOCK))
        if not isinstance(about, dict):
            raise ValueError("no object")
        # damage can make it unwritable
        json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
        return about

    def file(self, number: int) -> Path:
        """Where a shard lies."""
        if not self.path.is_dir():
            return self.path
        return self.path / from_text(self.manifest.shards[number].file)

    def _descriptor(self, number: int) -> int:
        descriptor = self._files.find(number)
        if descriptor is not None:
            return descriptor
        if number in self.damaged:
            raise ShardError(self.damaged[number])
        try:
            return self._files.open(number, self.file(number))
        except OSError as error:
            raise ShardError(
                f"{self.file(number)} cannot be read ({error.strerror}): copy or pack it again"
            ) from error


class _Files:
    """Descriptors of the shards read last; closed with the object, and not pickled with it."""

    def __init__(self) -> None:
        # keyed by process: a fork must not share file positions or close its parent's files
        self._open: OrderedDict[tuple[int, int], int] = OrderedDict()
        weakref.finalize(self, _close, self._open)

    def __reduce__(self) -> tuple[type[_Files], tuple[()]]:
        return type(self), ()

    def find(self, number: int) -> int | None:
        """The descriptor of a shard, if it is open in this process."""
        key = (os.getpid(), number)
        if key in self._open:
            self._open.move_to_end(key)
        return self._open.get(key)

    def open(self, number: int, path: Path) -> int:
        """Opens a shard, and closes the one not read for longest where there are too many."""
        # not blocking: a named pipe in its place would wait for a writer for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._open[os.getpid(), number] = descriptor
        if len(self._open) > _OPEN_FILES:
            (process, _), oldest = self._open.popitem(last=False)
            if process == os.getpid():
                os.close(oldest)
        return descriptor

    def close(self) -> None:
        """Closes all that this process has opened."""
        _close(self._open)


def _close(descriptors: OrderedDict[tuple[int, int], int]) -> None:
    while descriptors:
        (process, _), descriptor = descriptors.popitem()
        if process == os.getpid():
            os.close(descriptor)


def is_shards(path: Path) -> bool:
    """Whether a data set, a folder of tar files, or a tar file lies at ``path``."""
    return (path / MANIFEST).exists() or holds_tars(path)


def open_shards(path: str | Path, *, strict: bool = True) -> ShardSet:
    """Opens a data set made by ``shard``, or tar files made elsewhere (scanned on first use).

    Args:
        path: a folder, or a tar file.
        strict: a damaged shard is an error; otherwise it is listed in ``damaged``.

    Raises:
        UsageError: nothing lies there.
        ShardError: it is no data set, or is damaged.
    """
    path = Path(path)
    refuse_url(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist: name a data set made by `fashionbatch shard`")
    if not is_shards(path):
        raise ShardError(
            f"{path} holds no shards (no {MANIFEST}, no *.tar): "
            f"pack it first with `fashionbatch shard {path}`"
        )
    opened = _open_own(path) if (path / MANIFEST).exists() else _open_foreign(path)
    if strict and opened.damaged:
        raise ShardError(next(iter(opened.damaged.values())))
    return opened


def refuse_url(path: Path) -> None:
    """Refuses addresses: ``pipe:`` ones run programs, others are not read here.

    Raises:
        UsageError: it is one.
    """
    found = re.match(r"([a-z][a-z0-9+.-]+):", str(path), re.IGNORECASE)
    if found and not path.exists():
        why = "runs a program" if found[1].lower() == "pipe" else "is not read"
        raise UsageError(f"{path}: an address {found[1]}: {why}; name a file or folder")


def _open_own(path: Path) -> ShardSet:
    manifest = Manifest.load(path)
    assert manifest.index is not None
    index = Index.load(path / manifest.index.file)
    counts = np.bincount(index.shard, minlength=len(manifest.shards)).tolist()
    if len(counts) != len(manifest.shards) or len(index) != manifest.items:
        raise ShardError(
            f"{path / manifest.index.file} does not fit {MANIFEST}: pack the catalogue again"
        )
    damaged = {}
    for number, (shard, count) in enumerate(zip(manifest.shards, counts, strict=True)):
        file = path / shard.file
        try:
            size = file.stat().st_size
        except OSError as error:
            damaged[number] = (
                f"{file} is missing ({error.strerror}): copy it again, or pack the catalogue again"
            )
            continue
        if size != shard.bytes or count != shard.items:
            damaged[number] = (
                f"{file} has {size} bytes and {count} indexed items, {MANIFEST} states "
                f"{shard.bytes} and {shard.items}: copy it again, or pack the catalogue again"
            )
    return ShardSet(path, manifest, index, damaged)


def _open_foreign(path: Path) -> ShardSet:
    found = index_foreign(path)
    return ShardSet(path, found.manifest, found.index, found.damaged, found.skipped, found.notes)
