"""Tar files made elsewhere, opened in place: names, classes, and what is kept in the cache."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fashionbatch import files
from fashionbatch.errors import ShardError
from fashionbatch.pipeline.ingest import Ingest
from fashionbatch.shards import foreign as module
from fashionbatch.shards.foreign import cached, index_foreign
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.write import Job, write
from fashionbatch.sources import Failure, Item
from fashionbatch.sources.webdataset import WebdatasetSource

Photo = Callable[..., bytes]


def put(path: Path, *members: tuple[str, bytes]) -> Path:
    """Writes a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def made(tmp_path: Path, photo: Photo) -> Path:
    """Three tar files with numbered classes, and a JSON without an image."""
    root = tmp_path / "made"
    put(root / "train.tar", ("x/1.jpg", photo(1)), ("x/1.cls", b"10"), ("x/2.json", b"{}"))
    put(root / "train/x.tar", ("1.jpg", photo(2)), ("1.cls", b"2"))
    put(root / "val/0.tar", ("a.jpg", photo(3)), ("a.cls", b"10"), ("b.jpg", photo(4)),
        ("b.cls", b"hat"))  # fmt: skip
    return root


def count_scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    scanned: list[str] = []
    scan = module.scan
    monkeypatch.setattr(module, "scan", lambda path: scanned.append(path.name) or scan(path))
    return scanned


@pytest.mark.parametrize("alone", [None, "train.tar", "val/0.tar"])
def test_names_are_those_of_packing(made: Path, alone: str | None) -> None:
    """Whether tar files are read in place or packed first; also of what cannot be used."""
    path = made / alone if alone else made
    shards = open_shards(path)
    found = list(WebdatasetSource(path).items())
    names = [shards.name(row) for row in range(len(shards))]
    assert names == [i.name for i in found if isinstance(i, Item)]
    assert len(set(names)) == len(names)
    skipped = [f.name for failures in shards.skipped.values() for f in failures]
    assert skipped == [f.name for f in found if isinstance(f, Failure)]


def test_classes_are_those_of_packing(made: Path, tmp_path: Path) -> None:
    """In the same order, numbers by value."""
    job = Job(
        source=WebdatasetSource(made),
        output=tmp_path / "set",
        prepare=Ingest(check="none"),
        allow_missing_classes=True,
    )
    assert write(job).classes == open_shards(made).classes == ("2", "10", "hat")


def test_a_replaced_file_is_scanned_again(
    made: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another image of the same length, with the size and time of the old file."""
    scanned = count_scans(monkeypatch)
    path = made / "train/x.tar"
    index_foreign(made)
    index_foreign(made)
    assert len(scanned) == 3, "the second time from the cache"
    status = path.stat()
    data = path.read_bytes()
    image = photo(2)
    path.write_bytes(data.replace(image, bytes(reversed(image))))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    shards = open_shards(made)
    assert len(scanned) == 6
    row = [shards.name(r) for r in range(len(shards))].index("train/x/1.jpg")
    assert shards.read(row) == bytes(reversed(image))


def test_state_tells_files_apart(made: Path, tmp_path: Path) -> None:
    """Time of the last change and inode each count, where size and time are the same."""
    path = made / "val/0.tar"
    shutil.copy2(path, tmp_path / "copy.tar")
    first, second = (module._state(p.stat()) for p in (path, tmp_path / "copy.tar"))
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, False]


def test_damage_is_not_kept(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be a disk's or a network's passing fault: the file is read again the next time."""
    scan = module.scan

    def refuse(path: Path) -> object:
        raise OSError(5, "Input/output error") if path.name == "x.tar" else ShardError("unplugged")

    monkeypatch.setattr(module, "scan", refuse)
    assert set(index_foreign(made).damaged) == {0, 1, 2}
    assert cached(made) is None
    monkeypatch.setattr(module, "scan", scan)
    assert len(open_shards(made)) == 4
    assert cached(made) is not None


@pytest.mark.parametrize("damaged", [False, True])
def test_in_blocks(made: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in memory, the first time and from the cache; of damaged ones there is none."""
    if damaged:
        (made / "train/x.tar").write_bytes(b"<html>not a tar file</html>" * 50)
    whole = open_shards(made, strict=False)
    shutil.rmtree(files.cache_folder() / "shards", ignore_errors=True)
    scanned = count_scans(monkeypatch)
    for _ in range(2):
        shards = open_shards(made, strict=False, whole=False)
        assert not shards.index._loaded()
        assert (shards.manifest, shards.damaged, shards.skipped, shards.notes) == (
            whole.manifest, whole.damaged, whole.skipped, whole.notes,
        )  # fmt: skip
        for row in range(len(whole)):
            assert (shards.name(row), shards.key(row)) == (whole.name(row), whole.key(row))
            assert shards.read(row) == whole.read(row)
        rows = np.arange(len(whole))
        assert shards.index.take("label", rows).tolist() == whole.labels.tolist()
    assert len(scanned) == (6 if damaged else 3)
    assert (cached(made) is None) == damaged
    kept = [path.suffix for path in (files.cache_folder() / "shards").iterdir()]
    assert sorted(kept) == ([".h5"] if damaged else [".h5", ".json"])


@pytest.mark.parametrize(("whole", "room"), [(False, 20_000), (False, 300_000), (True, 100)])
def test_a_cache_without_room(made: Path, room: int, whole: bool) -> None:
    """What does not fit it is in memory; HDF5 would end the process."""
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
from fashionbatch.shards.read import open_shards
shards = open_shards({str(made)!r}, whole={whole})
print([shards.name(row) for row in range(len(shards))])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    shards = open_shards(made)
    names = [shards.name(row) for row in range(len(shards))]
    assert (ran.stdout, ran.stderr) == (f"{names}\n", "")
    assert not list((files.cache_folder() / "shards").glob(".*.tmp"))


def test_without_a_home_nothing_is_kept(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with an unknown user."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FASHIONBATCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    scanned = count_scans(monkeypatch)
    for _ in range(2):
        assert len(open_shards(made)) == 4
    assert len(scanned) == 6
    with pytest.raises(OSError, match="home"):
        files.cache_folder()
