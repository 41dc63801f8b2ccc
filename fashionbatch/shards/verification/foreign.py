"""Checks tar files made elsewhere, against what the first scan has found in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fashionbatch.address import Location
from fashionbatch.shards.foreign import Foreign, cached, scan_foreign
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import MANIFEST
from fashionbatch.shards.verification.findings import (
    AGAIN,
    NOTE,
    REFUSED,
    SKIPPED,
    Finding,
    Report,
    Tell,
)


def verify_foreign(path: Location, workers: int, tell: Tell) -> Report:
    """Scans the tar files; see :func:`fashionbatch.shards.verification.verify.verify`."""
    before = cached(path)
    now = scan_foreign(path, workers=workers, tell=tell)
    shards = now.manifest.shards
    numbers = {s.file: i for i, s in enumerate(before.manifest.shards)} if before else {}
    findings = [*_lost_manifest(path)]
    for number, shard in enumerate(shards):
        if before is not None and shard.file in numbers:
            findings += _changes(before, numbers[shard.file], now, number)
        findings += _findings(now, number)
    return Report(
        path=path,
        items=now.manifest.items,
        shards=len(shards),
        bytes=sum(s.bytes for i, s in enumerate(shards) if i not in now.damaged),
        findings=tuple(findings),
    )


def _lost_manifest(path: Location) -> Iterator[Finding]:
    if not isinstance(path, Path):
        return  # a data set is looked for before tar files are
    if any(path.glob("index*.h5")) and any(path.glob("failures*.jsonl")):
        reason = f"is missing, though the other files of a data set are here: {AGAIN}"
        yield Finding(shard=MANIFEST, severity=REFUSED, reason=reason)


def _changes(before: Foreign, then: int, now: Foreign, number: int) -> Iterator[Finding]:
    """In what a file is not what it was; the cache knows it by its time, which is the same."""
    old, shard = before.manifest.shards[then], now.manifest.shards[number]
    if then in before.damaged or number in now.damaged or old.sha256 == shard.sha256:
        return
    reason = (
        "its bytes have changed since the first scan, and the file's time did not: copy it again"
    )
    yield Finding(shard=shard.file, reason=reason)
    index = now.index
    images = {index.key[row]: index.sha256[row].tobytes() for row in _rows(index, number)}
    for row in _rows(before.index, then):
        key = before.index.key[row]
        if images.get(key) != before.index.sha256[row].tobytes():
            yield Finding(shard=shard.file, key=key, name=before.index.name[row], reason=reason)


def _findings(now: Foreign, number: int) -> Iterator[Finding]:
    name = now.manifest.shards[number].file
    if number in now.damaged:
        yield Finding(shard=name, severity=REFUSED, reason=now.damaged[number])
    for failure in now.skipped.get(number, ()):
        yield Finding(shard=name, severity=SKIPPED, name=failure.name, reason=failure.reason)
    for note in now.notes.get(number, ()):
        yield Finding(shard=name, severity=NOTE, reason=note)


def _rows(index: Index, number: int) -> range:
    return range(*np.searchsorted(index.shard, [number, number + 1]).tolist())
