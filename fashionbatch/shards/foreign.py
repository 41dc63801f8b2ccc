"""Tar files made elsewhere, as a data set: scanned on first use, then read by their index.

The index is kept in the user's cache, not beside files that may be another's; it is made again when
a file's size or time of change differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.errors import ShardError
from fashionbatch.shards.index import UNKNOWN, Index, IndexRow
from fashionbatch.shards.manifest import Manifest, ShardRecord
from fashionbatch.sources import Failure
from fashionbatch.sources.tar import Scan, scan
from fashionbatch.sources.webdataset import split_of, tars

#: goes up when the scanner finds other things in the same file
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What was found.

    Attributes:
        manifest: as if we had made it; a damaged shard has no items.
        index: the images.
        damaged: from a shard's number to what is wrong with it.
        skipped: from a shard's number to what is in it and cannot be used.
        notes: from a shard's number to what is worth knowing.
    """

    manifest: Manifest
    index: Index
    damaged: Mapping[int, str] = field(default_factory=dict)
    skipped: Mapping[int, tuple[Failure, ...]] = field(default_factory=dict)
    notes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def index_foreign(path: Path) -> Foreign:
    """Finds the images of a tar file, or of those in a folder.

    Labels are the texts or numbers that the samples have, sorted, numbers by value; splits are
    those that a tar file or its folder is named after.
    """
    found = tars(path)
    state = [(name, p.stat().st_size, p.stat().st_mtime_ns) for name, p in found]
    key = files.fingerprint([_VERSION, str(path.resolve()), state])
    stem = files.cache_folder() / "shards" / key
    known = _load(stem)
    if known is None:
        known = _scan(path, found)
        _save(stem, known)
    return known


def _scan(path: Path, found: list[tuple[str, Path]]) -> Foreign:
    scans: list[Scan | None] = []
    records: list[ShardRecord] = []
    damaged: dict[int, str] = {}
    for number, (name, tar) in enumerate(found):
        try:
            scanned: Scan | None = scan(tar)
            sha256 = files.sha256(tar)
        except ShardError as error:
            damaged[number] = str(error)
            scanned, sha256 = None, ""
        scans.append(scanned)
        records.append(
            ShardRecord(
                file=name,
                split=split_of(name),
                items=len(scanned.samples) if scanned else 0,
                bytes=tar.stat().st_size,
                sha256=sha256,
            )
        )
    labels = {s.label for scanned in scans if scanned for s in scanned.samples} - {None}
    classes = sorted((str(label) for label in labels), key=_by_value)
    places = {name: i for i, name in enumerate(classes)}
    index = Index.joined(
        [
            Index.of(
                [
                    IndexRow(
                        key=s.key,
                        name=s.name,
                        shard=number,
                        offset=s.offset,
                        size=s.size,
                        label=UNKNOWN if s.label is None else places[s.label],
                        sha256=s.sha256,
                        extension=s.extension,
                    )
                    for s in scanned.samples
                ]
            )
            for number, scanned in enumerate(scans)
            if scanned
        ]
    )
    manifest = Manifest(
        name=path.resolve().name.removesuffix(".tar"),
        classes=tuple(classes),
        items=len(index),
        failed=sum(len(s.failures) for s in scans if s),
        shards=tuple(records),
    )
    return Foreign(
        manifest=manifest,
        index=index,
        damaged=damaged,
        skipped={i: tuple(s.failures) for i, s in enumerate(scans) if s and s.failures},
        notes={i: tuple(s.notes) for i, s in enumerate(scans) if s and s.notes},
    )


def _by_value(label: str) -> tuple[int, int, str]:
    """Numbers by value, then texts."""
    number = label.isascii() and label.isdecimal() and len(label) < 19
    return (0, int(label), label) if number else (1, 0, label)


def _save(stem: Path, foreign: Foreign) -> None:
    values = {
        "manifest": asdict(foreign.manifest),
        "damaged": list(foreign.damaged.items()),
        "skipped": [(n, [asdict(f) for f in v]) for n, v in foreign.skipped.items()],
        "notes": list(foreign.notes.items()),
    }
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        foreign.index.save(stem.with_suffix(".h5"))
        files.write_json(stem.with_suffix(".json"), values)  # last: it says that both are there
    except OSError:
        pass  # no room or no permission: it is scanned again next time


def _load(stem: Path) -> Foreign | None:
    try:
        values: dict[str, Any] = json.loads(stem.with_suffix(".json").read_bytes())
        index = Index.load(stem.with_suffix(".h5"))
        about = values["manifest"]
        about["shards"] = tuple(ShardRecord(**s) for s in about["shards"])
        for name in ("classes", "class_types", "attributes"):
            about[name] = tuple(about[name])
        return Foreign(
            manifest=Manifest(**about),
            index=index,
            damaged=dict(values["damaged"]),
            skipped={n: tuple(Failure(**f) for f in v) for n, v in values["skipped"]},
            notes={n: tuple(v) for n, v in values["notes"]},
        )
    except (OSError, ValueError, KeyError, TypeError, ShardError):
        return None  # not there, or damaged: scanned again
