"""A source, read once: items on the disk, a row of numbers of each in memory."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import SourceError, UnknownNameError, counted
from fashionbatch.shards.index import UNKNOWN, group_id, priorities
from fashionbatch.shards.select import NO_SPLIT
from fashionbatch.shards.spool import Spool, SpoolWriter
from fashionbatch.sources import Failure, Item, Source
from fashionbatch.sources.names import by_value
from fashionbatch.specs import SPLITS

#: the folder of an item's name, for ``--group-by``, where the source has no such column
FOLDER = "folder"
_TELL_EVERY = 10_000


class FailureLog:
    """Failures on the disk, one JSON object per line; there may be millions."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1 << 20)
        self.path = path
        self.count = 0
        self.first: Failure | None = None

    def add(self, failure: Failure) -> None:
        """Appends one."""
        self._file.write(to_line(failure))
        self.count += 1
        self.first = self.first or failure

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def names(self) -> set[str]:
        """Of all that are in the closed file."""
        with self.path.open(encoding="utf-8") as lines:
            return {json.loads(line)["name"] for line in lines}


def to_line(failure: Failure) -> str:
    """A line of ``failures.jsonl``."""
    values = {k: v for k, v in asdict(failure).items() if v is not None}
    return json.dumps(values, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Columns over the ``N`` items of a source, in its order.

    Attributes:
        spool: the items.
        offset: uint64 ``[N]``, of :meth:`fashionbatch.shards.spool.Spool.record`.
        label: int32 ``[N]``, position in ``classes``, or -1.
        split: int8 ``[N]``, position in ``SPLITS``, or -1.
        group: uint64 ``[N]``, see :func:`fashionbatch.shards.index.group_id`.
        priority: uint64 ``[N]``, and a second one, ``order``; from name and seed.
        classes: the labels, sorted, numbers by value.
        types: of the classes that have one.
    """

    spool: Spool
    offset: npt.NDArray[np.uint64]
    label: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]
    group: npt.NDArray[np.uint64]
    priority: npt.NDArray[np.uint64]
    order: npt.NDArray[np.uint64]
    classes: tuple[str, ...]
    types: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.offset)

    def item(self, row: int) -> Item:
        """The item of a row."""
        return self.spool.item(self.spool.record(int(self.offset[row])))

    def taking(self, rows: npt.NDArray[Any]) -> Catalogue:
        """Some of the rows; the classes stay."""
        columns = ("offset", "label", "split", "group", "priority", "order")
        return Catalogue(
            spool=self.spool,
            classes=self.classes,
            types=self.types,
            **{c: getattr(self, c)[rows] for c in columns},
        )


def collect(
    source: Source,
    path: Path,
    failures: FailureLog,
    *,
    seed: int,
    group_by: str | None = None,
    exclude_label: Iterable[str] = (),
    warn: Callable[[str], None] = lambda text: None,
    progress: Callable[[int], None] = lambda count: None,
) -> Catalogue:
    """Reads all items of a source.

    Args:
        source: to read.
        path: of the file to make for the items.
        failures: gets those of the source, and the items that share a name: of these the first is
            kept if all have the same label and split, else none.
        seed: of the priorities.
        group_by: what keeps items together: a name in their metadata, or ``"folder"``.
        exclude_label: labels whose items are left out.
        warn: gets what the user should look at.
        progress: called now and then with the number of items so far.

    Raises:
        SourceError: it has no items.
        UnknownNameError: no item has ``group_by``.
    """
    columns = {c: array(t) for c, t in zip(("label", "split"), "ib", strict=True)} | {
        c: array("Q") for c in ("offset", "group", "priority", "order")
    }
    numbers: dict[str, int] = {}
    excluded = set(exclude_label)
    left_out: Counter[str] = Counter()
    grouping = _Grouping(group_by)
    with SpoolWriter(path) as spool:
        for item in source.items():
            if isinstance(item, Failure):
                failures.add(item)
                continue
            if item.label in excluded:
                left_out[str(item.label)] += 1
                continue
            item = grouping.grouped(item)
            columns["offset"].append(spool.add(item))
            priority, order = priorities(item.name.encode(), seed)
            columns["priority"].append(priority)
            columns["order"].append(order)
            columns["group"].append(group_id(item.group))
            label = item.label
            columns["label"].append(
                UNKNOWN if label is None else numbers.setdefault(label, len(numbers))
            )
            columns["split"].append(_split(item))
            if len(columns["offset"]) % _TELL_EVERY == 0:
                progress(len(columns["offset"]))
    if not columns["offset"]:
        why = ": --exclude-label leaves none" if left_out else ""
        if failures.first is not None:
            line = f", line {failures.first.line}" if failures.first.line else ""
            why = (
                f": {counted(failures.count, 'entry', 'entries')} cannot be used, the first "
                f"({failures.first.name!r}{line}) because {failures.first.reason}"
            )
        raise SourceError(f"the source has no items{why}")
    grouping.check()
    for label in sorted(excluded - left_out.keys()):
        warn(f"--exclude-label {label!r}: no item has this label")
    classes = tuple(sorted(numbers, key=by_value))
    sorted_place = {c: i for i, c in enumerate(classes)}
    # from the order seen; the last place is what -1 reads
    places = np.array([*(sorted_place[c] for c in numbers), UNKNOWN], np.int32)
    made = Catalogue(
        spool=Spool(path),
        label=places[np.frombuffer(columns.pop("label"), np.int32)],
        split=np.frombuffer(columns.pop("split"), np.int8),
        classes=classes,
        types=dict(source.class_types),
        **{c: np.frombuffer(v, np.uint64) for c, v in columns.items()},
    )
    return _without_twins(made, failures)


def _split(item: Item) -> int:
    if item.split is None:
        return NO_SPLIT
    if item.split not in SPLITS:
        raise SourceError(
            f"item {item.name!r} of the source has the split {item.split!r}: it is one of "
            f"{', '.join(SPLITS)}"
        )
    return SPLITS.index(item.split)


class _Grouping:
    """Finds what an item belongs to."""

    def __init__(self, column: str | None) -> None:
        self.column = column
        self.seen: set[str] = set()
        self.found = column is None

    def grouped(self, item: Item) -> Item:
        """The item with its group."""
        if self.column is None:
            return item
        if self.column in item.metadata:
            value = item.metadata[self.column]
            group = None if value in (None, "") else str(value)
        elif self.column == FOLDER:
            group = str(PurePosixPath(item.name).parent)
        else:
            self.seen.update(item.metadata)
            return replace(item, group=None)
        self.found = True
        return replace(item, group=group)

    def check(self) -> None:
        if not self.found:
            assert self.column is not None
            raise UnknownNameError("column of the catalogue", self.column, sorted(self.seen))


def _without_twins(catalogue: Catalogue, failures: FailureLog) -> Catalogue:
    """Leaves out items that share a name with another one; see :func:`collect`."""
    order = np.lexsort((catalogue.order, catalogue.priority))
    same = (np.diff(catalogue.priority[order]) == 0) & (np.diff(catalogue.order[order]) == 0)
    if not same.any():
        return catalogue
    keep = np.ones(len(catalogue), bool)
    borders = np.flatnonzero(np.diff(np.concatenate([[0], same, [0]]).astype(np.int8)))
    for start, end in borders.reshape(-1, 2).tolist():
        rows = order[start : end + 1]  # ascending: the sort is stable
        items = [catalogue.item(row) for row in rows.tolist()]
        agree = len({(i.label, i.split) for i in items}) == 1
        for item, row in list(zip(items, rows.tolist(), strict=True))[agree:]:
            keep[row] = False
            failures.add(
                Failure(name=item.name, stage="source", reason=_twin(items, agree), line=item.line)
            )
    if not keep.any():
        raise SourceError("every name of the source stands for several items of different labels")
    return catalogue.taking(keep)


def _twin(items: Sequence[Item], agree: bool) -> str:
    if agree:
        where = f" in line {items[0].line}" if items[0].line else ""
        return f"listed twice: the first one{where} is kept"
    said = ", ".join(
        (f"line {i.line}: " if i.line else "")
        + "/".join(filter(None, (i.split, repr(i.label) if i.label else "no label")))
        for i in items[:4]
    )
    return f"listed {len(items)} times with different labels or splits ({said}): none is kept"
