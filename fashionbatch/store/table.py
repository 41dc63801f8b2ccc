"""A prediction file as a table: one row per item, what failed included, block by block."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fashionbatch.config import ExportConfig
from fashionbatch.store.reader import Predictions
from fashionbatch.store.rows import Batch

PREDICTED, FAILED = "predicted", "failed"
#: probability from which an attribute is told of, unless it is said how many are
THRESHOLD = 0.5
#: bytes of a block
_BLOCK = 16 << 20
_MOST_ROWS = 16_384

Kind = Literal["text", "number", "attributes", "vector"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """Texts of which many are the same: positions in a vocabulary, -1 for none."""

    vocabulary: Sequence[str]
    positions: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, kw_only=True)
class Tags:
    """Attributes of some rows, best first.

    Attributes:
        vocabulary: their names.
        counts: int64 ``[n]``, how many each row has.
        positions: int64 ``[counts.sum()]``, of all rows, one behind the other.
        probabilities: float32, of the same.
    """

    vocabulary: Sequence[str]
    counts: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.counts)


#: what a column holds in a block: texts, words, tags, float32 ``[n]`` or ``[n, D]``, or nothing
Values = list[str] | Words | Tags | npt.NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column of the table.

    Attributes:
        name: in the header.
        kind: of what it holds; all but vectors and attributes may be missing in a row.
        read: its values for a batch of predicted rows.
        failed: its values for items that failed: a name in :class:`reader.FailedItem`, or nothing.
        size: of a vector.
    """

    name: str
    kind: Kind
    read: Callable[[Batch], Values]
    failed: str | None = None
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows of the table, a column after the other; ``None`` where all are missing."""

    rows: int
    values: list[Values]


class Table:
    """The columns that an export holds, and their rows.

    Args:
        predictions: the file.
        config: which columns.
        advance: is told how many more rows were taken.

    Raises:
        UsageError: the file does not hold what is asked for.
    """

    def __init__(
        self,
        predictions: Predictions,
        config: ExportConfig,
        advance: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.advance = advance
        self.predictions = predictions
        self.config = config
        self.fields = list(self._fields())

    def __len__(self) -> int:
        failures = len(self.predictions.failures) if self.config.failures else 0
        return len(self.predictions) + failures

    def blocks(self) -> Iterator[Block]:
        """Predicted rows in the order of the file, then the items that failed."""
        for batch in self.predictions.batches(self._rows_of_a_block()):
            yield Block(rows=len(batch), values=[field.read(batch) for field in self.fields])
            self.advance(len(batch))
        if not self.config.failures:
            return
        for some in _batched(self.predictions.failures, _MOST_ROWS):
            told: dict[str, list[str]] = {"status": [FAILED] * len(some)}
            told |= {name: [item[name] for item in some] for name in _TOLD}
            values: list[Values] = [
                told[field.failed] if field.failed is not None else None for field in self.fields
            ]
            yield Block(rows=len(some), values=values)
            self.advance(len(some))

    def _rows_of_a_block(self) -> int:
        width = 8 * sum(max(1, field.size) for field in self.fields)
        if self.predictions.attributes:
            width += 8 * len(self.predictions.attributes)
        return max(1, min(_MOST_ROWS, _BLOCK // width))

    def _fields(self) -> Iterator[Field]:
        made, config = self.predictions, self.config
        classes = made.classes
        yield Field(name="name", kind="text", read=lambda b: b.names, failed="name")
        yield Field(
            name="status", kind="text", read=lambda b: [PREDICTED] * len(b), failed="status"
        )
        yield Field(
            name="label",
            kind="text",
            read=lambda b: Words(vocabulary=classes, positions=b.labels),
        )
        stored = made.topk_index.shape[1]
        for place in range(stored if config.topk is None else min(config.topk, stored)):
            yield from _ranked(place, classes)
        if made.attributes or (config.attribute_threshold, config.top_attributes) != (None, None):
            _ = made.attribute_probability  # says so if there are none
            yield Field(name="attributes", kind="attributes", read=_Tagged(made, config))
        if config.probabilities:
            _ = made.probability  # says so if they are not stored
            for number, name in enumerate(classes):
                yield Field(
                    name=f"probability[{name}]", kind="number", read=_probability_of(number)
                )
        yield Field(
            name="shard",
            kind="text",
            read=lambda b: Words(vocabulary=made.shard_names, positions=b.shards),
            failed="shard",
        )
        yield Field(name="key", kind="text", read=lambda b: b.keys, failed="key")
        if made.hashed:
            yield Field(name="sha256", kind="text", read=lambda b: b.sha256, failed="sha256")
        if config.failures:
            for name in ("stage", "reason"):
                yield Field(name=name, kind="text", read=lambda b: None, failed=name)
        if config.features:
            if not made.layers:
                made.features()  # says so
            for layer in made.layers:
                size = int(np.prod(made.features(layer).shape[1:], dtype=np.int64))
                yield Field(
                    name=f"features_{layer}", kind="vector", read=_features_of(layer), size=size
                )


_TOLD: tuple[Literal["name", "shard", "key", "stage", "reason", "sha256"], ...] = (
    "name",
    "shard",
    "key",
    "stage",
    "reason",
    "sha256",
)


def _ranked(place: int, classes: Sequence[str]) -> Iterator[Field]:
    yield Field(
        name=f"class_{place + 1}",
        kind="text",
        read=lambda b: Words(vocabulary=classes, positions=b.topk_index[:, place]),
    )
    yield Field(
        name=f"probability_{place + 1}", kind="number", read=lambda b: b.topk_probability[:, place]
    )


def _probability_of(number: int) -> Callable[[Batch], Values]:
    return lambda b: b.probability[:, number]


def _features_of(layer: str) -> Callable[[Batch], Values]:
    # float32, which every reader of Parquet knows, also where float16 is stored
    return lambda b: b.features(layer).reshape(len(b), -1).astype(np.float32)


class _Tagged:
    """The attributes of a batch that are above the threshold, or among the best."""

    def __init__(self, predictions: Predictions, config: ExportConfig) -> None:
        self.names = tuple(attribute.name for attribute in predictions.attributes)
        self.most = min(config.top_attributes or len(self.names), len(self.names))
        self.least = config.attribute_threshold
        if self.least is None:
            self.least = 0.0 if config.top_attributes else THRESHOLD

    def __call__(self, batch: Batch) -> Tags:
        values = batch.attribute_probability.astype(np.float32)
        # ties go to the lower number, as with classes
        best = np.argsort(-values, axis=1, kind="stable")[:, : self.most]
        ranked = np.take_along_axis(values, best, 1)
        kept = ranked >= np.float32(self.least)
        return Tags(
            vocabulary=self.names,
            counts=kept.sum(axis=1),
            positions=best[kept],
            probabilities=ranked[kept],
        )


def _batched(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while some := list(itertools.islice(left, size)):
        yield some
