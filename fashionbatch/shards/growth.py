"""A data set that new items are added to: what it holds, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fashionbatch.errors import UsageError
from fashionbatch.shards.catalogue import Catalogue
from fashionbatch.shards.manifest import MANIFEST
from fashionbatch.shards.plan import Before
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.sources import Attribute


def open_growing(path: Path, pixels: Any, attributes: Sequence[Attribute]) -> ShardSet:
    """Opens a data set that is to grow.

    Args:
        path: of its folder.
        pixels: what is done to the pixels of the new images.
        attributes: of the source of the new images; empty if it has none.

    Raises:
        UsageError: there is none, or the new items would not fit those that it has.
        ShardError: it is damaged.
    """
    if not (path / MANIFEST).exists():
        raise UsageError(f"--append: {path} is no data set: leave --append out to make it")
    shards = open_shards(path)
    made = shards.manifest.source.get("pixels")
    if made != pixels:
        raise UsageError(
            f"--append: {path} was made with {_resizing(made)}, and this would be "
            f"{_resizing(pixels)}: type the same options"
        )
    if attributes and tuple(attributes) != shards.manifest.attributes:
        raise UsageError(
            f"--append: {path} has other attributes than the source: make a data set of its own"
        )
    return shards


def lacking(catalogue: Catalogue, shards: ShardSet, seed: int) -> Catalogue:
    """The items of a catalogue that a data set lacks, by name.

    Args:
        catalogue: with priorities of ``seed``.
        shards: the data set.
        seed: of the priorities.
    """
    known = shards.index.priority(np.arange(len(shards), dtype=np.int64), seed)
    maybe = np.isin(catalogue.priority, known)
    names = {shards.name(row) for row in range(len(shards))} if maybe.any() else set()
    keep = ~maybe
    for row in np.flatnonzero(maybe).tolist():  # 64 bits are nearly, not wholly, sure
        keep[row] = catalogue.item(row).name not in names
    return catalogue.taking(keep)


def state_of(shards: ShardSet) -> Before:
    """What a plan has to know of a data set that is to grow."""
    manifest = shards.manifest
    counts: dict[str | None, int] = {}
    for record in manifest.shards:  # one that came out empty has left a gap in the numbers
        number = int(Path(record.file).stem.rpartition("-")[2])
        counts[record.split] = max(counts.get(record.split, 0), number + 1)
    splits = shards.splits
    pairs = np.unique(np.stack([shards.labels, splits.astype(np.int32)], axis=1), axis=0)
    grouped = np.flatnonzero((shards.index.group != 0) & (splits >= 0))
    groups = dict(zip(shards.index.group[grouped].tolist(), splits[grouped].tolist(), strict=True))
    return Before(
        classes=manifest.classes,
        class_types=manifest.class_types,
        keys=manifest.keys,
        shards=counts,
        groups=groups,
        present=frozenset(zip(*pairs.T.tolist(), strict=True)),
        own_splits=manifest.source.get("split") is None and bool((splits >= 0).any()),
    )


def _resizing(pixels: Any) -> str:
    if not pixels:
        return "the images as they are"
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in pixels.items())
