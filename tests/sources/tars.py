"""Tar files by their members, and what a scan finds in them."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest

from fashionbatch.errors import ShardError
from fashionbatch.sources.tar import Scan, scan

Members = list[tuple[str, bytes]]


def make_tar(path: Path, members: Members, **options: object) -> Path:
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def keys(found: Scan) -> list[str]:
    return [s.key for s in found.samples]


def failures(found: Scan) -> dict[str, str]:
    assert {f.stage for f in found.failures} <= {"shard"}
    return {f.name: f.reason for f in found.failures}


def refused(path: Path, match: str) -> None:
    """One line that names the file; the folder's name, which holds the test's, is no match."""
    with pytest.raises(ShardError) as caught:
        scan(path)
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    assert re.search(match, text.replace(str(path.parent), "")), text


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
