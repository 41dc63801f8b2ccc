"""Where the images of a prediction file lie, to draw them: the catalogue that was predicted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fashionbatch.address import Address, Location
from fashionbatch.errors import FashionbatchError, RemoteError, UsageError
from fashionbatch.shards.read import ShardSet, has_images, is_shards, open_shards
from fashionbatch.sources import Item
from fashionbatch.sources.base import from_text, to_text
from fashionbatch.sources.folder import is_image
from fashionbatch.store.reader import Predictions
from fashionbatch.store.rows import Batch

if TYPE_CHECKING:
    from fashionbatch.sources.elsewhere import Ahead


class Catalogue:
    """The images of the rows of a prediction file.

    Args:
        predictions: the file.
        path: the folder of images or of shards, or the image, that was predicted; or its address.
    """

    def __init__(self, predictions: Predictions, path: Location) -> None:
        self.predictions = predictions
        self.path = path

    def read(self, row: int) -> bytes | str:
        """The image's bytes, or why there are none: it is gone, or is another one now.

        Raises:
            RemoteError: a host cannot be reached: of no image could be said what is wrong.
        """
        batch = Batch(self.predictions, row, row + 1)
        name = batch.names[0]
        try:
            data = self._packed(batch) if self._shards is not None else self._loose(name)
        except (FashionbatchError, OSError) as error:
            if isinstance(error, RemoteError) and not _of_one(error):
                raise
            return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        known = batch.sha256[0] if batch.sha256 else ""
        if known and hashlib.sha256(data).hexdigest() != known:
            return "it has changed since it was predicted"
        return data

    def expect(self, rows: Iterable[int]) -> None:
        """Says which rows are going to be read next, in this order: see :meth:`ShardSet.expect`."""
        if isinstance(self.path, Path):
            return  # the system reads ahead by itself
        batches = [Batch(self.predictions, row, row + 1) for row in rows]
        with suppress(FashionbatchError):  # told when it is read
            if self._shards is not None:
                self._shards.expect([self._place(batch) for batch in batches])
            elif self._ahead is not None:
                self._ahead.expect([self._item(batch.names[0]) for batch in batches])

    def close(self) -> None:
        """Closes the files that were opened."""
        opened = self.__dict__.get("_shards")  # what could not be opened is not tried again
        if opened is not None:
            opened.close()

    @cached_property
    def _shards(self) -> ShardSet | None:
        if isinstance(self.path, Path):
            loose = not is_shards(self.path)
        else:
            loose = is_image(self.path.path) or has_images(self.path)
        if loose:
            return None
        return open_shards(self.path, strict=False)

    @cached_property
    def _ahead(self) -> Ahead | None:
        """Of images elsewhere."""
        if isinstance(self.path, Path):
            return None
        from fashionbatch.sources.elsewhere import Ahead

        return Ahead()

    @cached_property
    def _numbers(self) -> dict[str, int]:
        assert self._shards is not None
        return {shard.file: i for i, shard in enumerate(self._shards.manifest.shards)}

    def _packed(self, batch: Batch) -> bytes:
        assert self._shards is not None
        return self._shards.read(self._place(batch))

    def _place(self, batch: Batch) -> int:
        """The row of the shards that a row of the file is of."""
        shards = self._shards
        assert shards is not None
        shard = self.predictions.shard_names[int(batch.shards[0])]
        if shard not in self._numbers:
            raise UsageError(f"there is no {shard} in {self.path}")
        rows = np.flatnonzero(shards.index.shard == self._numbers[shard])
        for row in rows.tolist():
            if str(shards.index.key[row]) == batch.keys[0] and shards.name(row) == batch.names[0]:
                return int(row)
        raise UsageError(f"it is not in {shard} any more")

    def _loose(self, name: str) -> bytes:
        if self._ahead is not None:
            return self._ahead.read(self._item(name))
        assert isinstance(self.path, Path)
        if self.path.is_file():
            if to_text(self.path.resolve().name) != name and to_text(self.path.name) != name:
                raise UsageError(f"it is not in {self.path}")
            return Item(name=name, path=self.path).read()
        plain = from_text(name)
        # names come from outside: none leads out of the folder
        if plain.startswith("/") or ".." in plain.split("/"):
            raise UsageError("its name is no path below the folder")
        return Item(name=name, path=os.path.join(self.path, plain)).read()  # noqa: PTH118  # keeps surrogates as they are

    def _item(self, name: str) -> Item:
        """An image elsewhere."""
        assert isinstance(self.path, Address)
        single = is_image(self.path.path) and self.path.path.endswith(f"/{from_text(name)}")
        address = self.path if single else self.path / from_text(name)
        return Item(name=name, path=address.url)


def _of_one(error: RemoteError) -> bool:
    from fashionbatch.remote.trouble import OF_ONE

    return isinstance(error, OF_ONE)


def find(predictions: Predictions, asked: Location | None) -> Catalogue | str:
    """The catalogue of a prediction file, or why there is none.

    Args:
        predictions: the file.
        asked: what the user says that it is; by default, where it lay when it was predicted.

    Raises:
        UsageError: nothing lies where the user says.
        ShardError: what lies at the address is no catalogue, or is damaged.
        RemoteError: a host cannot be reached, or refuses.
    """
    if asked is not None:
        if isinstance(asked, Path) and not asked.exists():
            raise UsageError(f"--catalog {asked} does not exist: name what was predicted")
        made = Catalogue(predictions, asked)
        if isinstance(asked, Address):
            _ = made._shards  # told once, and not of each image
        return made
    source = predictions.source
    if source is None:
        return "the file does not say where its images lie: name them with --catalog"
    if isinstance(source, Address):
        return f"{source}, where the images lay, is not asked unless --catalog names it"
    if not source.exists():
        return f"{source}, where the images lay, is not there: name them with --catalog"
    return Catalogue(predictions, source)
