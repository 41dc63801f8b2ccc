"""What the items are: from the prediction file itself, or from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.sources import Failure
from fashionbatch.sources.table import TableSource
from fashionbatch.store.reader import Predictions


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known of the rows of a prediction file.

    Attributes:
        labels: int32 ``[N]``, positions in the file's classes; -1 unknown.
        slices: the values of the column that was asked for, in order.
        slice: int32 ``[N]``, position in ``slices``; -1 where the table does not say.
        foreign: labels that are no classes of the model, with how many items have them.
    """

    labels: npt.NDArray[np.int32]
    slices: tuple[str, ...] = ()
    slice: npt.NDArray[np.int32] | None = None
    foreign: tuple[tuple[str, int], ...] = ()


def of_items(predictions: Predictions) -> Truth:
    """As stored with the predictions: from the shards, or from the images' folders."""
    return Truth(labels=predictions.labels)


def of_table(
    predictions: Predictions,
    path: Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    by: str | None = None,
) -> Truth:
    """As a table says, found by the images' names. It need not name all of them.

    Args:
        predictions: the file.
        path: of a CSV, TSV or Parquet file; see :class:`fashionbatch.sources.table.TableSource`.
        image_column: with the names of items; guessed by default.
        label_column: with their classes; guessed by default. Without one, the labels are those of
            the file.
        by: a further column, whose values make slices.

    Raises:
        UsageError: the table names no item of the file, or names one twice with different labels.
        UnknownNameError: it has no such column.
    """
    labels: dict[str, str] = {}
    values: dict[str, str] = {}
    labelled = False
    source = TableSource(path, image_column=image_column, label_column=label_column)
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
            if label and label not in numbers:
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
        foreign=tuple(sorted(foreign.items(), key=lambda f: (-f[1], f[0]))),
    )


def _first(predictions: Predictions) -> str:
    names: Sequence[str] = predictions.text("items/name").read(0, 1) if len(predictions) else [""]
    return names[0]
