"""Damage done to data sets, and what ``verify`` says of it."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import ShardSet
from fashionbatch.shards.verification.findings import (
    DAMAGED,
    REFUSED,
    Finding,
    Report,
)


def make_tar(path: Path, content: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def flip(path: Path, byte: int, bit: int = 0, *, keep_time: bool = False) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def damages(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.severity in (DAMAGED, REFUSED)]


def only(report: Report, *words: str) -> Finding:
    """The one finding, which says what is wrong in one line."""
    (found,) = report.findings
    assert not report.ok
    assert "\n" not in found.reason
    for word in words:
        assert word in found.reason, found.reason
    return found


def signed(folder: Path, **changes: Any) -> None:
    """Makes the manifest state the files as they are now: the work of a writer with a bug."""
    manifest = replace(Manifest.load(folder), **changes)
    assert manifest.index is not None and manifest.failures is not None

    def record(old: Any) -> Any:
        data = (folder / old.file).read_bytes()
        size = {"bytes": len(data)} if hasattr(old, "bytes") else {}
        return replace(old, sha256=hashlib.sha256(data).hexdigest(), **size)

    replace(
        manifest,
        shards=tuple(record(s) for s in manifest.shards),
        index=record(manifest.index),
        failures=record(manifest.failures),
    ).save(folder)


def locate(shards: ShardSet, row: int) -> tuple[Path, int, int]:
    """File of a row, and where its image starts and ends."""
    start = shards.index.offset.item(row)
    return shards.file(shards.index.shard.item(row)), start, start + shards.index.size.item(row)


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)
