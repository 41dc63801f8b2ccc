"""Which items of a catalogue or data set: by class, type, number, share; and into which split.

Everything random goes by an item's priority (:func:`fashionbatch.shards.index.priorities`), a fixed
number drawn from its name and the seed. So a choice does not depend on the order of the catalogue,
and the same options choose the same items when a catalogue is packed and when shards are read.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import SourceError, UnknownNameError, UsageError, counted
from fashionbatch.specs import SPLITS

#: where an item has no split; else its split is a position in SPLITS
NO_SPLIT = -1
_NAMED = 5  # classes that a warning names

Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]
Splits = npt.NDArray[np.int8]
Priorities = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to choose; applied in this order.

    Attributes:
        classes: only items of these; empty for all, unlabelled ones included.
        category_type: only items of classes of these types.
        fraction: of each class in each split, rounded up; above 0, at most 1.
        per_class: most items of each class in each of the splits that are capped.
        limit_per_split: most items of a split, drawn from all classes alike.
        seed: of the draw.
    """

    classes: tuple[str, ...] = ()
    category_type: tuple[str, ...] = ()
    fraction: float = 1.0
    per_class: int | None = None
    limit_per_split: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self == Selection(seed=self.seed)

    def vocabulary(
        self, classes: Sequence[str], types: Sequence[str | None], where: object
    ) -> tuple[str, ...]:
        """The classes that remain, in their order.

        Args:
            classes: that there are.
            types: theirs; empty where they have none.
            where: what they are the classes of, for messages.

        Raises:
            UnknownNameError: a class or type that there is not.
            UsageError: a type where classes have none; or no class remains.
        """
        for name in self.classes:
            if name not in classes:
                raise UnknownNameError(f"class of {where}", name, classes)
        known = sorted({t for t in types if t})
        for name in self.category_type:
            if not known:
                raise UsageError(f"--category-type {name}: the classes of {where} have no types")
            if name not in known:
                raise UnknownNameError(f"category type of {where}", name, known)
        kept = tuple(
            c
            for i, c in enumerate(classes)
            if (not self.classes or c in self.classes)
            and (not self.category_type or types[i] in self.category_type)
        )
        if not kept and (self.classes or self.category_type):
            raise UsageError(
                f"no class of {where} is one of --classes and of --category-type: drop one of them"
            )
        return kept


def choose(
    selection: Selection,
    *,
    label: Labels,
    split: Splits,
    priority: Callable[[Rows], Priorities],
    capped: Sequence[str | None] = (None, "train"),
) -> Rows:
    """The items that a selection keeps, its classes and types aside.

    Args:
        selection: what to choose.
        label: int32 ``[N]``, -1 where unlabelled: these count as one more class.
        split: int8 ``[N]``, positions in :data:`SPLITS`, or -1.
        priority: gives uint64 ``[K]`` of ``K`` rows; only called where something is drawn.
        capped: the splits in which ``per_class`` holds; ``None`` stands for no split. The paper
            caps the training images and leaves the others.

    Returns:
        int64 ``[K]``, ascending.
    """
    rows = np.arange(len(label), dtype=np.int64)
    if selection.fraction >= 1 and selection.per_class is None and not selection.limit_per_split:
        return rows
    drawn = priority(rows)
    # of each class in each split
    if selection.fraction < 1 or selection.per_class is not None:
        cell = (split.astype(np.int64) + 1) * (int(label.max(initial=0)) + 2) + label + 1
        rank, size = _rank(cell, drawn)
        # a share of 0.07 of 100 is 7, not the 8 that floating point makes of it
        most = np.ceil(np.round(size * selection.fraction, 9)).astype(np.int64)
        if selection.per_class is not None:
            numbers = [NO_SPLIT if s is None else SPLITS.index(s) for s in capped]
            held = np.isin(split, numbers)
            most = np.where(held, np.minimum(most, selection.per_class), most)
        rows = rows[rank < most]
    for name, limit in selection.limit_per_split.items():
        mine = split[rows] == SPLITS.index(name)
        rank, _ = _rank(np.zeros(int(mine.sum()), np.int64), drawn[rows[mine]])
        keep = ~mine
        keep[mine] = rank < limit
        rows = rows[keep]
    return rows


def _rank(cell: npt.NDArray[np.int64], priority: Priorities) -> tuple[Rows, Rows]:
    """Of each item its place by priority among those of its cell, and how many these are."""
    order = np.lexsort((priority, cell))
    ordered = cell[order]
    first = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    sizes = np.diff(np.append(first, len(cell)))
    rank = np.empty(len(cell), np.int64)
    rank[order] = np.arange(len(cell)) - np.repeat(first, sizes)
    size = np.empty(len(cell), np.int64)
    size[order] = np.repeat(sizes, sizes)
    return rank, size


