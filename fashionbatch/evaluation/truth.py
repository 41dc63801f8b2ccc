"""What the items are: as the prediction file itself says, a data set, or a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fashionbatch.address import Address, Location
from fashionbatch.config import LabelledConfig
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.evaluation.datasets import rows_by_name, types_of
from fashionbatch.shards.manifest import MANIFEST, is_ours
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.sources import Failure
from fashionbatch.sources.table import TableSource, is_table
from fashionbatch.store.reader import Predictions


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known of the rows of a prediction file.

    Attributes:
        labels: int32 ``[N]``, positions in the file's classes; -1 unknown.
        slices: the values of the column that was asked for, in order.
        slice: int32 ``[N]``, position in ``slices``; -1 where the table does not say.
        foreign: labels that are no classes of the model, with how many items have them.
        class_types: from classes to their types, where a data set or table was named that has some.
    """

    labels: npt.NDArray[np.int32]
    slices: tuple[str, ...] = ()
    slice: npt.NDArray[np.int32] | None = None
    foreign: tuple[tuple[str, int], ...] = ()
    class_types: Mapping[str, str] = field(default_factory=dict)


def named(config: LabelledConfig) -> ShardSet | Location | None:
    """What the user names with ``--labels``: a packed data set, or else a table.

    Either may be an address, whose name says which it is.

    Raises:
        UsageError: it is a folder of something else, or an option of tables goes with a data set.
        ShardError: the data set is damaged.
    """
    path = config.labels
    if isinstance(path, Address):
        return path if is_table(path) else _data_set(path, config)
    if path is None or not path.is_dir():
        return path
    if not is_ours(path):
        raise UsageError(
            f"{path} is a folder without a {MANIFEST}: name a packed data set, or a table (.csv, "
            ".tsv or .parquet), with --labels"
        )
    return _data_set(path, config)


def _data_set(path: Location, config: LabelledConfig) -> ShardSet:
    for flag in config.of_tables():
        raise UsageError(f"{flag} is of a table, and {path} is a data set: leave it out")
    return open_shards(path, strict=False)


def of(
    predictions: Predictions, labels: ShardSet | Location | None, config: LabelledConfig
) -> Truth:
    """What is known of the classes of the rows.

    Args:
        predictions: the file.
        labels: what the user names, see :func:`named`; by default, the file itself.
        config: the columns of a table.

    Raises:
        UsageError: the data set or table does not fit the file.
    """
    if labels is None:
        return of_items(predictions)
    if isinstance(labels, ShardSet):
        return of_data_set(predictions, labels)
    return of_table(predictions, labels, **config.columns())


def of_items(predictions: Predictions) -> Truth:
    """As stored with the predictions: from the shards, or from the images' folders."""
    return Truth(labels=predictions.labels)


def of_data_set(predictions: Predictions, shards: ShardSet) -> Truth:
    """As a packed data set says, found by the images' names. It need not hold all of them.

    Raises:
        UsageError: it holds no item of the file.
    """
    rows = rows_by_name(predictions, shards.index.name)
    if not (rows >= 0).any():
        raise UsageError(
            f"{shards.path} names no item of {predictions.path} (such as {_first(predictions)!r}): "
            "name the data set of these images with --labels"
        )
    numbers = {name: number for number, name in enumerate(predictions.classes)}
    own = np.array([*(numbers.get(name, -1) for name in shards.classes), -1], np.int32)
    theirs = np.where(rows >= 0, shards.labels[rows], -1)
    labels = own[theirs]
    unknown = theirs[(labels < 0) & (theirs >= 0)]
    foreign = {shards.classes[i]: int(n) for i, n in enumerate(np.bincount(unknown)) if n}
    return Truth(
        # those of a data set without classes are the file's own, as with a table without labels
        labels=labels if shards.classes else predictions.labels,
        foreign=_ordered(foreign) if predictions.classes else (),
        class_types=types_of(shards.manifest),
    )


def of_table(
    predictions: Predictions,
    path: Location,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    type_column: str | None = None,
    by: str | None = None,
) -> Truth:
    """As a table says, found by the images' names. It need not name all of them.

    Args:
        predictions: the file.
        path: of a CSV, TSV or Parquet file, or its address; see
            :class:`fashionbatch.sources.table.TableSource`.
        image_column: with the names of items; guessed by default.
        label_column: with their classes; guessed by default. Without one, the labels are those of
            the file.
        type_column: with the types of the classes.
        by: a further column, whose values make slices.

    Raises:
        UsageError: the table names no item of the file, or names one twice with different labels.
        UnknownNameError: it has no such column.
    """
    labels: dict[str, str] = {}
    values: dict[str, str] = {}
    labelled = False
    source = TableSource(
        path, image_column=image_column, label_column=label_column, type_column=type_column
    )
    for item in source.items():
        if isinstance(item, Failure):
            continue
        if by is not None and by not in item.metadata:
            raise UnknownNameError(f"column of {path}", by, list(item.metadata))
        label = item.label or ""
        labelled = labelled or bool(label)
        if labels.setdefault(item.name, label) != label:
            raise UsageError(
                f"{path}: {item.name!r} is {labels[item.name]!r} and, in line {item.line}, "
                f"{label!r}: leave one of them out"
            )
        if by is not None:
            values[item.name] = str(item.metadata[by])
    numbers = {name: number for number, name in enumerate(predictions.classes)}
    slices = sorted(set(values.values()))
    positions = {value: number for number, value in enumerate(slices)}
    found = np.full(len(predictions), -1, np.int32)
    placed = np.full(len(predictions), -1, np.int32)
    foreign: dict[str, int] = {}
    named = 0
    for batch in predictions.batches():
        for row, name in enumerate(batch.names, batch.start):
            if name not in labels:
                continue
            named += 1
            label = labels[name]
            found[row] = numbers.get(label, -1)
            if label and label not in numbers and numbers:
                foreign[label] = foreign.get(label, 0) + 1
            placed[row] = positions.get(values.get(name, ""), -1)
    if not named:
        raise UsageError(
            f"{path} names no item of {predictions.path} (such as {_first(predictions)!r}): choose "
            "the column with these names with --image-column"
        )
    return Truth(
        labels=found if labelled else predictions.labels,
        slices=tuple(slices),
        slice=placed if by is not None else None,
        foreign=_ordered(foreign),
        class_types=dict(source.class_types),
    )


def _ordered(foreign: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(foreign.items(), key=lambda f: (-f[1], f[0])))


def _first(predictions: Predictions) -> str:
    names: Sequence[str] = predictions.text("items/name").read(0, 1) if len(predictions) else [""]
    return names[0]
