"""From a catalogue to the list of shards that are to be written, before any image is read."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import SourceError, UsageError, counted
from fashionbatch.shards.catalogue import Catalogue
from fashionbatch.shards.manifest import UNSPLIT
from fashionbatch.shards.select import (
    NO_SPLIT,
    Selection,
    assign,
    check_vocabulary,
    choose,
)
from fashionbatch.specs import SPLITS


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write.

    Attributes:
        file: its name.
        split: of all its items.
        key: number of its first item; the others count on from it.
        offset: uint64 ``[N]``, of the items in the spool, in order.
        group: uint64 ``[N]``, of the items.
    """

    file: str
    split: str | None
    key: int
    offset: npt.NDArray[np.uint64]
    group: npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Shards to write, and the vocabulary of their labels.

    Attributes:
        tasks: in the order of the data set.
        classes, class_types: see :class:`fashionbatch.shards.manifest.Manifest`.
        shares: of the splits that were drawn; ``None`` where they are the source's own.
        warnings: for the user.
    """

    tasks: tuple[ShardTask, ...]
    classes: tuple[str, ...]
    class_types: tuple[str | None, ...]
    shares: Mapping[str, float] | None
    warnings: tuple[str, ...] = ()

    @property
    def items(self) -> int:
        """Of all shards."""
        return sum(len(task.offset) for task in self.tasks)


@dataclass(frozen=True, kw_only=True)
class Before:
    """What a data set holds already, to which a plan adds.

    Attributes:
        classes, class_types: its vocabulary, whose positions stay.
        keys: the first free key.
        shards: how many of each split.
        groups: from the group of a packed item to the number of its split.
        present: ``(label, split)`` of the packed items, by their numbers.
        own_splits: its splits are those of its source, and none are drawn.
    """

    classes: tuple[str, ...] = ()
    class_types: tuple[str | None, ...] = ()
    keys: int = 0
    shards: Mapping[str | None, int] | None = None
    groups: Mapping[int, int] | None = None
    present: frozenset[tuple[int, int]] = frozenset()
    own_splits: bool = False


def make(
    catalogue: Catalogue,
    *,
    selection: Selection,
    split: Mapping[str, float] | None,
    default_split: Mapping[str, float],
    by_group: bool,
    allow_missing_classes: bool,
    samples_per_shard: int,
    before: Before | None = None,
    allow_new_classes: bool = True,
    distinct: Callable[[Catalogue], Catalogue] = lambda catalogue: catalogue,
) -> Plan:
    """Plans the shards of a catalogue.

    Args:
        catalogue: all there is.
        selection: what of it to pack.
        split: shares of the splits, in place of the source's own; or, without ``train``, to be
            taken out of the source's own train split.
        default_split: shares for labelled items whose source has no splits.
        by_group: items of one group go into one split.
        allow_missing_classes: accept a class that is not in the source's own train split.
        samples_per_shard: most items of a shard.
        before: what is packed already.
        allow_new_classes: accept classes that ``before`` lacks.
        distinct: leaves out what is there twice, of the classes that are selected.

    Raises:
        SourceError: no items remain, or a class is in other splits than train only.
        UsageError: groups are to be kept together, but the splits are the source's own; or new
            classes.
    """
    before = before or Before()
    kept, catalogue = _vocabulary(catalogue, selection)
    if len(catalogue):
        kept, catalogue = _used(kept, distinct(catalogue))
    if not len(catalogue):
        if before.keys:  # nothing is new
            return Plan(tasks=(), classes=before.classes, class_types=(), shares=None)
        raise SourceError("the selection leaves no items")
    counts = {n: int((catalogue.split == i).sum()) for i, n in enumerate(SPLITS)}
    own = any(counts.values()) or before.own_splits
    warnings = [*_alike(kept)]
    shares = split or (default_split if kept and not own else None) or None
    if shares is None:
        if by_group:
            raise UsageError(
                "--group-by keeps groups together when splits are drawn, but these are the "
                "source's own: add --split, such as --split train=0.8,val=0.1,test=0.1"
                if own
                else "--group-by keeps groups together when splits are drawn: add --split"
            )
        warnings += check_vocabulary(
            kept,
            *_with_packed(kept, catalogue, before),
            allow_missing=allow_missing_classes,
        )
    elif "train" not in shares:
        catalogue = _carve(catalogue, shares, counts, by_group)
    else:
        if any(counts.values()):
            found = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
            warnings.append(
                f"all splits are drawn anew: those of the source ({found}) are not kept; "
                "--split val=0.1 would take a share of train and keep the others"
            )
        catalogue = _split(catalogue, shares, by_group, before.groups or {})
    for name in selection.limit_per_split:
        if not (catalogue.split == SPLITS.index(name)).any():
            raise UsageError(f"--limit-per-split {name}: no item of the catalogue is in {name}")
    rows = choose(
        selection,
        label=catalogue.label,
        split=catalogue.split,
        priority=lambda chosen: catalogue.priority[chosen],
    )
    catalogue = catalogue.taking(rows)
    kept, catalogue = _used(kept, catalogue)
    classes, types, catalogue = _joined(kept, catalogue, before, allow_new_classes)
    return Plan(
        tasks=tuple(_tasks(catalogue, samples_per_shard, before)),
        classes=classes,
        class_types=types,
        shares=shares,
        warnings=tuple(warnings),
    )


def _vocabulary(catalogue: Catalogue, selection: Selection) -> tuple[tuple[str, ...], Catalogue]:
    """The classes selected, and the items of these."""
    types = [catalogue.types.get(c) for c in catalogue.classes]
    kept = selection.vocabulary(catalogue.classes, types, "the catalogue")
    if kept == catalogue.classes:
        return kept, catalogue
    places = {c: i for i, c in enumerate(catalogue.classes)}
    wanted = np.isin(catalogue.label, [places[c] for c in kept])
    return _used(kept, catalogue.taking(wanted))


def _used(kept: Iterable[str], catalogue: Catalogue) -> tuple[tuple[str, ...], Catalogue]:
    """The classes that have an item, with labels counted in these."""
    counts = np.bincount(catalogue.label[catalogue.label >= 0], minlength=len(catalogue.classes))
    filled = {c for c, count in zip(catalogue.classes, counts.tolist(), strict=True) if count}
    used = tuple(c for c in kept if c in filled)
    return used, relabelled(catalogue, used)


def _with_packed(
    kept: tuple[str, ...], catalogue: Catalogue, before: Before
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Labels (in ``kept``) and splits of what is new and of what is packed already."""
    places = {c: i for i, c in enumerate(kept)}
    packed = [
        (places[before.classes[label]], split)
        for label, split in sorted(before.present)
        if label >= 0 and before.classes[label] in places
    ]
    table = np.array(packed, np.int32).reshape(-1, 2)
    label = np.concatenate([catalogue.label, table[:, 0]])
    return label, np.concatenate([catalogue.split, table[:, 1].astype(np.int8)])


