"""Whether an index contradicts itself or its manifest, before any shard is compared with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fashionbatch.shards.index import EXTENSIONS, Index
from fashionbatch.shards.manifest import MANIFEST, Manifest, ShardRecord
from fashionbatch.shards.ragged import Texts
from fashionbatch.shards.verification.members import BLOCK, END

_MOST_BYTES = 1 << 62


def index_fault(index: Index, manifest: Manifest) -> str | None:
    """The first thing in which the index contradicts itself or the manifest.

    Raises:
        ShardError: a column cannot be read.
    """
    shards = manifest.shards
    number = index.shard
    if (number[1:] < number[:-1]).any() or (number >= len(shards)).any():
        return "its rows are not in the order of the shards"
    counts = np.bincount(number, minlength=len(shards)).tolist()
    for shard, count in zip(shards, counts, strict=True):
        if count != shard.items:
            return f"it has {count} items in {shard.file}, {MANIFEST} states {shard.items}"
    if (index.label < -1).any() or (index.label >= len(manifest.classes)).any():
        return "it has labels that are no classes"
    if (index.extension >= len(EXTENSIONS)).any():
        return "it has images of an unknown kind"
    for column in ("positive", "unknown"):
        if (getattr(index, column).values >= len(manifest.attributes)).any():
            return f"its column {column} has numbers that are no attributes"
    if _repeats(index.key):
        return "it has a key twice"
    return _layout_fault(index, shards)


def _repeats(texts: Texts) -> bool:
    """Whether a text is there twice; without making millions of strings."""
    lengths = texts.lengths
    starts = texts.ends.astype(np.int64) - lengths
    for length in np.unique(lengths).tolist():
        mine = starts[lengths == length]
        if len(mine) < 2:
            continue
        if length == 0:
            return True
        rows = np.ascontiguousarray(texts.values[mine[:, None] + np.arange(length)])
        if len(np.unique(rows.view(f"S{length}"))) != len(mine):
            return True
    return False


def _layout_fault(index: Index, shards: Sequence[ShardRecord]) -> str | None:
    """Whether images lie on blocks, one behind the other, within their shards."""
    # whatever a manifest states, it fits 64 bits
    stated = [min(max(s.bytes, 0), _MOST_BYTES) for s in shards]
    lengths = np.array(stated, np.int64)[index.shard]
    if (index.offset > lengths.astype(np.uint64)).any():
        return "it has images outside of their shards"
    offset = index.offset.astype(np.int64)
    ends = offset + index.size + -index.size.astype(np.int64) % BLOCK
    first = np.diff(index.shard.astype(np.int64), prepend=-1) != 0
    last = np.roll(first, -1)
    # what follows an image is the header of the next one, or the end
    borders = np.where(last, lengths - END, np.roll(offset, -1) - BLOCK)
    if (offset % BLOCK).any() or (offset[first] != BLOCK).any() or (ends > borders).any():
        return "its images overlap, or do not lie where images lie"
    return None
