"""Verify tar files made elsewhere: against the first scan of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fashionbatch.shards import foreign as foreign_tars
from fashionbatch.shards.foreign import cached
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.verification.findings import (
    NOTE,
    REFUSED,
    SKIPPED,
)
from fashionbatch.shards.verification.members import BLOCK
from fashionbatch.shards.verification.verify import verify
from tests.shards.damage import damages, flip, locate, make_tar, only

Photo = Callable[..., bytes]


def test_tar_files_made_elsewhere(foreign: Path) -> None:
    """Whole ones: in a folder, and one alone."""
    report = verify(foreign)
    assert report.findings == ()
    assert (report.items, report.shards) == (6, 2)
    assert report.bytes == sum(p.stat().st_size for p in foreign.iterdir())
    alone = verify(foreign / "a.tar")
    assert (alone.items, alone.shards, alone.findings) == (3, 1, ())


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that rots changes no times of the file, but a test's own write does."""
    monkeypatch.setattr(foreign_tars, "_state", lambda status: (status.st_size, status.st_mtime_ns))


def test_bit_rot_since_the_first_scan(foreign: Path, silent: None) -> None:
    """Fault 8: a payload flip keeps size and time, and is found by the first scan's hash."""
    shards = open_shards(foreign)
    path, start, _ = locate(shards, 4)
    flip(path, start + 20, keep_time=True)
    shard, image = verify(foreign).findings
    assert (shard.shard, shard.key) == ("b.tar", "")
    assert (image.shard, image.key, image.name) == ("b.tar", "b1", shards.name(4))
    assert not verify(foreign).ok, "it stays found"
    flip(path, start + 20, keep_time=True)
    assert verify(foreign).ok
    place = path.read_bytes().index(b"hat")
    flip(path, place, keep_time=True)
    (found,) = damages(verify(foreign))
    assert (found.shard, found.key) == ("b.tar", "")


def test_first_verify_is_the_first_scan(
    foreign: Path, silent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is scanned once, and what rots later differs from what was found then."""
    scanned: list[str] = []
    scan = foreign_tars.scan
    monkeypatch.setattr(foreign_tars, "scan", lambda p: scanned.append(p.name) or scan(p))
    assert cached(foreign) is None
    assert verify(foreign).findings == ()
    assert scanned == ["a.tar", "b.tar"]
    shards = open_shards(foreign)
    assert scanned == ["a.tar", "b.tar"], "it is in the cache"
    known = cached(foreign)
    assert known is not None and known.manifest == shards.manifest
    path, start, _ = locate(shards, 4)
    flip(path, start + 20, keep_time=True)
    assert [f.key for f in damages(verify(foreign))] == ["", "b1"]
    assert scanned == ["a.tar", "b.tar"] * 2
    flip(path, start + 20)
    os.utime(path, ns=(0, 0))
    assert cached(foreign) is None, "it has another time"


def test_labels_of_several_tar_files(tmp_path: Path, photo: Photo) -> None:
    """Classes are sorted over all files, and each image keeps its own."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    labels = {"a.tar": [b"10", b"", b"2"], "b.tar": [b"hat", b"2"], "c.tar": []}
    for name, texts in labels.items():
        content = []
        for number, text in enumerate(texts):
            key = f"{name[0]}{number}"
            content += [(f"{key}.jpg", photo(number)), *([(f"{key}.cls", text)] if text else [])]
        make_tar(folder / name, content)
    shards = open_shards(folder)
    assert shards.manifest.classes == ("2", "10", "hat")
    assert shards.index.label.tolist() == [1, -1, 0, 2, 0]
    assert shards.index.shard.tolist() == [0, 0, 0, 1, 1]


def test_link_to_nowhere_is_refused(foreign: Path) -> None:
    """By name; the others are read."""
    (foreign / "c.tar").symlink_to(foreign / "nowhere")
    found = only(verify(foreign), "c.tar cannot be read", "No such file")
    assert (found.shard, found.severity) == ("c.tar", REFUSED)
    assert len(open_shards(foreign, strict=False)) == 6


def test_lost_sample_since_the_first_scan(foreign: Path, silent: None) -> None:
    """A file that was replaced by a shorter one of the same length and time."""
    shards = open_shards(foreign)
    status = (foreign / "b.tar").stat()
    _, start, _ = locate(shards, 5)
    data = (foreign / "b.tar").read_bytes()
    data = data[: start - BLOCK].ljust(len(data), b"\0")
    (foreign / "b.tar").write_bytes(data)
    os.utime(foreign / "b.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [f.key for f in damages(verify(foreign))] == ["", "b2"]


def test_damaged_and_skipped_and_noted(foreign: Path, photo: Photo) -> None:
    """Each with its file; the others are still read."""
    flip(foreign / "a.tar", 3)
    make_tar(
        foreign / "c.tar",
        [("x.jpg", photo(1)), ("y.json", b"{}"), ("z.pyd", b"cos")],
    )
    report = verify(foreign, workers=3)
    assert [(f.shard, f.severity, f.name) for f in report.findings] == [
        ("a.tar", REFUSED, ""),
        ("c.tar", SKIPPED, "c/y.json"),
        ("c.tar", NOTE, ""),
    ]
    assert (report.items, report.shards, report.ok) == (4, 3, False)
    (foreign / "a.tar").unlink()
    assert verify(foreign).ok
