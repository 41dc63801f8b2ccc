"""Checks a data set of ours: each of its files, and each image in its shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from fashionbatch.address import Location
from fashionbatch.errors import RemoteError, ShardError
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import MANIFEST, FileRecord, Manifest
from fashionbatch.shards.threads import in_order
from fashionbatch.shards.verification.findings import AGAIN, NOTE, REFUSED, Finding, Report, Tell
from fashionbatch.shards.verification.index import index_fault
from fashionbatch.shards.verification.shard import Shards
from fashionbatch.shards.verification.stream import opened, why
from fashionbatch.sources.base import to_text


def verify_dataset(path: Location, workers: int, tell: Tell) -> Report:
    """Compares all files with the manifest; see :mod:`fashionbatch.shards.verification.verify`.

    Raises:
        MissingError: there is none at an address.
        RemoteError: a host cannot be reached, or refuses.
    """
    copies = _Copies(path)
    try:
        manifest = Manifest.load(copies.folder)
    except ShardError as error:
        found = Finding(shard=MANIFEST, severity=REFUSED, reason=str(error))
        return Report(path=path, findings=(found,))
    findings = [
        Finding(shard=MANIFEST, reason=f"{reason}: {AGAIN}")
        for reason in _manifest_faults(manifest)
    ]
    index, faults = _check_index(copies, manifest)
    findings += faults + _check_failures(copies, manifest)
    tell("start", {"bytes": sum(s.bytes for s in manifest.shards)})
    shards = Shards(path, manifest, index)
    size = 0
    for checked in in_order(shards.check, range(len(manifest.shards)), workers):
        tell("progress", {"bytes": checked.bytes})
        size += checked.bytes
        findings += checked.findings
    return Report(
        path=path,
        items=sum(s.items for s in manifest.shards),
        shards=len(manifest.shards),
        bytes=size,
        findings=(*findings, *_unlisted(path, manifest)),
    )


class _Copies:
    """The small files of a data set on this disk: where they lie, or fetched."""

    def __init__(self, path: Location) -> None:
        self.path = path
        if isinstance(path, Path):
            self.folder = path
        else:
            from fashionbatch.remote.mirror import Mirror

            self._mirror = Mirror(path, MANIFEST)
            self.folder = self._mirror.folder

    def file(self, record: FileRecord) -> Path:
        if isinstance(self.path, Path):
            return self.path / record.file
        return self._mirror.file(record.file, record.sha256)


def _manifest_faults(manifest: Manifest) -> Iterator[str]:
    numbers = (manifest.items, manifest.failed, manifest.keys)
    if not all(isinstance(n, int) for n in numbers):
        yield "items, failed or keys is no number"
    elif sum(s.items for s in manifest.shards) != manifest.items:
        yield f"the items of its shards do not add up to {manifest.items}"
    if not isinstance(manifest.name, str):
        yield "the name is no text"


def _unlisted(path: Location, manifest: Manifest) -> Iterator[Finding]:
    listed = {s.file for s in manifest.shards}
    for name in _tars(path):
        if name not in listed:
            reason = f"{MANIFEST} does not list it: it is not read; delete it if it is not needed"
            yield Finding(shard=name, severity=NOTE, reason=reason)


def _tars(path: Location) -> list[str]:
    """Names of the tar files in a folder; of none that cannot be listed."""
    if isinstance(path, Path):
        return sorted(to_text(p.name) for p in path.glob("*.tar"))
    if not path.has_bucket:
        return []
    from fashionbatch.remote import client

    return [one.path.rpartition("/")[2] for one in client.find(path / "*.tar")]


def _check_index(copies: _Copies, manifest: Manifest) -> tuple[Index | None, list[Finding]]:
    """The index, if it can be trusted; without it shards are only compared with their hashes."""
    assert manifest.index is not None
    file = manifest.index.file
    reason = _record_fault(copies.path, manifest.index)
    if reason is not None:
        return None, [Finding(shard=file, reason=reason)]
    try:
        index = Index.load(copies.file(manifest.index))
        index.to_arrays()  # loads all columns, before there are threads
        reason = index_fault(index, manifest)
    except ShardError as error:
        return None, [Finding(shard=file, severity=REFUSED, reason=str(error))]
    if reason is not None:
        return None, [Finding(shard=file, reason=f"{reason}: pack the catalogue again")]
    return index, []


def _record_fault(path: Location, record: FileRecord) -> str | None:
    """Why a file is not the one that the manifest states."""
    try:
        with opened(path / record.file) as stream:
            sha256 = stream.finish()
    except (OSError, ValueError, RemoteError) as error:
        return f"cannot be read ({why(error)}): {AGAIN}"
    if sha256 != record.sha256:
        return f"its SHA-256 is not the one that {MANIFEST} states: {AGAIN}"
    return None


def _check_failures(copies: _Copies, manifest: Manifest) -> list[Finding]:
    assert manifest.failures is not None
    file = manifest.failures.file
    reason = _record_fault(copies.path, manifest.failures)
    if reason is None:
        reason = _failures_fault(copies.file(manifest.failures), manifest.failed)
    return [Finding(shard=file, reason=reason)] if reason else []


def _failures_fault(path: Path, failed: int) -> str | None:
    count = 0
    with path.open("rb") as lines:
        for count, line in enumerate(lines, 1):
            try:
                whole = {"name", "stage", "reason"} <= dict(json.loads(line)).keys()
            except (ValueError, TypeError, RecursionError):
                whole = False
            if not whole:
                return f"line {count} is no failure: pack the catalogue again"
    if count != failed:
        return f"it has {count} lines, {MANIFEST} states {failed} failures: {AGAIN}"
    return None
