"""Opens a data set and reads any of its images by row, each checked against its hash."""

from __future__ import annotations

import hashlib
import itertools
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fashionbatch.address import Address, Location, located, refuse_scheme
from fashionbatch.errors import (
    FashionbatchError,
    ImageError,
    ShardError,
    UnknownNameError,
    UsageError,
)
from fashionbatch.shards.foreign import index_foreign
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import MANIFEST, UNSPLIT, Manifest
from fashionbatch.shards.opening import Opened, at_address, at_path
from fashionbatch.shards.select import NO_SPLIT, Selection, choose
from fashionbatch.shards.shelf import LocalShelf, Place, RemoteShelf, Shelf
from fashionbatch.shards.travel import Distant, Lent, Parcel
from fashionbatch.sources import Failure
from fashionbatch.sources.base import from_text
from fashionbatch.sources.folder import is_image
from fashionbatch.sources.webdataset import holds_tars
from fashionbatch.specs import SPLITS

if TYPE_CHECKING:
    from fashionbatch.remote.stores import Object

_BLOCK = 512  # of a tar file
#: names that tell loose images from tar files
_LOOKED_AT = 1000
_ABOUT = 4096  # bytes that an image's JSON and its header seldom exceed

Rows = npt.NDArray[np.int64]


class ShardSet:
    """The images of a data set, by row of its index; opened with :func:`open_shards`.

    Rows are grouped by shard. Reading needs only the bytes of the image asked for, is safe in
    several processes, and the object can be pickled. Files that reading opens are closed by
    :meth:`close`, at the end of a ``with`` block, or with the object.

    Attributes:
        path: the folder or the tar file; or the address of either, or of several tar files.
        folder: what lies beside the shards: ``path``, or where an address's files are on this disk.
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
        path: Location,
        manifest: Manifest,
        index: Index,
        damaged: Mapping[int, str] | None = None,
        skipped: Mapping[int, Sequence[Failure]] | None = None,
        notes: Mapping[int, Sequence[str]] | None = None,
        *,
        folder: Path | None = None,
        objects: Sequence[Object] = (),
        key: str = "",
    ) -> None:
        self.path = path
        self.folder = folder or (path if isinstance(path, Path) else Path())
        self.manifest = manifest
        self.index = index
        self.damaged = damaged or {}
        self.skipped = skipped or {}
        self.notes = notes or {}
        self._objects, self._key = objects, key
        self._shelf: Shelf = RemoteShelf(objects) if objects else LocalShelf(self._paths())

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
        self._shelf.close()

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
        index, place = self.index.near(row)
        return index.name[place]

    def key(self, row: int) -> str:
        """Its key in its shard."""
        index, place = self.index.near(row)
        return index.key[place]

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
        return self._copy(self.path, manifest, self.index.relabelled(table))

    @property
    def is_ours(self) -> bool:
        """Whether ``shard`` has made it: its index lies beside it, and not in this user's cache."""
        return self.manifest.index is not None

    def absolute(self) -> ShardSet:
        """The same for a process on another machine, which opens it with :meth:`here`.

        It takes no memory for the items: of tar files made elsewhere a process is sent the rows
        that it is to work on, see :meth:`parcel`.
        """
        record, shards = self.manifest.index, len(self.manifest.shards)
        if record is None:
            index: Index = Lent(self.index.per_shard(shards))
        elif isinstance(self.path, Path):
            index = self.index.absolute()
        else:
            index = Distant(self.index, self.path, self._key, record)
        path = self.path.absolute() if isinstance(self.path, Path) else self.path
        made = self._copy(path, self.manifest, index)
        made.skipped, made.notes = {}, {}  # which have been told where it was opened
        return made

    def here(self, stack: ExitStack) -> ShardSet:
        """The same, opened where this is called; itself, where it is open.

        Args:
            stack: ends what that takes.

        Raises:
            ShardError: the data set is another one than when it was planned with.
            RemoteError: its index cannot be had.
        """
        index = self.index.here(stack)
        return self if index is self.index else self._copy(self.path, self.manifest, index)

    def parcel(self, rows: Rows) -> Parcel | None:
        """What a process on another machine needs of the index for these rows, int64 ``[n]``.

        ``None`` where it opens the index itself. The rows are ascending.

        Raises:
            ShardError: the index is damaged.
        """
        return None if self.is_ours else Parcel.of(self.index, rows)

    def unpack(self, parcel: Parcel) -> None:
        """Takes what :meth:`parcel` gave; of the rows of before nothing is known any more."""
        assert isinstance(self.index, Lent)
        self.index.unpack(parcel)

    def _copy(self, path: Location, manifest: Manifest, index: Index) -> ShardSet:
        return ShardSet(
            path,
            manifest,
            index,
            self.damaged,
            self.skipped,
            self.notes,
            folder=self.folder.absolute(),
            objects=self._objects,
            key=self._key,
        )

    def spans(self, split: str | None = None) -> list[range]:
        """The rows of each shard, of no split but this one.

        Args:
            split: as of :meth:`select`.

        Raises:
            UnknownNameError: there is no such split.
        """
        if split is not None:
            self._check_split(split)
        shards = self.manifest.shards
        ends = np.cumsum([0, *self.index.per_shard(len(shards))]).tolist()
        return [
            range(start, end) if split in (None, shard.split or UNSPLIT) else range(end, end)
            for shard, start, end in zip(shards, ends, ends[1:], strict=False)
        ]

    def _check_split(self, split: str) -> None:
        if split not in self.manifest.splits:
            raise UnknownNameError(f"split of {self.path}", split, list(self.manifest.splits))

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
            self._check_split(split)
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
            ShardError: the shard is missing, shorter than indexed, or another one by now.
            RemoteError: the host cannot be reached, or refuses.
        """
        place = self._place(row)
        data = self._at(place)
        if len(data) != place.size:
            raise ShardError(
                f"{self.file(place.shard)} ends within item {self.name(row)!r}: "
                "copy or pack it again"
            )
        if check and hashlib.sha256(data).digest() != self.sha256(row):
            self._shelf.distrust(place)
            raise ImageError("read", "the bytes are not the ones that were packed (SHA-256)")
        return data

    def sha256(self, row: int) -> bytes:
        """Of the image's bytes, as packed."""
        index, place = self.index.near(row)
        digest: bytes = index.sha256[place].tobytes()
        return digest

    def expect(self, rows: Iterable[int]) -> None:
        """Says which rows are going to be read next, in this order.

        Shards elsewhere are then read in fewer requests; others need no such hint.
        """
        self._shelf.expect([self._place(row) for row in rows])

    def about(self, row: int) -> dict[str, Any]:
        """The JSON beside an image of a data set that ``shard`` wrote, right behind it in the tar.

        Returns:
            its fields, see ``shards/README.md``.

        Raises:
            ValueError, RecursionError, tarfile.TarError: it is damaged, or not there.
            ShardError: the shard is missing.
        """
        number, offset, size = self._place(row)
        start = offset + size + -(offset + size) % _BLOCK
        bytes_left = self.manifest.shards[number].bytes - start
        # mostly the whole of it, in one request
        data = self._at(Place(number, start, max(0, min(_ABOUT, bytes_left))))
        header = tarfile.TarInfo.frombuf(data[:_BLOCK], "utf-8", "strict")
        left = bytes_left - _BLOCK
        if header.name != f"{self.key(row)}.json" or not 0 <= header.size <= left:
            raise ValueError("it is not behind the image")
        text = data[_BLOCK : _BLOCK + header.size]
        if len(text) < header.size:
            text = self._at(Place(number, start + _BLOCK, header.size))
        about = json.loads(text)
        if not isinstance(about, dict):
            raise ValueError("no object")
        # damage can make it unwritable
        json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
        return about

    def file(self, number: int) -> Location:
        """Where a shard lies."""
        return self._objects[number].address if self._objects else self._paths()[number]

    def _paths(self) -> Sequence[Path]:
        if not isinstance(self.path, Path):
            return ()
        if not self.path.is_dir():
            return [self.path] * len(self.manifest.shards)
        return [self.path / from_text(shard.file) for shard in self.manifest.shards]

    def _place(self, row: int) -> Place:
        index, at = self.index.near(row)
        return Place(index.shard.item(at), index.offset.item(at), index.size.item(at))

    def _at(self, place: Place) -> bytes:
        if place.shard in self.damaged:
            raise ShardError(self.damaged[place.shard])
        return self._shelf.at(place)


