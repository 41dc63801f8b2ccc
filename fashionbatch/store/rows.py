"""What is read of a prediction file: a row, a block of rows, the failures."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict, overload

import numpy as np
import numpy.typing as npt

from fashionbatch.store.column import Column

if TYPE_CHECKING:
    from fashionbatch.store.reader import Predictions
#: rows that iteration reads at a time
BATCH = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One prediction.

    Attributes:
        row: its number in the file.
        name: the catalogue's name of the image.
        label: its class if it is known.
        classes: the predicted ones, best first; empty where the model learnt no category.
        probabilities: float32 ``[K]``, of the same.
        attribute_probability: float16 ``[A]``, of each attribute on its own; empty where the model
            learnt none.
        attribute_names: of the same.
    """

    row: int
    name: str
    label: str | None
    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    attribute_probability: npt.NDArray[np.float16]
    attribute_names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def attributes(self) -> tuple[tuple[str, float], ...]:
        """Name and probability of every attribute, best first."""
        values = self.attribute_probability
        # ties go to the lower number, as with classes
        best = np.argsort(-values, kind="stable").tolist()
        return tuple((self.attribute_names[i], float(values[i])) for i in best)


class FailedItem(TypedDict):
    """An item without a row: where it was to be read from, and why it could not be predicted.

    ``sha256`` is the hash of its bytes in hexadecimal, empty where they could not be had.
    """

    name: str
    shard: str
    key: str
    stage: str
    reason: str
    sha256: str


class Failures(Sequence[FailedItem]):
    """The items without a row, read some thousands at a time."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions

    def __len__(self) -> int:
        return len(self._predictions.text("failures/name"))

    @overload
    def __getitem__(self, place: int) -> FailedItem: ...
    @overload
    def __getitem__(self, place: slice) -> list[FailedItem]: ...
    def __getitem__(self, place: int | slice) -> FailedItem | list[FailedItem]:
        if isinstance(place, slice):
            return [self._read(i, i + 1)[0] for i in range(*place.indices(len(self)))]
        number = checked(place, len(self), "failure")
        return self._read(number, number + 1)[0]

    def __iter__(self) -> Iterator[FailedItem]:
        for start in range(0, len(self), BATCH):
            yield from self._read(start, start + BATCH)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def _read(self, start: int, stop: int) -> list[FailedItem]:
        made = self._predictions
        texts = [made.text(f"failures/{c}").read(start, stop) for c in _FAILURE_TEXTS]
        shards = made.shard_names
        column = made.column("failures/shard")[start:stop]
        made.positions(column, "failures/shard", len(shards))
        hashes = [""] * len(column)
        if "failures/sha256" in made.columns("failures"):
            hashes = _hexadecimal(made.column("failures/sha256")[start:stop])
        return [
            FailedItem(
                name=name,
                shard=shards[number],
                key=key,
                stage=stage,
                reason=reason,
                sha256=sha256,
            )
            for name, key, stage, reason, number, sha256 in zip(
                *texts, column.tolist(), hashes, strict=True
            )
        ]


_FAILURE_TEXTS = ("name", "key", "stage", "reason")


class Batch:
    """Some rows of a file; each column is read when it is first asked for.

    Args:
        predictions: the file.
        start: the first row.
        stop: the row behind the last one.
    """

    def __init__(self, predictions: Predictions, start: int, stop: int) -> None:
        self._predictions = predictions
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Row]:
        made = self._predictions
        vocabulary = made.classes
        names = tuple(attribute.name for attribute in made.attributes)
        attributes = self.attribute_probability if names else np.empty((len(self), 0), np.float16)
        columns = zip(
            self.names,
            self.labels.tolist(),
            self.topk_index.tolist(),
            self.topk_probability,
            attributes,
            strict=True,
        )
        for place, (name, label, best, probabilities, values) in enumerate(columns, self.start):
            yield Row(
                row=place,
                name=name,
                label=vocabulary[label] if label >= 0 else None,
                classes=tuple([vocabulary[i] for i in best]),
                probabilities=probabilities,
                attribute_probability=values,
                attribute_names=names,
            )

    @cached_property
    def names(self) -> list[str]:
        """What the catalogue calls the images."""
        return self._predictions.text("items/name").read(self.start, self.stop)

    @cached_property
    def keys(self) -> list[str]:
        """In their shards."""
        return self._predictions.text("items/key").read(self.start, self.stop)

    @cached_property
    def sha256(self) -> list[str]:
        """Of the images' bytes, in hexadecimal; empty where :attr:`Predictions.hashed` is false."""
        made = self._predictions
        return _hexadecimal(self._read(made.column("items/sha256"))) if made.hashed else []

    @cached_property
    def shards(self) -> npt.NDArray[np.uint32]:
        """uint32 ``[n]``, positions in :attr:`Predictions.shards`."""
        made = self._predictions
        values = self._read(made.column("items/shard"))
        made.positions(values, "items/shard", len(made.shard_names))
        return values

    @cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """int32 ``[n]``, positions in :attr:`Predictions.classes`, -1 unknown."""
        made = self._predictions
        values = self._read(made.column("items/label"))
        made.positions(values, "items/label", len(made.classes), low=-1)
        return values

    @cached_property
    def topk_index(self) -> npt.NDArray[np.int32]:
        """int32 ``[n, K]``, best first."""
        made = self._predictions
        values = self._read(made.topk_index)
        made.positions(values, "predictions/topk_index", len(made.classes))
        return values

    @cached_property
    def topk_probability(self) -> npt.NDArray[np.float32]:
        """float32 ``[n, K]``."""
        return self._read(self._predictions.topk_probability)

    @cached_property
    def probability(self) -> npt.NDArray[np.float32]:
        """float32 ``[n, C]``; see :attr:`Predictions.probability`."""
        return self._read(self._predictions.probability)

    @cached_property
    def attribute_probability(self) -> npt.NDArray[np.float16]:
        """float16 ``[n, A]``; see :attr:`Predictions.attribute_probability`."""
        return self._read(self._predictions.attribute_probability)

    def features(self, layer: str | None = None) -> npt.NDArray[Any]:
        """``[n, D]`` or ``[n, D, H, W]``; see :meth:`Predictions.features`."""
        return self._read(self._predictions.features(layer))

    def _read(self, column: Column) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = column[self.start : self.stop]
        return values


def _hexadecimal(hashes: npt.NDArray[np.uint8]) -> list[str]:
    return [row.tobytes().hex() if row.any() else "" for row in hashes]


def checked(place: int, length: int, what: str) -> int:
    """The row that an index means, which may count from the end.

    Raises:
        IndexError: there is none.
    """
    number = operator.index(place)
    if not -length <= number < length:
        raise IndexError(f"{what} {number} of {length}")
    return number % length
