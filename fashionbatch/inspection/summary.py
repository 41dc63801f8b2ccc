"""Numbers of a data set, from its index alone: no image is read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import ShardError
from fashionbatch.inspection.leakage import leakage
from fashionbatch.shards.index import EXTENSIONS
from fashionbatch.shards.manifest import UNSPLIT
from fashionbatch.shards.ragged import Ragged
from fashionbatch.shards.read import ShardSet
from fashionbatch.specs import SPLITS

#: reasons of failures that are told, the commonest first
_REASONS = 10
#: rows whose attributes are counted at once
_TOGETHER = 1 << 18
_ATTRIBUTES = 1 << 16  # as many as their positions, uint16, can tell apart

Rows = npt.NDArray[np.int64]


def summarize(shards: ShardSet, rows: Rows, everything: Rows | None = None) -> dict[str, Any]:
    """Counts what a data set holds.

    Args:
        shards: the data set.
        rows: int64 ``[N]``, ascending: the items to count. Failures and damaged shards are told of
            the whole data set.
        everything: the items of all splits, among which leakage is looked for; by default ``rows``.

    Returns:
        JSON values: ``items``, ``labelled``, ``unlabelled``, ``bytes``; then ``splits``,
        ``classes`` (largest first), ``category_types``, ``imbalance``, ``images`` (sizes in pixels
        of the file, before its EXIF orientation; bytes; formats), ``attributes``,
        ``attribute_types``, ``boxes``, ``leakage`` (see
        :func:`fashionbatch.inspection.leakage.leakage`), ``failures``, ``damaged``, ``notes``.

    Raises:
        ShardError: the index or the list of failures is damaged.

    Example:
        >>> shards = open_shards(Path("shards/fashion-mnist"))  # doctest: +SKIP
        >>> summarize(shards, shards.select())["items"]  # doctest: +SKIP
        5500
    """
    label = shards.labels[rows]
    classes = _classes(shards, rows)
    attributes = _attributes(shards, rows)
    labelled = int((label >= 0).sum())
    return {
        "items": len(rows),
        "labelled": labelled,
        "unlabelled": len(rows) - labelled,
        "bytes": int(shards.index.size[rows].sum(dtype=np.int64)),
        "splits": _splits(shards, rows),
        "classes": classes,
        "category_types": _types(classes, "classes", "items"),
        "imbalance": _imbalance(classes),
        "images": _images(shards, rows),
        "attributes": attributes,
        "attribute_types": _types(attributes, "attributes", "positive", "unknown"),
        "boxes": _boxes(shards, rows),
        "leakage": leakage(shards, rows if everything is None else everything),
        "failures": _failures(shards),
        "damaged": [
            {"shard": shard.file, "items": shard.items, "reason": shards.damaged[number]}
            for number, shard in enumerate(shards.manifest.shards)
            if number in shards.damaged
        ],
        "notes": [note for number in sorted(shards.notes) for note in shards.notes[number]],
    }


def _cells(shards: ShardSet, rows: Rows) -> npt.NDArray[np.int64]:
    """Items by split and label: int64 ``[4, C + 1]``, those without the one or the other last."""
    width = len(shards.classes) + 1
    split = shards.splits[rows].astype(np.int64) % (len(SPLITS) + 1)
    counts = np.bincount(
        split * width + shards.labels[rows] % width, minlength=width * (len(SPLITS) + 1)
    )
    return counts.reshape(-1, width)


def _splits(shards: ShardSet, rows: Rows) -> list[dict[str, Any]]:
    cells = _cells(shards, rows)
    split = shards.splits[rows].astype(np.int64) % len(cells)
    sizes = np.bincount(split, weights=shards.index.size[rows], minlength=len(cells))
    return [
        {
            "split": name,
            "items": int(cells[place].sum()),
            "labelled": int(cells[place, :-1].sum()),
            "unlabelled": int(cells[place, -1]),
            "classes": int((cells[place, :-1] > 0).sum()),
            "bytes": int(sizes[place]),
        }
        for place, name in enumerate((*SPLITS, UNSPLIT))
        if cells[place].any()
    ]


def _classes(shards: ShardSet, rows: Rows) -> list[dict[str, Any]]:
    cells = _cells(shards, rows)
    there = [place for place in range(len(cells)) if cells[place].any()]
    names = (*SPLITS, UNSPLIT)
    types = shards.manifest.class_types or (None,) * len(shards.classes)
    totals = cells.sum(axis=0)[:-1]
    return [
        {
            "name": shards.classes[number],
            "type": types[number],
            "items": int(totals[number]),
            "splits": {names[place]: int(cells[place, number]) for place in there},
        }
        for number in np.argsort(-totals, kind="stable").tolist()
    ]


def _types(entries: list[dict[str, Any]], members: str, *counts: str) -> list[dict[str, Any]]:
    """Sums over the entries of each type, the largest first; empty where none has a type.

    Args:
        entries: each with a ``type``.
        members: what the number of a type's entries is called.
        counts: what to sum.
    """
    if not any(entry["type"] for entry in entries):
        return []
    kinds: dict[str | None, dict[str, Any]] = {}
    for entry in entries:
        told = kinds.setdefault(entry["type"], {"type": entry["type"], members: 0})
        told[members] += 1
        for count in counts:
            told[count] = told.get(count, 0) + entry[count]
    return sorted(kinds.values(), key=lambda told: (-told[counts[0]], told["type"] or ""))


def _imbalance(classes: list[dict[str, Any]]) -> dict[str, Any] | None:
    filled = [c for c in classes if c["items"]]
    if not filled:
        return None
    largest, smallest = filled[0], filled[-1]
    return {
        "largest": {"name": largest["name"], "items": largest["items"]},
        "smallest": {"name": smallest["name"], "items": smallest["items"]},
        "ratio": round(largest["items"] / smallest["items"], 3),
        "empty": len(classes) - len(filled),
    }


def _images(shards: ShardSet, rows: Rows) -> dict[str, Any]:
    width = shards.index.width[rows].astype(np.int64)
    height = shards.index.height[rows].astype(np.int64)
    known = (width > 0) & (height > 0)
    width, height = width[known], height[known]
    kinds = Counter[str]()
    counts = np.bincount(shards.index.extension[rows], minlength=len(EXTENSIONS)).tolist()
    for extension, count in zip(EXTENSIONS, counts, strict=True):
        kinds["jpg" if extension == "jpeg" else extension] += count
    return {
        "formats": {kind: count for kind, count in kinds.items() if count},
        "bytes": _spread(shards.index.size[rows]),
        "sizes_unknown": len(rows) - len(width),
        "width": _spread(width),
        "height": _spread(height),
        "megapixels": _spread(width * height / 1e6),
        "portrait": _share(height > width),
        "landscape": _share(width > height),
        "square": _share(width == height),
    }


def _spread(values: npt.NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    measures = (("min", values.min()), ("median", np.median(values)), ("max", values.max()))
    return {name: round(float(value), 6) for name, value in measures}


def _share(chosen: npt.NDArray[np.bool_]) -> float | None:
    return round(float(chosen.mean()), 6) if len(chosen) else None


def _attributes(shards: ShardSet, rows: Rows) -> list[dict[str, Any]]:
    attributes = shards.manifest.attributes
    if not attributes:
        return []
    chosen = None
    if len(rows) < len(shards):
        chosen = np.zeros(len(shards), bool)
        chosen[rows] = True
    positive = _occurrences(shards.index.positive, chosen)
    unknown = _occurrences(shards.index.unknown, chosen)
    if (positive + unknown)[len(attributes) :].any():
        raise ShardError(
            f"{shards.path} has attributes in its index that its manifest does not list: pack the "
            "catalogue again"
        )
    told = [
        {
            "name": attribute.name,
            "type": attribute.type,
            "positive": int(positive[number]),
            "unknown": int(unknown[number]),
        }
        for number, attribute in enumerate(attributes)
    ]
    return sorted(told, key=lambda one: -one["positive"])


def _occurrences(ragged: Ragged, chosen: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
    """How often each number stands in the rows chosen: int64 ``[65536]``."""
    counts = np.zeros(_ATTRIBUTES, np.int64)
    lengths = ragged.lengths
    for start in range(0, len(ragged), _TOGETHER):
        part = slice(start, min(start + _TOGETHER, len(ragged)))
        values = ragged.values[ragged.span(part.start)[0] : ragged.span(part.stop - 1)[1]]
        if chosen is not None:
            values = values[np.repeat(chosen[part], lengths[part])]
        counts += np.bincount(values, minlength=_ATTRIBUTES)
    return counts


def _boxes(shards: ShardSet, rows: Rows) -> dict[str, Any]:
    box = shards.index.box[rows].astype(np.int64)
    width = shards.index.width[rows].astype(np.int64)
    height = shards.index.height[rows].astype(np.int64)
    boxed = box[:, 2] >= 0
    sized = boxed & (width > 0) & (height > 0)
    area = (np.clip(box[:, 2], 0, width) - np.clip(box[:, 0], 0, width)) * (
        np.clip(box[:, 3], 0, height) - np.clip(box[:, 1], 0, height)
    )
    share = area[sized] / (width[sized] * height[sized])
    return {"images": int(boxed.sum()), "area_share": _spread(share)}


def _failures(shards: ShardSet) -> dict[str, Any]:
    """How much of the catalogue is not packed, and why; names in a reason are left out."""
    reasons = Counter[tuple[str, str]]()
    for stage, reason in _reasons(shards):
        reasons[stage, re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "…", reason)] += 1
    return {
        "count": sum(reasons.values()),
        "reasons": [
            {"stage": stage, "reason": reason, "count": count}
            for (stage, reason), count in reasons.most_common(_REASONS)
        ],
    }


def _reasons(shards: ShardSet) -> Iterator[tuple[str, str]]:
    for skipped in shards.skipped.values():
        yield from ((failure.stage, failure.reason) for failure in skipped)
    record = shards.manifest.failures
    if record is None:
        return
    path = shards.folder / record.file
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                failure = json.loads(line)
                yield str(failure["stage"]), str(failure["reason"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{path} cannot be read ({error}): copy it again, or pack the catalogue again"
        ) from error
