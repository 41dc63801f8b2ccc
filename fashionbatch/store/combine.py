"""Prediction files of several machines, or of several parts of a catalogue → one.

Rows keep their order, file after file. What the files were made by must be the same; what they were
made of is recorded in the fingerprint of the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.config import MergeConfig
from fashionbatch.errors import StoreError, UsageError
from fashionbatch.store import duplicates
from fashionbatch.store import part as parts
from fashionbatch.store.agreement import GROUPS, INPUTS, OWN, refuse_others, refuse_twice
from fashionbatch.store.column import Column
from fashionbatch.store.duplicates import Mask
from fashionbatch.store.export import refuse_existing
from fashionbatch.store.merge import SCHEMA, VERSION
from fashionbatch.store.parts_set import is_set
from fashionbatch.store.reader import Predictions, open_predictions
from fashionbatch.store.rows import BATCH

_BLOCK = 16 << 20

Tell = Callable[[str, dict[str, Any]], None]


def combine(
    paths: Sequence[Path], config: MergeConfig, tell: Tell = lambda event, values: None
) -> dict[str, Any]:
    """Merges prediction files into one; the same files in the same order make the same bytes.

    Args:
        paths: of the files.
        config: of the job.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.

    Returns:
        ``{"output", "files", "items", "predicted", "failed", "duplicates"}``.

    Raises:
        UsageError: one file only (of a folder of parts one file is made), or one twice; files of
            another model, configuration or engine; the same item in several files.
        OutputExistsError: something is at the output.
        StoreError: a file is damaged.
    """
    if config.output is None:
        raise UsageError("name the file to make with -o")
    if len(paths) < 2 and not all(is_set(path) for path in paths):
        raise UsageError("name at least two prediction files to merge")
    refuse_existing(config.output, list(paths), replace=config.exist_ok)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_predictions(path)) for path in paths]
        refuse_twice(opened)
        for other in opened[1:]:
            refuse_others(opened[0], other)
        kept = duplicates.kept(opened, config.duplicates)
        config.output.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(config.output) as temporary:
            tell("start", {"items": sum(int(masks["items"].sum()) for masks in kept)})
            counts = _write(temporary, opened, kept, tell)
            _check(temporary, counts)
    total = sum(len(mask) for masks in kept for mask in masks.values())
    return {
        "output": str(config.output),
        "files": len(paths),
        "items": sum(counts.values()),
        "predicted": counts["items"],
        "failed": counts["failures"],
        "duplicates": total - sum(counts.values()),
    }


@dataclass(frozen=True, kw_only=True)
class _Shards:
    """What is left of a file's shards; ``number`` maps theirs to those of the result."""

    taken: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    failed: npt.NDArray[np.int64]


def _shards(predictions: Predictions, kept: dict[str, Mask], first: int) -> _Shards:
    """A shard of which nothing is left is left out, unless it was empty before."""
    many = len(predictions.shard_names)
    left = {}
    for group, column in (("items", "predicted"), ("failures", "failed")):
        counts = np.zeros(many, np.int64)
        for start in range(0, len(kept[group]), BATCH):
            numbers = predictions.column(f"{group}/shard")[start : start + BATCH]
            predictions.positions(numbers, f"{group}/shard", many)
            counts += np.bincount(numbers[kept[group][start : start + BATCH]], minlength=many)
        left[column] = counts
    had = predictions.column("shards/count")[()]
    taken = np.flatnonzero((left["predicted"] + left["failed"] > 0) | (had == 0))
    number = np.zeros(many, np.int64)
    number[taken] = first + np.arange(len(taken))
    return _Shards(
        taken=taken,
        number=number,
        predicted=left["predicted"][taken],
        failed=left["failed"][taken],
    )


