"""Which attributes the items of a prediction file have: as a data set or a table says."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.address import Location
from fashionbatch.errors import ShardError, UsageError
from fashionbatch.evaluation.datasets import DataSets, rows_by_name
from fashionbatch.shards.ragged import Ragged
from fashionbatch.shards.read import ShardSet
from fashionbatch.sources import Attribute, Failure
from fashionbatch.sources.table import TableSource
from fashionbatch.store.reader import Predictions

_HAS, _HAS_NOT = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
#: in a table; neither has an attribute nor has it not
_NOT_SAID = ("", "none", "nan")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class AttributeTruth:
    """What is known of the attributes of a prediction file's rows.

    Attributes:
        where: what says so.
        rows: int64 ``[N]``, of each row of the file its place in the next two; -1 unknown.
        positive: the attributes that an item has.
        unknown: those of which it is not known; all others it does not have.
        places: int64, from the numbers in these to positions in the model's attributes; -1 where
            the model has no such attribute.
        stated: bool ``[A]``, whether anything is said of an attribute of the model.
        foreign: how many attributes the model does not know.
    """

    where: Location
    rows: npt.NDArray[np.int64]
    positive: Ragged
    unknown: Ragged
    places: npt.NDArray[np.int64]
    stated: Mask
    foreign: int = 0

    def block(self, start: int, stop: int) -> tuple[Mask, Mask]:
        """Of some rows, bool ``[n, A]`` each: the attributes that they have, and the known ones."""
        rows = self.rows[start:stop]
        there = np.flatnonzero(rows >= 0)
        has = np.zeros((len(rows), len(self.stated)), np.bool_)
        known = np.zeros_like(has)
        known[there] = self.stated
        for column, target, value in ((self.positive, has, True), (self.unknown, known, False)):
            items, numbers = column.cells(rows[there])
            places = self.places[numbers]
            mine = places >= 0
            target[there[items[mine]], places[mine]] = value
        return has & known, known


def find(
    predictions: Predictions,
    data_sets: DataSets,
    labels: ShardSet | Location | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
) -> AttributeTruth | str:
    """What is known of the attributes, or why nothing is, in one line.

    What the user names goes first, then the data set that was predicted.

    Args:
        predictions: the file, of a model that learnt attributes.
        data_sets: that may be those of the file.
        labels: a data set or a table that the user names.
        image_column: of the table, with the names of items; guessed by default.
        label_column: of the table, with their classes; guessed by default.

    Raises:
        UsageError: the table is wrong.
        ShardError: the data set that the user names is damaged.
    """
    found: AttributeTruth | None = None
    if isinstance(labels, ShardSet):
        found = of_data_set(predictions, labels)
    elif labels is not None:
        found = of_table(predictions, labels, image_column=image_column, label_column=label_column)
    if found is None:
        shards = data_sets.predicted
        if isinstance(shards, str):
            return shards
        try:
            found = of_data_set(predictions, shards)
        except ShardError as error:
            return str(error)
        if found is None:
            return f"{shards.path} has none of the model's attributes"
    if not (found.rows >= 0).any():
        return f"{found.where} names no item of {predictions.path}"
    return found


def of_data_set(predictions: Predictions, shards: ShardSet) -> AttributeTruth | None:
    """As a data set says, found by the images' names; ``None`` where it knows none of the model's.

    Attributes are the same by name and type, whatever their order.

    Raises:
        ShardError: its index is damaged.
    """
    theirs = shards.manifest.attributes
    for column in (shards.index.positive, shards.index.unknown):
        if len(column.values) and int(column.values.max()) >= len(theirs):
            raise ShardError(
                f"the index of {shards.path} names attribute {column.values.max()} of "
                f"{len(theirs)}: pack the catalogue again"
            )
    places = _places(theirs, predictions.attributes)
    if not (places >= 0).any():
        return None
    return AttributeTruth(
        where=shards.path,
        rows=rows_by_name(predictions, shards.index.name),
        positive=shards.index.positive,
        unknown=shards.index.unknown,
        places=places,
        stated=_stated(places, len(predictions.attributes)),
        foreign=int((places < 0).sum()),
    )


def of_table(
    predictions: Predictions,
    path: Location,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
) -> AttributeTruth | None:
    """As a table says; ``None`` where no column is called as one of the model's attributes.

    A field is 1, true or yes where an item has the attribute, 0, false or no where it does not, and
    empty where that is not known.

    Raises:
        UsageError: a field is none of these, or an item is named twice with different ones.
    """
    numbers: dict[str, list[int]] = {}
    for number, attribute in enumerate(predictions.attributes):
        numbers.setdefault(attribute.name, []).append(number)
    places: dict[str, int] = {}
    positive, unknown = _Rows(), _Rows()
    source = TableSource(path, image_column=image_column, label_column=label_column)
    for item in source.items():
        if isinstance(item, Failure):
            continue
        columns = [name for name in item.metadata if name in numbers]
        if not columns:
            return None
        row: tuple[list[int], list[int]] = [], []
        for name in columns:
            field = str(item.metadata[name]).strip().lower()
            if field not in (*_HAS, *_HAS_NOT, *_NOT_SAID):
                raise UsageError(
                    f"{path}, line {item.line}: {name!r} is {field!r}: write 1 where an item has "
                    "an attribute, 0 where not, and nothing where it is not known"
                )
            for number, chosen in enumerate((_HAS, _NOT_SAID)):
                if field in chosen:
                    row[number].extend(numbers[name])
        place = places.setdefault(item.name, len(positive))
        if place == len(positive):
            positive.add(row[0])
            unknown.add(row[1])
        elif (positive[place], unknown[place]) != row:
            raise UsageError(
                f"{path}: {item.name!r} has other attributes in line {item.line} than before: "
                "leave one of them out"
            )
    if not places:
        return None
    found = np.full(len(predictions), -1, np.int64)
    for batch in predictions.batches():
        found[batch.start : batch.stop] = [places.get(name, -1) for name in batch.names]
    own = np.arange(len(predictions.attributes), dtype=np.int64)
    stated = np.zeros(len(own), np.bool_)
    stated[[number for name in columns for number in numbers[name]]] = True
    return AttributeTruth(
        where=path,
        rows=found,
        positive=positive.ragged(),
        unknown=unknown.ragged(),
        places=own,
        stated=stated,
    )


class _Rows:
    """Rows of numbers that grow, four bytes a number."""

    def __init__(self) -> None:
        self.values, self.ends = array("I"), array("Q")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> list[int]:
        start = self.ends[row - 1] if row else 0
        return self.values[start : self.ends[row]].tolist()

    def add(self, numbers: Sequence[int]) -> None:
        """One more row."""
        self.values.extend(numbers)
        self.ends.append(len(self.values))

    def ragged(self) -> Ragged:
        """All of them."""
        values: npt.NDArray[Any] = np.array(self.values, np.uint32)
        return Ragged(values, np.array(self.ends, np.uint64))


def _places(theirs: Sequence[Attribute], own: Sequence[Attribute]) -> npt.NDArray[np.int64]:
    numbers = {attribute: number for number, attribute in enumerate(own)}
    return np.array([numbers.get(attribute, -1) for attribute in theirs], np.int64)


def _stated(places: npt.NDArray[np.int64], width: int) -> Mask:
    stated = np.zeros(width, np.bool_)
    stated[places[places >= 0]] = True
    return stated