def relabelled(catalogue: Catalogue, classes: tuple[str, ...]) -> Catalogue:
    """Labels as positions in another vocabulary that holds all that are used."""
    if classes == catalogue.classes:
        return catalogue
    places = {c: i for i, c in enumerate(classes)}
    table = np.array([*(places.get(c, -1) for c in catalogue.classes), -1], np.int32)
    return Catalogue(
        **{**vars(catalogue), "label": table[catalogue.label], "classes": classes},
    )


def _joined(
    kept: tuple[str, ...], catalogue: Catalogue, before: Before, allow_new: bool
) -> tuple[tuple[str, ...], tuple[str | None, ...], Catalogue]:
    new = tuple(c for c in kept if c not in before.classes)
    if new and before.keys and not allow_new:
        raise UsageError(
            f"{counted(len(new), 'class is', 'classes are')} new ({new[0]!r}): is it misspelt? "
            "Mend it, or accept it with --allow-new-classes"
        )
    classes = (*before.classes, *new)
    old = before.class_types or (None,) * len(before.classes)
    types = (*old, *(catalogue.types.get(c) for c in new))
    return classes, types if any(types) else (), relabelled(catalogue, classes)


def _split(
    catalogue: Catalogue, shares: Mapping[str, float], by_group: bool, groups: Mapping[int, int]
) -> Catalogue:
    split = np.full(len(catalogue), NO_SPLIT, np.int8)
    if by_group and groups:  # a product that is packed already decides for its new photographs
        split = np.array([groups.get(g, NO_SPLIT) for g in catalogue.group.tolist()], np.int8)
    free = np.flatnonzero(split == NO_SPLIT)
    split[free] = assign(
        shares,
        label=catalogue.label[free],
        group=catalogue.group[free] if by_group else None,
        priority=catalogue.priority[free],
    )
    return Catalogue(**{**vars(catalogue), "split": split})


def _carve(
    catalogue: Catalogue, shares: Mapping[str, float], counts: Mapping[str, int], by_group: bool
) -> Catalogue:
    """Takes splits out of the source's own train; the others stay."""
    for name in shares:
        if counts[name] or not counts["train"]:
            why = f"has {name} already" if counts[name] else "has no train split to take it from"
            raise UsageError(f"--split {name}=...: the catalogue {why}: name train=... too")
    split = catalogue.split.copy()
    rows = np.flatnonzero(split == SPLITS.index("train"))
    split[rows] = assign(
        {"train": 1 - sum(shares.values()), **shares},
        label=catalogue.label[rows],
        group=catalogue.group[rows] if by_group else None,
        priority=catalogue.priority[rows],
    )
    return Catalogue(**{**vars(catalogue), "split": split})


def _tasks(catalogue: Catalogue, samples_per_shard: int, before: Before) -> Iterable[ShardTask]:
    key = before.keys
    for number in (*range(len(SPLITS)), NO_SPLIT):
        rows = np.flatnonzero(catalogue.split == number)
        split = None if number == NO_SPLIT else SPLITS[number]
        if split == "train":  # streaming readers get the classes mixed
            rows = rows[np.argsort(catalogue.order[rows], kind="stable")]
        first = (before.shards or {}).get(split, 0)
        for place, start in enumerate(range(0, len(rows), samples_per_shard), first):
            mine = rows[start : start + samples_per_shard]
            yield ShardTask(
                file=f"{split or UNSPLIT}-{place:06d}.tar",
                split=split,
                key=key,
                offset=catalogue.offset[mine],
                group=catalogue.group[mine],
            )
            key += len(mine)


def _alike(classes: Iterable[str]) -> Iterable[str]:
    """Classes that are probably the same one, written differently."""
    seen: dict[str, str] = {}
    for name in classes:
        plain = unicodedata.normalize("NFC", name)
        other = seen.setdefault(" ".join(plain.casefold().split()), name)
        if other != name:
            if unicodedata.normalize("NFC", other) == plain:
                yield f"the classes {other!a} and {name!a} differ only in their Unicode form"
            else:
                yield f"the classes {other!r} and {name!r} differ only in case or blanks"
