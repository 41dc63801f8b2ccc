"""Items that several prediction files hold."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import UsageError, counted
from fashionbatch.store.agreement import GROUPS
from fashionbatch.store.reader import Predictions
from fashionbatch.store.rows import BATCH

_SHOWN = 3

Mask = npt.NDArray[np.bool_]


def kept(opened: Sequence[Predictions], duplicates: str) -> list[dict[str, Mask]]:
    """Which rows and failures of each file are taken.

    An item is the same in two files when its name is, and its shard's name or its bytes. It takes
    some 60 bytes of memory per item to find out, however long the names are.

    Args:
        opened: the files.
        duplicates: ``error`` refuses what a file before holds too, ``first`` leaves it out.

    Returns:
        of each file, bool ``[n]`` by the group of :data:`.agreement.GROUPS`.

    Raises:
        UsageError: the same item, or another image of the same name, is in several files.
    """
    masks = [
        {
            "items": np.ones(len(p), np.bool_),
            "failures": np.ones(len(p.failures), np.bool_),
        }
        for p in opened
    ]
    hashed = all("items/sha256" in p.columns("items") for p in opened)
    namesakes = np.empty((0, 2), np.int64)
    for by_bytes in (False, True) if hashed else (False,):
        digests = [_digests(p, group, by_bytes) for p in opened for group in GROUPS]
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
            masks[number // 2][tuple(GROUPS)[number % 2]][places] = False
    if duplicates == "error":
        _refuse_duplicates(opened, masks)
    return masks


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
        predictions, group = opened[number // 2], tuple(GROUPS)[number % 2]
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


def _refuse_duplicates(opened: Sequence[Predictions], kept: Sequence[dict[str, Mask]]) -> None:
    for predictions, masks in zip(opened, kept, strict=True):
        found = [(group, int(row)) for group in GROUPS for row in np.flatnonzero(~masks[group])]
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
