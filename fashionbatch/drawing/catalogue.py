"""Where the images of a prediction file lie, to draw them: the catalogue that was predicted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from fashionbatch.address import Address, Location
from fashionbatch.errors import FashionbatchError, UsageError
from fashionbatch.shards.read import ShardSet, is_shards, open_shards
from fashionbatch.sources import Item
from fashionbatch.sources.base import from_text, to_text
from fashionbatch.store.reader import Predictions
from fashionbatch.store.rows import Batch


class Catalogue:
    """The images of the rows of a prediction file.

    Args:
        predictions: the file.
        path: the folder of images or of shards, or the image, that was predicted; or the address
            of shards.
    """

    def __init__(self, predictions: Predictions, path: Location) -> None:
        self.predictions = predictions
        self.path = path

    def read(self, row: int) -> bytes | str:
        """The image's bytes, or why there are none: it is gone, or is another one now."""
        batch = Batch(self.predictions, row, row + 1)
        name = batch.names[0]
        try:
            data = self._packed(batch) if self._shards is not None else self._loose(name)
        except (FashionbatchError, OSError) as error:
            return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        known = batch.sha256[0] if batch.sha256 else ""
        if known and hashlib.sha256(data).hexdigest() != known:
            return "it has changed since it was predicted"
        return data

    def expect(self, rows: Iterable[int]) -> None:
        """Says which rows are going to be read next, in this order: see :meth:`ShardSet.expect`."""
        if self._shards is None:
            return
        places = []
        for row in rows:
            with suppress(FashionbatchError):  # told when it is read
                places.append(self._place(Batch(self.predictions, row, row + 1)))
        self._shards.expect(places)

    def close(self) -> None:
        """Closes the files that were opened."""
        if self._shards is not None:
            self._shards.close()

    @cached_property
    def _shards(self) -> ShardSet | None:
        if isinstance(self.path, Path) and not is_shards(self.path):
            return None
        return open_shards(self.path, strict=False)

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


def find(predictions: Predictions, asked: Location | None) -> Catalogue | str:
    """The catalogue of a prediction file, or why there is none.

    Args:
        predictions: the file.
        asked: what the user says that it is; by default, where it lay when it was predicted.

    Raises:
        UsageError: nothing lies where the user says.
    """
    if asked is not None:
        if isinstance(asked, Path) and not asked.exists():
            raise UsageError(f"--catalog {asked} does not exist: name what was predicted")
        return Catalogue(predictions, asked)
    source = predictions.source
    if source is None:
        return "the file does not say where its images lie: name them with --catalog"
    if isinstance(source, Address):
        return f"{source}, where the images lay, is not asked unless --catalog names it"
    if not source.exists():
        return f"{source}, where the images lay, is not there: name them with --catalog"
    return Catalogue(predictions, source)
