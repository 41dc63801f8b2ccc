"""Prediction files of several machines, or of several parts of a catalogue → one.

Rows keep their order, file after file. What the files were made by must be the same; what they were
made of is recorded in the fingerprint of the result.
"""

from __future__ import annotations

import hashlib
import itertools
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
from fashionbatch.errors import StoreError, UsageError, counted
from fashionbatch.store import part as parts
from fashionbatch.store.column import Column
from fashionbatch.store.export import refuse_existing
from fashionbatch.store.merge import SCHEMA, VERSION
from fashionbatch.store.reader import Predictions, open_predictions
from fashionbatch.store.rows import BATCH

#: in a fingerprint: what files differ in that belong together; all else must be the same
_OWN = ("input", "items", "rows", "batch_size", "device", "code")
_INPUTS = "inputs"
#: with a row per item, and with a row per failure
_GROUPS = {"items": ("items", "predictions", "features"), "failures": ("failures",)}
_BLOCK = 16 << 20
_SHOWN = 3

Tell = Callable[[str, dict[str, Any]], None]
Kept = npt.NDArray[np.bool_]


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
        UsageError: one file, or one twice; files of another model, configuration or engine; the
            same item in several files.
        OutputExistsError: something is at the output.
        StoreError: a file is damaged.
    """
    if config.output is None:
        raise UsageError("name the file to make with -o")
    if len(paths) < 2:
        raise UsageError("name at least two prediction files to merge")
    refuse_existing(config.output, list(paths), replace=config.exist_ok)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_predictions(path)) for path in paths]
        _refuse_twice(opened)
        for other in opened[1:]:
            _refuse_others(opened[0], other)
        kept = _kept(opened, config.duplicates)
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


def _refuse_twice(opened: Sequence[Predictions]) -> None:
    for number, one in enumerate(opened):
        for other in opened[:number]:
            if one.path.samefile(other.path):
                raise UsageError(f"{one.path} is named twice: leave one of them out")


def _refuse_others(one: Predictions, other: Predictions) -> None:
    """Names the first thing by which a file is not of the same kind as another."""
    mine, its = (
        # another model has other classes, too: it is named first
        {"model": p.fingerprint.get("model")}
        | {k: v for k, v in p.fingerprint.items() if k not in (*_OWN, _INPUTS)}
        for p in (one, other)
    )
    difference = _difference(mine, its)
    if difference is None and one.classes != other.classes:
        difference = "classes", f"{len(one.classes)}", f"{len(other.classes)}"
    if difference is None and one.attributes != other.attributes:
        difference = "attributes", f"{len(one.attributes)}", f"{len(other.attributes)}"
    if difference is None:
        # a file without rows may know no shape of its features
        known = bool(len(one) and len(other))
        difference = _difference(_layout(one, shaped=known), _layout(other, shaped=known))
    if difference is not None:
        what, had, has = difference
        raise UsageError(
            f"{other.path} cannot be merged with {one.path}: other {what} ({has} instead of {had})"
        )


def _difference(mine: Any, its: Any, name: str = "") -> tuple[str, str, str] | None:
    """The name of the first difference, and both values."""
    if mine == its:
        return None
    if isinstance(mine, dict) and isinstance(its, dict):
        for key in (*mine, *(k for k in its if k not in mine)):
            found = _difference(mine.get(key), its.get(key), key)
            if found is not None:
                return found
    return name, _short(mine), _short(its)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _layout(predictions: Predictions, *, shaped: bool) -> dict[str, str]:
    """Type and shape of each column."""
    layout = {}
    for group in (g for groups in _GROUPS.values() for g in groups):
        for name in predictions.columns(group):
            column = predictions.column(name)
            shape = f" {list(column.shape[1:])}" if shaped else ""
            layout[name] = f"{column.dtype}{shape}"
    return layout


def _kept(opened: Sequence[Predictions], duplicates: str) -> list[dict[str, Kept]]:
    """Which rows and failures of each file are taken.

    An item is the same in two files when its name is, and its shard's name or its bytes. It takes
    some 60 bytes of memory per item to find out, however long the names are.
    """
    kept = [
        {
            "items": np.ones(len(p), np.bool_),
            "failures": np.ones(len(p.failures), np.bool_),
        }
        for p in opened
    ]
    hashed = all("items/sha256" in p.columns("items") for p in opened)
    namesakes = np.empty((0, 2), np.int64)
    for by_bytes in (False, True) if hashed else (False,):
        digests = [_digests(p, group, by_bytes) for p in opened for group in _GROUPS]
        numbers = np.repeat(np.arange(len(digests)), [len(d) for d in digests])
        both = np.concatenate(digests)
        order = np.lexsort((both[:, 1], both[:, 0]))  # stable: of the same, the first file is first
        first = np.ones(len(both), np.bool_)
        first[1:] = (both[order[1:]] != both[order[:-1]]).any(axis=1)
        begins = np.maximum.accumulate(np.where(first, np.arange(len(both)), 0))
        later = order[numbers[order] // 2 > numbers[order[begins]] // 2]
        later = later[both[later].any(axis=1)]  # nought: unknown bytes are not the same
        if by_bytes:
            _refuse_namesakes(opened, namesakes, both, np.cumsum([0, *map(len, digests)]))
        else:
            origin = np.empty(len(both), np.int64)
            origin[order] = order[begins]
            namesakes = np.stack([later, origin[later]], axis=1)
        starts = np.cumsum([0, *(len(d) for d in digests)])
        for number, (start, stop) in enumerate(itertools.pairwise(starts)):
            places = later[(later >= start) & (later < stop)] - start
            kept[number // 2][tuple(_GROUPS)[number % 2]][places] = False
    if duplicates == "error":
        _refuse_duplicates(opened, kept)
    return kept


def _refuse_namesakes(
    opened: Sequence[Predictions],
    pairs: npt.NDArray[np.int64],
    digests: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.int64],
) -> None:
    """Items of one name and shard in several files have the same bytes, as far as those are known.

    Args:
        opened: the files.
        pairs: int64 ``[n, 2]``, an item and the first one of its name and shard.
        digests: of names and bytes.
        starts: of each file's items and failures among the digests.
    """
    one, other = digests[pairs[:, 0]], digests[pairs[:, 1]]
    differ = pairs[(one != other).any(axis=1) & one.any(axis=1) & other.any(axis=1)]
    if len(differ):
        at = int(differ[0, 0])
        number = int(np.searchsorted(starts, at, side="right")) - 1
        predictions, group = opened[number // 2], tuple(_GROUPS)[number % 2]
        row = at - int(starts[number])
        name = predictions.text(f"{group}/name").read(row, row + 1)[0]
        raise UsageError(
            f"{predictions.path} holds {counted(len(differ), 'item')} of a name that a file before "
            f"it gives to another image ({name!r}): they are of different catalogues of one name; "
            "predict one of them under another folder's name"
        )


def _digests(predictions: Predictions, group: str, by_bytes: bool) -> npt.NDArray[np.uint64]:
    """uint64 ``[n, 2]``: 128 bits of what makes each item itself; 0 where its bytes are unknown."""
    names = predictions.text(f"{group}/name")
    shards = [name.encode() for name in predictions.shard_names]
    digests = np.zeros((len(names), 2), np.uint64)
    hashed = not by_bytes or f"{group}/sha256" in predictions.columns(group)
    for start, block in names.blocks(BATCH) if hashed else ():
        stop = start + len(block)
        if by_bytes:
            hashes = predictions.column(f"{group}/sha256")[start:stop]
            where = [row.tobytes() if row.any() else None for row in hashes]
        else:
            numbers = predictions.column(f"{group}/shard")[start:stop]
            predictions.positions(numbers, f"{group}/shard", len(shards))
            where = [shards[number] for number in numbers.tolist()]
        for place, (name, those) in enumerate(zip(block, where, strict=True), start):
            if those is not None:
                text = hashlib.blake2b(those + b"\0" + name.encode(), digest_size=16).digest()
                digests[place] = np.frombuffer(text, np.uint64)
    return digests


def _refuse_duplicates(opened: Sequence[Predictions], kept: Sequence[dict[str, Kept]]) -> None:
    for predictions, masks in zip(opened, kept, strict=True):
        found = [(group, int(row)) for group in _GROUPS for row in np.flatnonzero(~masks[group])]
        if found:
            names = [
                predictions.text(f"{group}/name").read(row, row + 1)[0]
                for group, row in found[:_SHOWN]
            ]
            more = ", ..." if len(found) > _SHOWN else ""
            raise UsageError(
                f"{predictions.path} holds {counted(len(found), 'item')} that a file before it "
                f"holds too ({', '.join(map(repr, names))}{more}): keep what the first one says "
                "with --duplicates first"
            )


@dataclass(frozen=True, kw_only=True)
class _Shards:
    """What is left of a file's shards; ``number`` maps theirs to those of the result."""

    taken: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    failed: npt.NDArray[np.int64]


def _shards(predictions: Predictions, kept: dict[str, Kept], first: int) -> _Shards:
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
    path: Path, opened: Sequence[Predictions], kept: Sequence[dict[str, Kept]], tell: Tell
) -> dict[str, int]:
    """Writes the file; returns the rows of each group."""
    shards: list[_Shards] = []
    for predictions, masks in zip(opened, kept, strict=True):
        shards.append(_shards(predictions, masks, sum(len(s.taken) for s in shards)))
    counts = {group: sum(int(masks[group].sum()) for masks in kept) for group in _GROUPS}
    with h5py.File(path, "w") as target:
        for group, groups in _GROUPS.items():
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
    kept: Sequence[dict[str, Kept]],
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


def _blocks(predictions: Predictions, name: str, kept: Kept) -> Iterator[Any]:
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
            _INPUTS,
            [
                {k: found[k] for k in _OWN if k in found}
                | {"shards": files.fingerprint([list(s) for s in p.shards])}
            ],
        )
    ]
    common = {k: v for k, v in prints[0].items() if k not in (*_OWN, _INPUTS)}
    whole = {
        **common,
        "input": files.fingerprint(inputs),
        "items": items,
        _INPUTS: inputs,
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
