"""Parts → one file, row by row in the order of the plan, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from fashionbatch import files
from fashionbatch.errors import StoreError
from fashionbatch.sources import Attribute
from fashionbatch.store import part as parts
from fashionbatch.store.append import Appender

SCHEMA = "fashionbatch-predictions"
VERSION = 1
ATTRIBUTE_PROBABILITY = "predictions/attribute_probability"
#: to the nearest: off by 0.05 % of the value at most, below 0.00006 by 3e-8; above 0.9998 it is 1
ATTRIBUTE_DTYPE = np.float16


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What ``/shards`` says of one input shard; its hash is in the part."""

    name: str
    count: int


def merge(
    folder: Path,
    output: Path,
    shards: Sequence[ShardEntry],
    classes: Sequence[str],
    about: Mapping[str, Any],
    attributes: Sequence[Attribute] = (),
    *,
    fingerprint: str,
) -> tuple[int, int]:
    """Writes the one file that the user asked for.

    Args:
        folder: of the parts, one per shard.
        output: the file to make; atomic.
        shards: in the order of the plan.
        classes: of the model.
        about: HDF5 attributes of the root; strings as they are, other values as JSON.
        attributes: of the model; nothing is written of them where it has none.
        fingerprint: of the run: parts of another one are never mixed in.

    Returns:
        how many items are predicted, and how many failed; together the shards' counts.

    Raises:
        StoreError: a part is missing or damaged, or items are missing.
    """
    found = survey(folder, shards, fingerprint)
    sizes, hashes, shapes = found.sizes, found.hashes, found.shapes
    total, failed_total = sum(r for r, _ in sizes), sum(f for _, f in sizes)
    with files.atomic(output, within=folder) as temporary, h5py.File(temporary, "w") as target:
        appenders = _create(target, shapes, total, failed_total)
        for number, (rows, failed) in enumerate(sizes):
            with parts.open_checked(folder, number, fingerprint) as file:
                if file.attrs["shard_sha256"] != hashes[number]:
                    raise StoreError(f"{folder}: a part changed while it was read: run again")
                _copy(file, appenders)
            appenders["items/shard"].add(np.full(rows, number, np.uint32))
            appenders["failures/shard"].add(np.full(failed, number, np.uint32))
        for name, appender in appenders.items():
            appender.close()
            if appender.row != (failed_total if name.startswith("failures/") else total):
                raise StoreError(f"{folder}: the parts changed while they were read: run again")
        parts.write_text(target, "classes/name", list(classes))
        if attributes:
            parts.write_text(target, "attributes/name", [a.name for a in attributes])
            parts.write_text(target, "attributes/type", [a.type or "" for a in attributes])
        parts.write_text(target, "shards/name", [s.name for s in shards])
        parts.write_text(target, "shards/sha256", hashes)
        for name, column in (
            ("count", [s.count for s in shards]),
            ("predicted", [r for r, _ in sizes]),
            ("failed", [f for _, f in sizes]),
        ):
            parts.write_array(target, f"shards/{name}", np.array(column, np.int64))
        target.attrs["schema"] = SCHEMA
        target.attrs["schema_version"] = VERSION
        for key, text in texts_of(about).items():
            target.attrs[key] = text
    return total, failed_total


class Survey(NamedTuple):
    """What the parts of a run hold.

    Attributes:
        sizes: how many items of each shard are predicted, and how many failed.
        hashes: of each shard's content.
        shapes: of each array with a row for each item or failure: shape of a row, and type.
    """

    sizes: list[tuple[int, int]]
    hashes: list[str]
    shapes: dict[str, tuple[tuple[int, ...], Any]]


def survey(folder: Path, shards: Sequence[ShardEntry], fingerprint: str) -> Survey:
    """Looks at every part, whole: all items must be there.

    Raises:
        StoreError: a part is missing or damaged, or items are missing.
    """
    found = Survey([], [], {})
    for number, shard in enumerate(shards):
        with parts.open_checked(folder, number, fingerprint) as file:
            rows, failed = len(file["items/name"]), len(file["failures/name"])
            if rows + failed != shard.count:
                raise StoreError(
                    f"{shard.name}: {rows} predicted and {failed} failed do not make "
                    f"{shard.count} items: remove {parts.path_of(folder, number)} and run again"
                )
            found.sizes.append((rows, failed))
            found.hashes.append(str(file.attrs["shard_sha256"]))
            file.visititems(lambda name, item: _note(found.shapes, name, item))
    return found


def texts_of(about: Mapping[str, Any]) -> dict[str, str]:
    """What a file says of itself: strings as they are, other values as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in about.items()
    }


def _note(shapes: dict[str, tuple[tuple[int, ...], Any]], name: str, item: Any) -> None:
    # a shard without a single row knows no shape of its features: any other one's counts
    if isinstance(item, h5py.Dataset) and (name not in shapes or item.shape[0]):
        shapes[name] = (item.shape[1:], item.dtype)


def _create(
    target: h5py.File,
    shapes: Mapping[str, tuple[tuple[int, ...], Any]],
    rows: int,
    failures: int,
) -> dict[str, Appender]:
    own = {f"{group}/shard": ((), np.dtype(np.uint32)) for group in ("items", "failures")}
    appenders = {}
    for name, (tail, dtype) in {**shapes, **own}.items():
        length = failures if name.startswith("failures/") else rows
        if dtype.kind == "O":
            made = target.create_dataset(name, shape=(length,), dtype=parts.TEXT)
        else:
            shape = (length, *tail)
            made = target.create_dataset(
                name, shape=shape, dtype=dtype, **parts.layout(shape, dtype)
            )
        appenders[name] = Appender(made)
    return appenders


def _copy(source: h5py.File, appenders: Mapping[str, Appender]) -> None:
    def copy(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            appenders[name].add(item[()])

    source.visititems(copy)