def assign(
    shares: Mapping[str, float],
    *,
    label: Labels,
    group: npt.NDArray[np.uint64] | None,
    priority: Priorities,
) -> Splits:
    """Deals items out to the splits, each class alike.

    Without groups, each class has its share in each split to the nearest item, and at least one to
    train on. With groups, whole groups are dealt, the largest first, by chance, in proportion to
    what each split still lacks; so shares are met as nearly as the groups allow.

    Args:
        shares: of the splits; they add up to 1.
        label: int32 ``[N]``, -1 where unlabelled.
        group: uint64 ``[N]``, 0 where an item stands for itself; ``None`` for no groups.
        priority: uint64 ``[N]``.

    Returns:
        int8 ``[N]``, positions in :data:`SPLITS`.
    """
    names = sorted(shares, key=SPLITS.index)
    numbers = np.array([SPLITS.index(n) for n in names], np.int8)
    if group is not None:
        dealt = _deal(np.array([shares[n] for n in names]), label, group, priority)
        return np.asarray(numbers[dealt], np.int8)
    rank, size = _rank(label.astype(np.int64), priority)
    ends = np.cumsum([shares[n] for n in names])
    borders = np.maximum(np.floor(np.round(ends[:, None] * size[None, :], 9) + 0.5), 1)
    # the last border is all of them, whatever the shares add up to in floating point
    place = (rank[None, :] >= borders[:-1]).sum(axis=0)
    return np.asarray(numbers[place], np.int8)


def _deal(
    shares: npt.NDArray[np.float64],
    label: Labels,
    group: npt.NDArray[np.uint64],
    priority: Priorities,
) -> npt.NDArray[np.int64]:
    ids = np.where(group == 0, priority, group)  # an item without a group is one of its own
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    # a random number of the group, whatever the order of its items: their sum, modulo 2**64
    drawn = np.zeros(len(counts), np.uint64)
    np.add.at(drawn, inverse, priority)
    column = label + 1
    totals = np.bincount(column, minlength=int(column.max(initial=0)) + 1)
    lacking = (shares[:, None] * totals).tolist()  # lists: numpy is slow one number at a time
    trained = [False] * len(totals)
    chosen = np.empty(len(counts), np.int64)
    members = column[np.argsort(inverse, kind="stable")].tolist()
    starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
    chances = (drawn / 2**64).tolist()
    for number in np.lexsort((drawn, -counts)).tolist():
        held = Counter(members[starts[number] : starts[number + 1]])
        # nothing can be learned of a class that is not in train
        choice = _draw(lacking, held, chances[number]) if all(trained[c] for c in held) else 0
        chosen[number] = choice
        for c, count in held.items():
            trained[c] |= choice == 0
            lacking[choice][c] -= count
    return np.asarray(chosen[inverse], np.int64)


def _draw(lacking: list[list[float]], held: Mapping[int, int], chance: float) -> int:
    """The split of a group: by chance, in proportion to what each split lacks.

    Always taking the split that lacks most would leave only small groups to the small splits. A
    split that would get more over its share than it lacks is passed over.

    Args:
        lacking: items that each split lacks of each class.
        held: items of the group, by class.
        chance: from 0 to 1.
    """
    weights = []
    for lacks in lacking:
        useful = sum(min(max(lacks[c], 0.0), count) for c, count in held.items())
        fits = 2 * useful >= sum(held.values())
        weights.append(sum(max(lacks[c], 0.0) * n for c, n in held.items()) if fits else 0.0)
    ends = list(itertools.accumulate(weights))
    if not ends[-1]:
        rest = [sum(lacks[c] for c in held) for lacks in lacking]
        return rest.index(max(rest))
    return bisect.bisect_right(ends, chance * ends[-1], hi=len(ends) - 1)


def check_vocabulary(
    classes: Sequence[str], label: Labels, split: Splits, *, allow_missing: bool
) -> list[str]:
    """Compares the classes of a source's own splits.

    Returns:
        warnings: classes that a split other than train lacks.

    Raises:
        SourceError: a class that is in a split but not in train: no model could learn it, and it
            is often a misnamed folder.
    """
    present = {
        name: np.bincount(label[(split == i) & (label >= 0)], minlength=len(classes)) > 0
        for i, name in enumerate(SPLITS)
        if (split == i).any()
    }
    if not present or not classes:
        return []
    if "train" not in present:
        return [f"there are no images to train on, only {' and '.join(present)}"]
    lacks: dict[str, list[str]] = {name: [] for name in present}
    for number, name in enumerate(classes):
        where = [s for s, has in present.items() if has[number]]
        lacking = [s for s in present if s not in where]
        if "train" in lacking and where and not allow_missing:
            raise SourceError(
                f"class {name!r} is in {', '.join(where)} but not in train: is it misnamed? Mend "
                "it, split anew with --split, or accept it with --allow-missing-classes"
            )
        for lacked in lacking if where else ():
            lacks[lacked].append(name)
    return [
        f"{counted(len(names), 'class is', 'classes are')} not in {lacked}: "
        f"{', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
        for lacked, names in lacks.items()
        if names
    ]
