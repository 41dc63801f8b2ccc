"""Images with the same bytes: found, counted, left out."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.address import is_address
from fashionbatch.errors import ImageError
from fashionbatch.shards.catalogue import Catalogue, FailureLog
from fashionbatch.shards.ragged import Ragged
from fashionbatch.shards.read import ShardSet
from fashionbatch.sources import Failure, Item, Source

_THREADS = 4
_TOGETHER = 4096


@dataclass(frozen=True, kw_only=True)
class Twins:
    """How many images have the same bytes as an earlier one.

    Attributes:
        images: all that do.
        across: those whose bytes lie in several splits: what is learned is tested.
        conflicts: those whose bytes have several labels.
        groups: int64 rows of each set of equal images, ascending; the sets in the order of their
            first row.
    """

    images: int
    across: int
    conflicts: int
    groups: Ragged


def find_twins(
    sha256: npt.NDArray[np.uint8], split: npt.NDArray[np.int8], label: npt.NDArray[np.int32]
) -> Twins:
    """Finds images with the same bytes.

    Args:
        sha256: uint8 ``[N, 32]``.
        split: int8 ``[N]``.
        label: int32 ``[N]``.
    """
    if not len(sha256):
        return Twins(images=0, across=0, conflicts=0, groups=Ragged.of([], np.int64))
    words = np.ascontiguousarray(sha256).view(np.uint64).reshape(-1, 4)
    order = np.argsort(words[:, 0], kind="stable")
    # by one word first: sorting by all four is for the few that share it
    equal = np.diff(words[order, 0]) == 0
    order = order[np.concatenate([[False], equal]) | np.concatenate([equal, [False]])]
    order = order[np.lexsort(words[order].T)]  # stable: equal ones stay in the order of their rows
    same = (words[order[1:]] == words[order[:-1]]).all(axis=1)
    borders = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    groups = _groups(order, borders[::2], borders[1::2] - borders[::2] + 1)
    copies = groups.lengths - 1
    return Twins(
        images=int(copies.sum()),
        across=int(copies[_differ(split, groups)].sum()),
        conflicts=int(copies[_differ(label, groups)].sum()),
        groups=groups,
    )


def _groups(
    order: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> Ragged:
    """Runs of ``order``, sorted by the first row of each."""
    by_first = np.argsort(order[starts])
    starts, lengths = starts[by_first], lengths[by_first]
    ends = np.cumsum(lengths)
    places = np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
    return Ragged(order[places], ends.astype(np.uint64))


def _differ(column: npt.NDArray[Any], groups: Ragged) -> npt.NDArray[np.bool_]:
    """bool ``[G]``, whether a column has several values in a group; no group is empty."""
    values = column[groups.values]
    starts = groups.ends.astype(np.int64) - groups.lengths
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return np.asarray(low != high, np.bool_)


def torn_groups(group: npt.NDArray[np.uint64], split: npt.NDArray[np.int8]) -> int:
    """How many groups lie in several splits.

    Args:
        group: uint64 ``[N]``, 0 for none.
        split: int8 ``[N]``.
    """
    mine = group != 0
    order = np.lexsort((split[mine], group[mine]))
    groups, splits = group[mine][order], split[mine][order]
    other = (np.diff(groups) == 0) & (np.diff(splits) != 0)
    return len(np.unique(groups[1:][other]))


def drop_twins(
    catalogue: Catalogue, source: Source, failures: FailureLog, before: ShardSet | None
) -> Catalogue:
    """Leaves out every item whose bytes an earlier item has, or a data set that grows.

    Files of a size that no other file has are not read.

    Args:
        catalogue: of the source.
        source: reads the items.
        failures: gets the items left out, with the name of the one that is kept.
        before: the data set that the items are added to.
    """
    sizes = np.zeros(len(catalogue), np.int64)
    for row in range(len(catalogue)):
        sizes[row] = _size(catalogue.item(row))
    taken = before.index.size.astype(np.int64) if before is not None else sizes[:0]
    values, counts = np.unique(np.concatenate([sizes, np.unique(taken)]), return_counts=True)
    alone = values[(counts == 1) & (values >= 0)]
    rows = np.flatnonzero(~np.isin(sizes, alone))
    seen: dict[bytes, str] = {}
    if before is not None:
        for row in range(len(before)):
            seen.setdefault(before.index.sha256[row].tobytes(), before.name(row))
    keep = np.ones(len(catalogue), bool)
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(rows), _TOGETHER):
            mine = rows[start : start + _TOGETHER].tolist()
            items = [catalogue.item(row) for row in mine]
            digests = pool.map(lambda item: _digest(source, item), items)
            for row, item, digest in zip(mine, items, digests, strict=True):
                if digest is None:
                    continue  # cannot be read: the packer says so
                first = seen.setdefault(digest, item.name)
                if first != item.name:
                    keep[row] = False
                    failures.add(
                        Failure(
                            name=item.name,
                            stage="source",
                            reason=f"the same bytes as {first!r}",
                            line=item.line,
                        )
                    )
    return catalogue.taking(keep)


def _size(item: Item) -> int:
    """Of the file; -1 where only reading tells."""
    if item.data is not None:
        return len(item.data)
    if item.path is None or item.offset is not None:
        return -1
    if is_address(item.path):
        return -1 if item.size is None else item.size
    try:
        return os.stat(item.path).st_size
    except (OSError, ValueError):  # a NUL in the path
        return -1


def _digest(source: Source, item: Item) -> bytes | None:
    try:
        return hashlib.sha256(source.read(item)).digest()
    except (OSError, ImageError):
        return None
