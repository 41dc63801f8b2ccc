"""A data set of our own as a catalogue, to be packed anew."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fashionbatch.errors import ImageError, ShardError, SourceError, UsageError
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.sources import Failure, Item, Source
from fashionbatch.sources.base import to_text
from fashionbatch.sources.webdataset import in_dataset

_NO_BOX = [-1, -1, -1, -1]


def is_dataset(path: Path) -> bool:
    """Whether this source can read what lies at ``path``."""
    return (path.is_dir() or path.suffix == ".tar") and in_dataset(path)


class DatasetSource(Source):
    """The images of a data set that ``shard`` wrote, as they were before it was packed.

    Names, labels, splits, attributes and boxes come from its index; products, landmarks and
    metadata from the JSON beside each image. An item whose JSON is damaged or does not fit the
    index is a :class:`Failure`, as is a shard that is lost.

    Args:
        path: of the data set, or of one of its tar files.

    Raises:
        UsageError: no data set of ours lies there, or the tar file is none of its shards.
        ShardError: its ``dataset.json`` is damaged.

    Example:
        >>> next(DatasetSource(Path("shards/photos")).items())  # doctest: +SKIP
        Item(name='dress/1.jpg', path='shards/photos/train-000000.tar', offset=0, size=9125, ...)
    """

    def __init__(self, path: Path) -> None:
        where = to_text(os.fspath(path))
        if not is_dataset(path):
            raise UsageError(
                f"{where} is no data set: name a folder that `fashionbatch shard` made"
            )
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        manifest = Manifest.load(self.folder)
        if path != self.folder and path.name not in [s.file for s in manifest.shards]:
            raise UsageError(f"{where} is no shard of the data set beside it: name the folder")
        self.attributes = manifest.attributes
        types = zip(manifest.classes, manifest.class_types, strict=bool(manifest.class_types))
        self.class_types = {name: kind for name, kind in types if kind is not None}
        self._opened: ShardSet | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def items(self) -> Iterator[Item | Failure]:
        """See :class:`fashionbatch.Source`.

        An item's ``offset`` is its row in the index, which leads :meth:`read` to its hash.

        Raises:
            ShardError: the index is missing or damaged.
            SourceError: no shard can be used.
        """
        shards = self._shards()
        empty = True
        reason = "it has none"
        for number, record in enumerate(shards.manifest.shards):
            if self.path not in (self.folder, shards.file(number)):
                continue
            try:
                for found in _items(shards, number):
                    empty = empty and isinstance(found, Failure)
                    yield found
            except (ShardError, OSError) as error:
                reason = str(error)
                yield Failure(name=record.file, stage="shard", reason=reason)
        if empty:
            where = to_text(os.fspath(self.path))
            raise SourceError(f"{where} holds no images that can be used: {reason}")

    def read(self, item: Item) -> bytes:
        """The bytes of an item's image file, checked against the index.

        Raises:
            ImageError: they are not the ones that were packed, or the shard is gone.
        """
        assert item.offset is not None
        try:
            return self._shards().read(item.offset)
        except ShardError as error:
            raise ImageError("shard", str(error)) from None

    def _shards(self) -> ShardSet:
        if self._opened is None:
            self._opened = open_shards(self.folder, strict=False)
        return self._opened


def _items(shards: ShardSet, number: int) -> Iterator[Item | Failure]:
    """What a shard holds, in its order."""
    if number in shards.damaged:
        raise ShardError(shards.damaged[number])
    path = shards.file(number)
    assert isinstance(path, Path)  # this source is a folder
    try:
        for row in range(*np.searchsorted(shards.index.shard, [number, number + 1]).tolist()):
            try:
                yield _item(shards, row, path, shards.about(row))
            except (ValueError, TypeError, KeyError, RecursionError, tarfile.TarError) as error:
                reason = f"its JSON is damaged ({error}): take the shard from another copy"
                yield Failure(name=shards.name(row), stage="shard", reason=reason)
    finally:
        shards.close()


def _item(shards: ShardSet, row: int, path: Path, about: Mapping[str, Any]) -> Item:
    """The item of a row.

    Raises:
        KeyError, TypeError, ValueError: its JSON is none of ours, or another item's.
    """
    index = shards.index
    label = index.label.item(row)
    split = shards.manifest.shards[index.shard.item(row)].split
    box = index.box[row].tolist()
    item = Item(
        name=shards.name(row),
        path=path,
        offset=row,
        size=index.size.item(row),
        label=None if label < 0 else shards.classes[label],
        split=split,
        group=_group(about.get("group")),
        positive=tuple(index.positive[row].tolist()),
        unknown=tuple(index.unknown[row].tolist()),
        box=None if box == _NO_BOX else (box[0], box[1], box[2], box[3]),
        landmarks=tuple(_landmark(point) for point in about.get("landmarks", [])),
        metadata=dict(about.get("metadata", {})),
    )
    stated = {"positive": [], "unknown": [], "box": _NO_BOX, **about}
    indexed = {
        "name": item.name,
        "label": item.label,
        "split": item.split,
        "positive": list(item.positive),
        "unknown": list(item.unknown),
        "box": box,
    }
    for field, value in indexed.items():
        if stated[field] != value:
            raise ValueError(f"its {field} is not the index's")
    return item


def _group(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no product")
    return value


def _landmark(values: Any) -> tuple[int, int, int]:
    if not isinstance(values, list) or any(type(v) is not int for v in values):
        raise TypeError(f"{values!r:.40} is no landmark")
    visibility, x, y = values
    return visibility, x, y
