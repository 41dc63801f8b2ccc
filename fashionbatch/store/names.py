"""From a name to its row, and the names that are like one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np

from fashionbatch.store.column import TextColumn

#: texts read at a time
_BLOCK = 8192
#: names that are looked at for ones like a name that there is not: a second's worth
_LOOKED_AT = 500_000
_NEAR = 3
#: names of which the most alike are shown
_LIKENED = 100
#: letters that may differ in a name that was meant
_TYPOS = 2


class NameIndex:
    """Finds the rows of a name; 12 bytes a row, however long the names are.

    It holds a hash of each name, sorted; a name that is found is compared with the one in the file.

    Args:
        names: of all rows.
    """

    def __init__(self, names: TextColumn) -> None:
        self._names = names
        hashes = np.empty(len(names), np.int64)
        for start, block in names.blocks(_BLOCK):
            hashes[start : start + len(block)] = [hash(name) for name in block]
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._rows = order.astype(np.uint32 if len(names) < 1 << 32 else np.int64)

    def rows(self, name: str) -> list[int]:
        """The rows of that name, ascending."""
        wanted = np.int64(hash(name))
        first = int(np.searchsorted(self._hashes, wanted, "left"))
        last = int(np.searchsorted(self._hashes, wanted, "right"))
        rows = self._rows[first:last].tolist()
        return [row for row in rows if self._names.read(row, row + 1) == [name]]


def near(wanted: str, names: TextColumn) -> list[str]:
    """At most three names that may have been meant: another folder or case, or a letter or two.

    Of a very long file, the first half million names are looked at.
    """
    folded = wanted.casefold()
    base = folded.rpartition("/")[2]
    found: list[str] = []
    for start, block in names.blocks(_BLOCK):
        found += [name for name in block if _alike(name.casefold(), folded, base)]
        if len(found) >= _LIKENED or start >= _LOOKED_AT:
            break
    likeness = difflib.SequenceMatcher(b=wanted)

    def rank(name: str) -> float:
        likeness.set_seq1(name)
        return -likeness.ratio()

    return sorted(dict.fromkeys(found[:_LIKENED]), key=rank)[:_NEAR]


def _alike(name: str, wanted: str, base: str) -> bool:
    if name.endswith(base) and name.rpartition("/")[2] == base:
        return True
    shorter = min(len(name), len(wanted))
    if abs(len(name) - len(wanted)) > _TYPOS or shorter <= 2 * _TYPOS:
        return False
    half = shorter // 2 - _TYPOS + 1  # of which one at least is as it should be
    if name[:half] != wanted[:half] and name[-half:] != wanted[-half:]:
        return False
    head = _common(name, wanted)
    tail = _common(name[head:][::-1], wanted[head:][::-1])
    return max(len(name), len(wanted)) - head - tail <= _TYPOS


def _common(one: str, other: str) -> int:
    """Letters that two texts begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def listed(rows: Iterable[int], most: int = 5) -> str:
    """Row numbers for a message."""
    numbers = list(rows)
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
