"""Reads a prediction file back, lazily: by row, by name, or in blocks of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from fashionbatch.address import Location, located
from fashionbatch.errors import StoreError, UnknownNameError, UsageError
from fashionbatch.sources import Attribute
from fashionbatch.store.arrays import Array
from fashionbatch.store.column import Column, TextColumn, reading
from fashionbatch.store.copy import here
from fashionbatch.store.merge import ATTRIBUTE_DTYPE, ATTRIBUTE_PROBABILITY, SCHEMA, VERSION
from fashionbatch.store.names import NameIndex, listed, near
from fashionbatch.store.rows import BATCH, Batch, Failures, Row, checked
from fashionbatch.store.storage import open_storage

_DTYPES: dict[str, npt.DTypeLike] = {
    "items/shard": np.uint32,
    "items/label": np.int32,
    "predictions/topk_index": np.int32,
    "predictions/topk_probability": np.float32,
    "predictions/probability": np.float32,
    ATTRIBUTE_PROBABILITY: ATTRIBUTE_DTYPE,
    "failures/shard": np.uint32,
    "shards/count": np.int64,
}


class Predictions:
    """A prediction file, or a folder of parts; a context manager. Arrays are read when asked for.

    Iterating takes memory for some thousands of rows, however long the file is.

    Example:
        >>> with fashionbatch.open_predictions("predictions/catalog.h5") as p:  # doctest: +SKIP
        ...     print(len(p), p[0].classes[0], p["dress/1.jpg"].probabilities[0])
        ...     for batch in p.batches(10_000):
        ...         print(batch.start, batch.names[0], batch.features().mean())
    """

    def __init__(self, path: Path) -> None:
        self._storage = open_storage(path)
        self.path = path
        try:
            self._check()
        except BaseException:
            self._storage.close()
            raise

    def _check(self) -> None:
        with reading(self.path, "what it says of itself"):
            schema = self._storage.attrs.get("schema")
            version = self._storage.attrs.get("schema_version")
        if schema != SCHEMA or version != VERSION:
            raise StoreError(
                f"{self.path} is not a prediction file that this fashionbatch reads "
                f"(schema {schema}, version {version}; wanted {SCHEMA}, {VERSION})"
            )
        for main, groups in (
            ("items/name", ("items", "predictions", "features")),
            ("failures/name", ("failures",)),
            ("shards/name", ("shards",)),
        ):
            rows = len(self.text(main))
            for name in (f"{g}/{c}" for g in groups for c in self._listed(g)):
                column = self.column(name)
                if len(column) != rows:
                    raise self._damage(f"{name} is not as long as {main}")
                if column.dtype != _DTYPES.get(name, column.dtype):
                    raise self._damage(f"{name} is of type {column.dtype}")

    def _damage(self, what: str) -> StoreError:
        return StoreError(f"{self.path} is damaged: {what}; copy the file again, or predict again")

    def positions(self, values: npt.NDArray[Any], name: str, among: int, low: int = 0) -> None:
        """Refuses numbers that are no positions in a list of the file.

        Raises:
            StoreError: one is below ``low``, or not below ``among``.
        """
        if values.size and not (values.min() >= low and values.max() < among):
            raise self._damage(f"{name} has numbers that are not from {low} to {among - 1}")

    def _listed(self, group: str) -> list[str]:
        with reading(self.path, group):
            return self._storage.listed(group)

    def column(self, name: str) -> Column:
        """A numeric dataset by its name in the file, such as ``"items/label"``.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        return Column(self.path, self._array(name))

    def text(self, name: str) -> TextColumn:
        """A dataset of texts by its name in the file, such as ``"items/key"``.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        return TextColumn(self.path, self._array(name))

    def _array(self, name: str) -> Array:
        with reading(self.path, name):
            return self._storage.array(name)

    def columns(self, group: str) -> list[str]:
        """Names of the datasets of ``items``, ``predictions``, ``features`` or ``failures``."""
        return [f"{group}/{name}" for name in self._listed(group)]

    def __len__(self) -> int:
        return len(self.text("items/name"))

    def __enter__(self) -> Predictions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._storage.close()

    @overload
    def __getitem__(self, key: int | str) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    def __getitem__(self, key: int | str | slice) -> Row | list[Row]:
        """The prediction of a row, or of an image by its name; of a slice, a list.

        Raises:
            IndexError: there is no such row.
            UnknownNameError: there is no such name.
            UsageError: several rows have that name.
            StoreError: the file is damaged there.
        """
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        row = self.row(key) if isinstance(key, str) else checked(key, len(self), "row")
        return next(iter(Batch(self, row, row + 1)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._by_name.rows(name))

    def __iter__(self) -> Iterator[Row]:
        for batch in self.batches(BATCH):
            yield from batch

    def batches(self, rows: int = BATCH) -> Iterator[Batch]:
        """The file in blocks of ``rows`` rows, in order; the last one may be smaller."""
        for start in range(0, len(self), rows):
            yield Batch(self, start, min(start + rows, len(self)))

    def rows(self, name: str) -> list[int]:
        """All rows of that name, ascending; the first call reads every name once."""
        return self._by_name.rows(name)

    def row(self, name: str) -> int:
        """The row of that name.

        Raises:
            UnknownNameError: there is none; an item that failed has no row either.
            UsageError: there are several.
        """
        rows = self.rows(name)
        if not rows:
            alike = near(name, self.text("items/name"))
            raise UnknownNameError(f"row of {self.path}", name, alike, of=len(self))
        if len(rows) > 1:
            raise UsageError(
                f"{self.path} has {len(rows)} rows called {name!r}: read them by number "
                f"({listed(rows)})"
            )
        return rows[0]

    @cached_property
    def _by_name(self) -> NameIndex:
        return NameIndex(self.text("items/name"))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The model's vocabulary."""
        return self._texts("classes/name")

    @cached_property
    def attributes(self) -> tuple[Attribute, ...]:
        """Names and types of the model's attributes; empty where it learnt none."""
        if not self._listed("attributes"):
            return ()
        columns = (self._texts(f"attributes/{c}") for c in ("name", "type"))
        return tuple(Attribute(name=n, type=t or None) for n, t in zip(*columns, strict=True))

    @property
    def names(self) -> list[str]:
        """Of all rows; :meth:`batches` gives them in pieces."""
        return list(self._texts("items/name"))

    @property
    def hashed(self) -> bool:
        """Whether the file knows the SHA-256 of each image."""
        return "items/sha256" in self.columns("items")

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """int32 ``[N]``, -1 unknown."""
        column = self.column("items/label")
        labels = np.empty(len(column), np.int32)
        for start in range(0, len(column), BATCH):
            labels[start : start + BATCH] = column[start : start + BATCH]
        return labels

    @property
    def topk_index(self) -> Column:
        """int32 ``[N, K]``, best first; slice it to read."""
        return self.column("predictions/topk_index")

    @property
    def topk_probability(self) -> Column:
        """float32 ``[N, K]``; slice it to read."""
        return self.column("predictions/topk_probability")

    @property
    def probability(self) -> Column:
        """float32 ``[N, C]``, of every class; slice it to read.

        Raises:
            UsageError: they were not stored.
        """
        if "predictions/probability" not in self.columns("predictions"):
            raise UsageError(
                f"{self.path} holds the best classes only: predict with --probabilities"
            )
        return self.column("predictions/probability")

    @property
    def attribute_probability(self) -> Column:
        """float16 ``[N, A]``, of each attribute on its own; slice it to read.

        Raises:
            UsageError: the model learnt no attributes.
        """
        if not self.attributes:
            raise UsageError(
                f"{self.path} holds no attributes: predict with a model trained with --task "
                "attributes"
            )
        return self.column(ATTRIBUTE_PROBABILITY)

    @property
    def layers(self) -> list[str]:
        """Whose features are stored."""
        return self._listed("features")

    def features(self, layer: str | None = None) -> Column:
        """``[N, D]`` or ``[N, D, H, W]``; slice it to read.

        Args:
            layer: one of :attr:`layers`; may be left out where there is only one.

        Raises:
            UsageError: none are stored, or it is not said which of several.
            UnknownNameError: that layer's features were not stored.
        """
        stored = self.layers
        if not stored:
            raise UsageError(f"{self.path} holds no features: predict without --features none")
        if layer is None and len(stored) > 1:
            raise UsageError(
                f"{self.path} holds features of several layers: choose one of {', '.join(stored)}"
            )
        layer = stored[0] if layer is None else layer
        if layer not in stored:
            raise UnknownNameError(f"features of {self.path}", layer, stored)
        return self.column(f"features/{layer}")

    @property
    def failures(self) -> Failures:
        """Every item without a row; a sequence that is read as it is asked for."""
        return Failures(self)

    @property
    def shards(self) -> list[tuple[str, str, int]]:
        """``(name, sha256, count)`` of every input shard."""
        names, hashes = self.shard_names, self._texts("shards/sha256")
        counts = self.column("shards/count")[()].tolist()
        return list(zip(names, hashes, counts, strict=True))

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """Of every input shard; :attr:`Batch.shards` are positions in it."""
        return self._texts("shards/name")

    @cached_property
    def model(self) -> dict[str, Any]:
        """The card of the model that predicted."""
        return self._json("model_card")

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What the file depends on: input, model, configuration, engine."""
        return self._json("fingerprint")

    @property
    def source(self) -> Location | None:
        """Where the catalogue lay when it was predicted, if the file says so.

        An address is for people: a file that others made must not decide which hosts are asked.
        """
        with reading(self.path, "the attribute source"):
            found = self._storage.attrs.get("source")
        return None if found is None else _lay(str(found))

    def about(self) -> dict[str, str]:
        """The texts that the file says of itself: card, fingerprint, configuration, as JSON."""
        with reading(self.path, "what it says of itself"):
            return {k: str(v) for k, v in self._storage.attrs.items() if isinstance(v, str)}

    def _texts(self, name: str) -> tuple[str, ...]:
        column = self.text(name)
        return tuple(column.read(0, len(column)))

    def _json(self, name: str) -> dict[str, Any]:
        with reading(self.path, f"the attribute {name}"):
            text = self._storage.attrs[name]
        try:
            values: dict[str, Any] = json.loads(text)
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"{self.path} is damaged: the attribute {name} is no JSON; copy the file again, "
                "or predict again"
            ) from error
        return values


def _lay(text: str) -> Location:
    try:
        return located(text)
    except UsageError:
        return Path(text)


def open_predictions(path: str | Location) -> Predictions:
    """Opens a prediction file for reading, or a folder of parts that ``--no-merge`` left.

    What lies at an address is copied to the cache of this disk first.

    Raises:
        UsageError: there is no such file.
        StoreError: it is not a prediction file, or is damaged.
        RemoteError: a host cannot be reached, or refuses.
    """
    return Predictions(here(path))
