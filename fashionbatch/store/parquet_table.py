"""A table as Parquet, in row groups that fit in memory."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fashionbatch.errors import UsageError
from fashionbatch.store.table import Field, Table, Tags, Values, Words

#: how an attribute stands in the list of an image
_NAME, _PROBABILITY = "name", "probability"


def write(path: Path, table: Table) -> None:
    """Writes the table; the file's metadata says under ``fashionbatch`` what it was made from.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"Parquet needs pyarrow ({error}): pip install 'fashionbatch[parquet]', or use --to csv"
        ) from None
    about = json.dumps(table.predictions.about(), sort_keys=True)
    schema = pyarrow.schema(
        [pyarrow.field(field.name, _type(pyarrow, field)) for field in table.fields],
        metadata={"fashionbatch": about},
    )
    texts = [field.name for field in table.fields if field.kind == "text"]
    with parquet.ParquetWriter(path, schema, use_dictionary=texts) as writer:
        for block in table.blocks():
            arrays = [
                _array(pyarrow, values, kind, block.rows)
                for values, kind in zip(block.values, schema.types, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _type(pyarrow: Any, field: Field) -> Any:
    if field.kind == "number":
        return pyarrow.float32()
    if field.kind == "vector":
        return pyarrow.list_(pyarrow.float32(), field.size)
    if field.kind == "attributes":
        pair = [(_NAME, pyarrow.string()), (_PROBABILITY, pyarrow.float32())]
        return pyarrow.list_(pyarrow.struct(pair))
    return pyarrow.string()


def _array(pyarrow: Any, values: Values, kind: Any, rows: int) -> Any:
    if values is None:
        return pyarrow.nulls(rows, kind)
    if isinstance(values, Words):
        return _taken(pyarrow, values.vocabulary, values.positions)
    if isinstance(values, Tags):
        pairs = pyarrow.StructArray.from_arrays(
            [
                _taken(pyarrow, values.vocabulary, values.positions),
                pyarrow.array(values.probabilities, pyarrow.float32()),
            ],
            names=[_NAME, _PROBABILITY],
        )
        ends = np.concatenate([[0], np.cumsum(values.counts)]).astype(np.int32)
        return pyarrow.ListArray.from_arrays(pyarrow.array(ends), pairs)
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pyarrow.array(values.reshape(-1), pyarrow.float32())
        return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pyarrow.array(values, kind)


def _taken(pyarrow: Any, vocabulary: Any, positions: Any) -> Any:
    words = pyarrow.array(list(vocabulary), pyarrow.string())
    return words.take(pyarrow.array(positions, mask=positions < 0))