def _write(
    path: Path, opened: Sequence[Predictions], kept: Sequence[dict[str, Mask]], tell: Tell
) -> dict[str, int]:
    """Writes the file; returns the rows of each group."""
    shards: list[_Shards] = []
    for predictions, masks in zip(opened, kept, strict=True):
        shards.append(_shards(predictions, masks, sum(len(s.taken) for s in shards)))
    counts = {group: sum(int(masks[group].sum()) for masks in kept) for group in GROUPS}
    with h5py.File(path, "w") as target:
        for group, groups in GROUPS.items():
            names = [name for g in groups for name in opened[0].columns(g)]
            widest = max(names, key=lambda name: _width(opened[0].column(name)))
            for name in names:
                for rows in _copy(target, name, group, counts[group], opened, kept, shards):
                    if group == "items" and name == widest:
                        tell("progress", {"items": rows})
        first = opened[0]
        parts.write_text(target, "classes/name", list(first.classes))
        if first.attributes:
            parts.write_text(target, "attributes/name", [a.name for a in first.attributes])
            parts.write_text(target, "attributes/type", [a.type or "" for a in first.attributes])
        pairs = list(zip(opened, shards, strict=True))
        names = [p.shard_names[i] for p, s in pairs for i in s.taken]
        hashes = [p.shards[i][1] for p, s in pairs for i in s.taken]
        parts.write_text(target, "shards/name", names)
        parts.write_text(target, "shards/sha256", hashes)
        predicted = np.concatenate([s.predicted for s in shards])
        failed = np.concatenate([s.failed for s in shards])
        parts.write_array(target, "shards/count", predicted + failed)
        parts.write_array(target, "shards/predicted", predicted)
        parts.write_array(target, "shards/failed", failed)
        target.attrs["schema"], target.attrs["schema_version"] = SCHEMA, VERSION
        for key, text in _about(opened, sum(counts.values())).items():
            target.attrs[key] = text
    return counts


def _copy(
    target: h5py.File,
    name: str,
    group: str,
    rows: int,
    opened: Sequence[Predictions],
    kept: Sequence[dict[str, Mask]],
    shards: Sequence[_Shards],
) -> Iterator[int]:
    """One dataset, from all files, some rows at a time; yields how many."""
    # of a file without rows the shape may be unknown
    model = max((p.column(name) for p in opened), key=len)
    if model.dtype.kind == "O":
        made = target.create_dataset(name, shape=(rows,), dtype=parts.TEXT)
    else:
        shape = (rows, *model.shape[1:])
        made = target.create_dataset(
            name, shape=shape, dtype=model.dtype, **parts.layout(shape, model.dtype)
        )
    row = 0
    for predictions, masks, numbers in zip(opened, kept, shards, strict=True):
        for values in _blocks(predictions, name, masks[group]):
            if name == f"{group}/shard":
                values = numbers.number[values].astype(np.uint32)
            made[row : row + len(values)] = values
            row += len(values)
            yield len(values)


def _blocks(predictions: Predictions, name: str, kept: Mask) -> Iterator[Any]:
    column = predictions.column(name)
    if column.dtype.kind == "O":
        for start, block in predictions.text(name).blocks(BATCH):
            mask = kept[start : start + len(block)]
            texts = [text for text, take in zip(block, mask, strict=True) if take]
            if texts:
                yield np.array(texts, object)
        return
    rows = max(1, _BLOCK // max(1, _width(column)))
    for start in range(0, len(column), rows):
        values = column[start : start + rows][kept[start : start + rows]]
        if len(values):
            yield values


def _width(column: Column) -> int:
    """Bytes of a row."""
    return int(np.prod(column.shape[1:], dtype=np.int64)) * column.dtype.itemsize


def _about(opened: Sequence[Predictions], items: int) -> dict[str, str]:
    """The attributes of the first file; the fingerprint says what all of them were made of."""
    about = opened[0].about()
    if len({p.source for p in opened}) > 1:
        about.pop("source", None)
    prints = [p.fingerprint for p in opened]
    inputs = [
        entry
        for p, found in zip(opened, prints, strict=True)
        for entry in found.get(
            INPUTS,
            [
                {k: found[k] for k in OWN if k in found}
                | {"shards": files.fingerprint([list(s) for s in p.shards])}
            ],
        )
    ]
    common = {k: v for k, v in prints[0].items() if k not in (*OWN, INPUTS)}
    whole = {
        **common,
        "input": files.fingerprint(inputs),
        "items": items,
        INPUTS: inputs,
    }
    about["fingerprint"] = json.dumps(whole, sort_keys=True)
    return {k: v for k, v in about.items() if k not in ("schema", "schema_version")}


def _check(path: Path, counts: dict[str, int]) -> None:
    """Reads the result's lengths back: rows, failures and shards must add up."""
    with open_predictions(path) as made:
        predicted, failed = (made.column(f"shards/{c}")[()] for c in ("predicted", "failed"))
        found = {"items": len(made), "failures": len(made.failures)}
        if found != counts or [int(predicted.sum()), int(failed.sum())] != list(counts.values()):
            raise StoreError(
                f"merging gave {found['items']} rows and {found['failures']} failures where "
                f"{counts['items']} and {counts['failures']} were expected: run it again"
            )
