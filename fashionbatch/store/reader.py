"""Reads a prediction file back, lazily."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch.errors import StoreError, UnknownNameError, UsageError
from fashionbatch.sources import Attribute
from fashionbatch.store.merge import ATTRIBUTE_PROBABILITY, SCHEMA, VERSION


@dataclass(frozen=True, kw_only=True)
class Row:
    """One prediction.

    Attributes:
        name: the catalogue's name of the image.
        label: its class if it is known.
        classes: the predicted ones, best first; empty where the model learnt no category.
        probabilities: float32 ``[K]``, of the same.
        attributes: name and probability of every attribute, best first; empty where the model
            learnt none.
    """

    name: str
    label: str | None
    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    attributes: tuple[tuple[str, float], ...] = ()


class Predictions:
    """A prediction file; a context manager. Arrays are read when they are asked for.

    Example:
        >>> with fashionbatch.open_predictions("predictions/catalog.h5") as p:  # doctest: +SKIP
        ...     print(len(p), p[0].name, p[0].classes[0], p.features("pooled").shape)
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"{path} does not exist: make it with `fashionbatch predict`")
        try:
            self._file = h5py.File(path)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"{path} cannot be read as HDF5 ({reason})") from error
        schema = self._file.attrs.get("schema")
        version = self._file.attrs.get("schema_version")
        if schema != SCHEMA or version != VERSION:
            self._file.close()
            raise StoreError(
                f"{path} is not a prediction file that this fashionbatch reads "
                f"(schema {schema}, version {version}; wanted {SCHEMA}, {VERSION})"
            )
        self.path = path

    def __len__(self) -> int:
        return len(self._file["items/name"])

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
        self._file.close()

    def __getitem__(self, row: int) -> Row:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        label = int(self._file["items/label"][row])
        names = self.classes
        return Row(
            name=self._file["items/name"].asstr()[row],
            label=names[label] if label >= 0 else None,
            classes=tuple(names[i] for i in self._file["predictions/topk_index"][row]),
            probabilities=self._file["predictions/topk_probability"][row],
            attributes=self._ranked(row) if self.attributes else (),
        )

    def _ranked(self, row: int) -> tuple[tuple[str, float], ...]:
        values = self.attribute_probability[row]
        # ties go to the lower number, as with classes
        best = np.argsort(-values, kind="stable").tolist()
        return tuple((self.attributes[i].name, float(values[i])) for i in best)

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's vocabulary."""
        return tuple(self._file["classes/name"].asstr()[()])

    @cached_property
    def attributes(self) -> tuple[Attribute, ...]:
        """Names and types of the model's attributes; empty where it learnt none."""
        if "attributes" not in self._file:
            return ()
        columns = (self._file[f"attributes/{c}"].asstr()[()].tolist() for c in ("name", "type"))
        return tuple(Attribute(name=n, type=t or None) for n, t in zip(*columns, strict=True))

    @property
    def names(self) -> list[str]:
        """Of all rows."""
        return list(self._file["items/name"].asstr()[()])

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """int32 ``[N]``, -1 unknown."""
        labels: npt.NDArray[np.int32] = self._file["items/label"][()]
        return labels

    @property
    def topk_index(self) -> h5py.Dataset:
        """int32 ``[N, K]``; slice it to read."""
        return self._file["predictions/topk_index"]

    @property
    def topk_probability(self) -> h5py.Dataset:
        """float32 ``[N, K]``; slice it to read."""
        return self._file["predictions/topk_probability"]

    @property
    def attribute_probability(self) -> h5py.Dataset:
        """float16 ``[N, A]``, of each attribute on its own; slice it to read.

        Raises:
            UsageError: the model learnt no attributes.
        """
        if not self.attributes:
            raise UsageError(
                f"{self.path} holds no attributes: predict with a model trained with --task "
                "attributes"
            )
        return self._file[ATTRIBUTE_PROBABILITY]

    def features(self, layer: str = "pooled") -> h5py.Dataset:
        """``[N, D]`` or ``[N, D, H, W]``; slice it to read.

        Raises:
            UnknownNameError: that layer's features were not stored.
        """
        stored = self._file.get("features", {})
        if layer not in stored:
            raise UnknownNameError(f"features of {self.path}", layer, list(stored))
        return stored[layer]

    @property
    def failures(self) -> list[dict[str, str]]:
        """``name``, ``stage`` and ``reason`` of every item without a row."""
        columns = {c: self._file[f"failures/{c}"].asstr()[()] for c in ("name", "stage", "reason")}
        return [{c: str(columns[c][i]) for c in columns} for i in range(len(columns["name"]))]

    @property
    def shards(self) -> list[tuple[str, str, int]]:
        """``(name, sha256, count)`` of every input shard."""
        names, hashes = (self._file[f"shards/{c}"].asstr()[()] for c in ("name", "sha256"))
        counts = self._file["shards/count"][()].tolist()
        return [(str(n), str(h), c) for n, h, c in zip(names, hashes, counts, strict=True)]

    @property
    def model(self) -> dict[str, Any]:
        """The card of the model that predicted."""
        card: dict[str, Any] = json.loads(self._file.attrs["model_card"])
        return card

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the file depends on: input, model, configuration, engine."""
        values: dict[str, Any] = json.loads(self._file.attrs["fingerprint"])
        return values


def open_predictions(path: str | Path) -> Predictions:
    """Opens a prediction file for reading.

    Raises:
        UsageError: there is no such file.
        StoreError: it is not a prediction file.
    """
    return Predictions(Path(path))