def is_shards(path: Path) -> bool:
    """Whether a data set, a folder of tar files, or a tar file lies at ``path``."""
    return (path / MANIFEST).exists() or holds_tars(path)


def has_images(address: Address) -> bool:
    """Whether loose images lie below an address of an object store, and no shards.

    Of very many files some are looked at: hosts list them a thousand at a time.

    Raises:
        RemoteError: a host cannot be reached, or refuses.
    """
    from fashionbatch.remote import client
    from fashionbatch.remote.trouble import MissingError

    if not address.has_bucket or address.is_pattern or address.path.endswith(".tar"):
        return False
    (found,) = client.look_at([address / MANIFEST])
    if not isinstance(found, FashionbatchError):
        return False
    if not isinstance(found, MissingError):
        raise found
    names = [one.key for one in itertools.islice(client.below(address), _LOOKED_AT)]
    tars = any(name.endswith(".tar") for name in names)
    return any(map(is_image, names)) or (bool(names) and not tars)


def open_shards(path: str | Location, *, strict: bool = True, whole: bool = True) -> ShardSet:
    """Opens a data set made by ``shard``, or tar files made elsewhere (scanned on first use).

    Args:
        path: a folder, or a tar file; or an address of either, or of tar files:
            ``s3://bucket/train-{000..099}.tar``, ``s3://bucket/*.tar``.
        strict: a damaged shard is an error; otherwise it is listed in ``damaged``.
        whole: have the index in memory, which images in random order want; otherwise it is read
            block by block, in memory that does not grow with it.

    Raises:
        UsageError: nothing lies there, or it is an address of a kind that is not read.
        ShardError: it is no data set, or is damaged.
        RemoteError: a host cannot be reached, or refuses.

    Example:
        >>> with open_shards("https://example.org/photos") as shards:  # doctest: +SKIP
        ...     image_bytes = shards.read(shards.select("val")[0])
    """
    where = located(path)
    if isinstance(where, Path):
        opened = _open_local(where, whole=whole)
    else:
        opened = _open_remote(where, whole=whole)
    if strict and opened.damaged:
        raise ShardError(next(iter(opened.damaged.values())))
    return opened


