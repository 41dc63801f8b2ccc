"""A prediction file's arrays as NPZ, for ``numpy.load``; no array is held whole."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.config import ExportConfig
from fashionbatch.store.column import TextColumn
from fashionbatch.store.reader import Predictions
from fashionbatch.store.rows import BATCH

#: the oldest that ZIP knows: no clock in the file
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write(path: Path, predictions: Predictions, config: ExportConfig) -> None:
    """Writes the arrays; texts have the width of the longest one, and are compressed for that."""
    with zipfile.ZipFile(path, "w") as archive:
        _write_text(archive, "about", [json.dumps(predictions.about(), sort_keys=True)])
        _write_text(archive, "classes", predictions.classes)
        _write_text(archive, "shards", predictions.shard_names)
        _write_column(archive, "name", predictions.text("items/name"))
        _write_column(archive, "key", predictions.text("items/key"))
        for name, dataset in _arrays(predictions, config):
            column = predictions.column(dataset)
            shape = column.shape
            if config.topk is not None and name.startswith("topk_"):
                shape = (shape[0], min(config.topk, shape[1]))
            rows = max(1, min(BATCH, (16 << 20) // max(1, column.dtype.itemsize * _size(shape))))
            blocks = (
                column[start : start + rows][(slice(None), *map(slice, shape[1:]))]
                for start in range(0, len(column), rows)
            )
            _write(archive, name, column.dtype, shape, blocks)
        if predictions.attributes:
            _write_text(archive, "attributes", [a.name for a in predictions.attributes])
        if config.failures:
            for name in ("name", "key", "stage", "reason"):
                _write_column(archive, f"failure_{name}", predictions.text(f"failures/{name}"))


def _arrays(predictions: Predictions, config: ExportConfig) -> Iterator[tuple[str, str]]:
    yield "shard", "items/shard"
    yield "label", "items/label"
    if predictions.hashed:
        yield "sha256", "items/sha256"
    yield "topk_index", predictions.topk_index.name
    yield "topk_probability", predictions.topk_probability.name
    if config.probabilities:
        yield "probability", predictions.probability.name
    if predictions.attributes:
        yield "attribute_probability", predictions.attribute_probability.name
    if config.features:
        if not predictions.layers:
            predictions.features()  # says so
        for layer in predictions.layers:
            yield f"features_{layer}", predictions.features(layer).name
    if config.failures:
        yield "failure_shard", "failures/shard"


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[1:], dtype=np.int64))


def _write_column(archive: zipfile.ZipFile, name: str, texts: TextColumn) -> None:
    longest = max((max(map(len, block)) for _, block in texts.blocks(BATCH)), default=0)
    dtype = np.dtype(f"<U{max(1, longest)}")
    rows = max(1, min(BATCH, (16 << 20) // dtype.itemsize))
    blocks = (np.array(block, dtype) for _, block in texts.blocks(rows))
    _write(archive, name, dtype, (len(texts),), blocks)


def _write_text(archive: zipfile.ZipFile, name: str, texts: Iterable[str]) -> None:
    values = np.array(list(texts), np.str_)
    _write(archive, name, values.dtype, values.shape, [values])


def _write(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    blocks: Iterable[npt.NDArray[Any]],
) -> None:
    member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED if dtype.kind == "U" else zipfile.ZIP_STORED
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape},
    )
    with archive.open(member, "w", force_zip64=True) as file:
        file.write(header.getvalue())
        for block in blocks:
            file.write(np.ascontiguousarray(block).tobytes())
