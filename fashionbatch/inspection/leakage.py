"""What several splits share, and should not: products, and images with the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.shards.read import ShardSet
from fashionbatch.shards.twins import Twins, find_twins
from fashionbatch.specs import SPLITS

#: the set of an item that belongs to none
ALONE = -1
_EXAMPLES = 5
#: items named of one example
_NAMED = 4

Sets = npt.NDArray[np.int64]


def by_product(group: npt.NDArray[np.uint64]) -> Sets:
    """Numbers the products.

    Args:
        group: uint64 ``[N]``, 0 where there is none.

    Returns:
        int64 ``[N]``, the number of an item's product, or -1.
    """
    sets = np.full(len(group), ALONE, np.int64)
    known = group != 0
    _, sets[known] = np.unique(group[known], return_inverse=True)
    return sets


def by_bytes(twins: Twins, count: int) -> Sets:
    """Numbers the sets of images with the same bytes.

    Args:
        twins: found among ``count`` images.
        count: of images, ``N``.

    Returns:
        int64 ``[N]``, the number of an image's set, or -1 where no other one has its bytes.
    """
    sets = np.full(count, ALONE, np.int64)
    sets[twins.groups.values] = np.repeat(np.arange(len(twins.groups)), twins.groups.lengths)
    return sets


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Sets of items, such as products, seen by split and label.

    Attributes:
        rows: int64 ``[K]``, the items that are in a set, ascending.
        number: int64 ``[K]``, their sets.
        present: bool ``[S, 4]``, whether a set has items in train, val, test, without a split.
        size: int64 ``[S]``, items of a set.
        conflicting: bool ``[S]``, whether its items have different labels, or only some have one.
    """

    rows: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]
    size: npt.NDArray[np.int64]
    conflicting: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, sets: Sets, split: npt.NDArray[np.int8], label: npt.NDArray[np.int32]) -> Shared:
        """From columns over the ``N`` items."""
        rows = np.flatnonzero(sets != ALONE)
        number = sets[rows]
        count = int(number.max(initial=-1)) + 1
        # number -1, no split, is the last column
        present = np.zeros((count, len(SPLITS) + 1), bool)
        present[number, split[rows]] = True
        low = np.full(count, np.iinfo(np.int32).max, np.int32)
        high = np.full(count, -1, np.int32)
        np.minimum.at(low, number, label[rows])
        np.maximum.at(high, number, label[rows])
        return cls(
            rows=rows,
            number=number,
            present=present,
            size=np.bincount(number, minlength=count),
            conflicting=low < high,
        )

    @property
    def across(self) -> npt.NDArray[np.bool_]:
        """bool ``[S]``, whether a set is in several splits."""
        across: npt.NDArray[np.bool_] = self.present.sum(axis=1) > 1
        return across

    def also_in_train(self, split: npt.NDArray[np.int8]) -> dict[str, dict[str, float]]:
        """Of val and test: how many of their items have one of the same set in train."""
        trained = self.present[self.number, 0]
        told: dict[str, dict[str, float]] = {}
        for place, name in enumerate(SPLITS[1:], 1):
            total = int((split == place).sum())
            if total:
                count = int((trained & (split[self.rows] == place)).sum())
                told[name] = {"images": count, "share": round(count / total, 6)}
        return told

    def examples(self, weight: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Rows of a few sets: the heaviest, those of weight 0 left out, then in order.

        Of each set it takes items that differ in split or label, where there are such.
        """
        numbers, first = np.unique(self.number, return_index=True)
        numbers = numbers[np.lexsort((first, -weight[numbers]))][:_EXAMPLES]
        return [self.rows[self.number == n] for n in numbers.tolist() if weight[n]]


def leakage(shards: ShardSet, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """What the splits of a data set share.

    Args:
        shards: the data set.
        rows: int64 ``[N]``, the items to look at.

    Returns:
        ``products``: how many there are, how many are ``in_several_splits``, and the ``images`` of
        these. ``same_bytes``: ``copies``, the images with the bytes of another one, less one of
        each set; those ``within`` one split, ``across`` several, and in ``conflict`` because of
        different labels. Both: ``also_in_train``, the images of val and test that have a relative
        in train, and ``examples``, each a list of ``{"name", "split", "class"}``.
    """
    split, label = shards.splits[rows], shards.labels[rows]
    product = Shared.of(by_product(shards.index.group[rows]), split, label)
    twins = find_twins(shards.index.sha256[rows], split, label)
    same = Shared.of(by_bytes(twins, len(rows)), split, label)

    def named(examples: list[npt.NDArray[np.int64]]) -> list[list[dict[str, str | None]]]:
        return [[_named(shards, row) for row in _telling(shards, rows[e])] for e in examples]

    return {
        "products": {
            "products": len(product.size),
            "in_several_splits": int(product.across.sum()),
            "images": int(product.size[product.across].sum()),
            "also_in_train": product.also_in_train(split),
            "examples": named(product.examples(product.across.astype(np.int64))),
        },
        "same_bytes": {
            "copies": twins.images,
            "within": twins.images - twins.across,
            "across": twins.across,
            "conflict": twins.conflicts,
            "also_in_train": same.also_in_train(split),
            "examples": named(same.examples(1 + same.across + 2 * same.conflicting)),
        },
    }


def _telling(shards: ShardSet, rows: npt.NDArray[np.int64]) -> list[int]:
    """A few of a set's rows: of each split and label the first, or just the first two."""
    kind = (shards.splits[rows].astype(np.int64) << 32) + shards.labels[rows]
    first = np.sort(np.unique(kind, return_index=True)[1])
    chosen: list[int] = rows[first if len(first) > 1 else slice(2)][:_NAMED].tolist()
    return chosen


def _named(shards: ShardSet, row: int) -> dict[str, str | None]:
    split, label = int(shards.splits[row]), int(shards.labels[row])
    return {
        "name": shards.name(row),
        "split": SPLITS[split] if split >= 0 else None,
        "class": shards.classes[label] if label >= 0 else None,
    }