def _open_local(path: Path, *, whole: bool) -> ShardSet:
    refuse_scheme(path)
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: name a data set made by `fashionbatch shard` (an address "
            "begins with its scheme, such as s3://)"
        )
    if not is_shards(path):
        raise ShardError(
            f"{path} holds no shards (no {MANIFEST}, no *.tar): "
            f"pack it first with `fashionbatch shard {path}`"
        )
    if (path / MANIFEST).exists():
        return _own(path, at_path(path, whole=whole))
    return _foreign(path, whole=whole)


def _open_remote(address: Address, *, whole: bool) -> ShardSet:
    from fashionbatch.remote.trouble import MissingError

    if address.is_pattern or address.path.endswith(".tar"):
        return _foreign(address, whole=whole)
    try:
        return _own(address, at_address(address, whole=whole))
    except MissingError:
        if not address.has_bucket:
            raise
    try:
        return _foreign(address / "*.tar", whole=whole)
    except MissingError:
        raise ShardError(
            f"{address} holds no shards (no {MANIFEST}, no *.tar): see how it is written, or "
            "pack the catalogue with `fashionbatch shard` and copy the folder there"
        ) from None


def _own(where: Location, opened: Opened) -> ShardSet:
    return ShardSet(
        where,
        opened.manifest,
        opened.index,
        opened.damaged,
        folder=opened.folder,
        objects=opened.objects,
        key=opened.key,
    )


def _foreign(where: Location, *, whole: bool) -> ShardSet:
    found = index_foreign(where, whole=whole)
    return ShardSet(
        where,
        found.manifest,
        found.index,
        found.damaged,
        found.skipped,
        found.notes,
        objects=found.objects,
    )
