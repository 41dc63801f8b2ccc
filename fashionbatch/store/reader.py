"""Reads a prediction file back, lazily."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch.errors import StoreError, UnknownNameError, UsageError
from fashionbatch.store.merge import SCHEMA, VERSION


@dataclass(frozen=True, kw_only=True)
class Row:
    """One prediction.

    Attributes:
        name: the catalogue's name of the image.
        label: its class if it is known.
        classes: the predicted ones, best first.
        probabilities: float32 ``[K]``, of the same.
    """

    name: str
    label: str | None
    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]


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
        )

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's vocabulary."""
        return tuple(self._file["classes/name"].asstr()[()])

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
