"""What was fetched, on the disk: bounded, checked, safe for several processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fashionbatch import files
from fashionbatch.address import Address
from fashionbatch.errors import RemoteError, UsageError
from fashionbatch.remote import cache as caches
from fashionbatch.remote.cache import Cache, key_of
from fashionbatch.remote.mirror import Mirror
from fashionbatch.remote.trouble import ChangedError, MissingError
from tests.remote.hosts import Host


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_pieces_come_back_whole_or_not_at_all(tmp_path: Path) -> None:
    """Whatever byte of a file is flipped, or wherever it is cut, it counts as not there."""
    cache = Cache(tmp_path, 1 << 20)
    key = key_of("s3://bucket/a.tar", "tag", 0, 5)
    assert cache.get(key) is None
    cache.put(key, b"bytes")
    assert cache.get(key) == b"bytes" and cache.get(key_of("other")) is None
    (path,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    whole = path.read_bytes()
    for damaged in [whole[:-1], b"", whole + b"x", *(_flipped(whole, i) for i in (0, 63, 65, 69))]:
        path.write_bytes(damaged)
        assert cache.get(key) is None
        assert not path.exists()
    cache.put(key, b"")
    assert cache.get(key) == b""
    cache.drop(key)
    assert cache.get(key) is None


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_keys_differ_in_every_part() -> None:
    """Addresses with the same base name, versions and places."""
    parts = [("s3://a/x.tar", "1", 0, 9), ("s3://b/x.tar", "1", 0, 9), ("s3://a/x.tar", "2", 0, 9)]
    assert len({key_of(*part) for part in [*parts, ("s3://a/x.tar", "1", 0, 90)]}) == 4


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    """Not what was written first; and no more is kept than the limit."""
    cache = Cache(tmp_path, 50_000)
    keys = [key_of(i) for i in range(6)]
    for number, key in enumerate(keys[:3]):
        cache.put(key, bytes(10_000))
        os.utime(cache._path(key), (1000 + number, 1000 + number))
    assert cache.get(keys[0]) is not None
    for key in keys[3:]:
        cache.put(key, bytes(10_000))
        assert size_of(tmp_path) <= 50_000
    assert [cache.get(key) is not None for key in keys] == [True, False, False, True, True, True]


@pytest.mark.slow
def test_several_processes_keep_the_limit_and_the_bytes(tmp_path: Path) -> None:
    """Four processes write and read the same keys in a cache that is far too small for them."""
    code = (
        "import random, sys\n"
        "from pathlib import Path\n"
        "from fashionbatch.remote.cache import Cache, key_of\n"
        "cache, draw = Cache(Path(sys.argv[1]), 200_000), random.Random(int(sys.argv[2]))\n"
        "found = 0\n"
        "for _ in range(600):\n"
        "    number = draw.randrange(60)\n"
        "    data = bytes([number]) * 10_000\n"
        "    kept = cache.get(key_of(number))\n"
        "    assert kept in (None, data), number\n"
        "    found += kept is not None\n"
        "    if kept is None: cache.put(key_of(number), data)\n"
        "assert found\n"
    )
    each = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cache"), str(seed)])
        for seed in range(4)
    ]
    assert [process.wait(60) for process in each] == [0] * 4
    assert size_of(tmp_path) <= 200_000 * (1 + 4 / 16)
    assert not list(tmp_path.rglob("*.tmp"))


def test_killed_writers_leave_nothing_that_stays(tmp_path: Path) -> None:
    """What a killed process left half written goes after an hour."""
    cache = Cache(tmp_path, 10_000)
    cache.put(key_of(1), bytes(100))
    left = cache._path(key_of(1)).with_name(".left.tmp")
    left.write_bytes(bytes(5_000))
    os.utime(left, (1000, 1000))
    Cache(tmp_path, 10_000).put(key_of(2), bytes(100))
    assert not left.exists() and cache.get(key_of(1)) == bytes(100)


def test_folders_in_use_stay(tmp_path: Path) -> None:
    """Those of a process that lives, whatever else has to go; of one that has ended they go."""
    code = (
        "import sys; from pathlib import Path; from fashionbatch.remote.cache import Cache\n"
        "folder = Cache(Path(sys.argv[1]), 0).hold('k' * 64)\n"
        "(folder / 'file').write_bytes(bytes(9000)); print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        file = tmp_path / "folders" / ("k" * 64) / "file"
        Cache(tmp_path, 5_000).put(key_of(1), bytes(100))
        assert file.exists()
    finally:
        process.kill()
        process.communicate()
    Cache(tmp_path, 5_000).put(key_of(2), bytes(100))
    assert not file.exists()


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In GiB; what is no number is refused by name."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_CACHE", "0.5")
    assert caches.limit() == 1 << 29
    for text in ("-1", "much", "nan"):
        monkeypatch.setenv("FASHIONBATCH_REMOTE_CACHE", text)
        with pytest.raises(UsageError, match=f"FASHIONBATCH_REMOTE_CACHE={text}"):
            caches.limit()


def test_mirror_asks_for_what_it_lacks(host: Host) -> None:
    """Of files that it has, only the first; damage on this disk is noticed and mended."""
    (host.root / "set").mkdir()
    for name, data in (("lead.json", b"{}"), ("big.bin", bytes(100_000))):
        (host.root / "set" / name).write_bytes(data)
    address, sha256 = Address(f"{host.url}/set"), hashlib.sha256(bytes(100_000)).hexdigest()
    path = Mirror(address, "lead.json").file("big.bin", sha256)
    assert path.parent.name == "set" and path.read_bytes() == bytes(100_000)
    host.asked.clear()
    again = Mirror(address, "lead.json")
    assert again.file("big.bin", sha256) == path
    assert host.of("big.bin") == []
    path.write_bytes(bytes(99_999) + b"x")
    (again.folder / "lead.json").write_bytes(b"[]")
    mended = Mirror(address, "lead.json")
    assert files.sha256(mended.file("big.bin", sha256)) == sha256
    assert (mended.folder / "lead.json").read_bytes() == b"{}"


def test_mirror_refuses_what_does_not_fit(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with another hash, one that is missing, and a cache that cannot be written to."""
    (host.root / "lead.json").write_bytes(b"{}")
    (host.root / "big.bin").write_bytes(b"other")
    mirror = Mirror(Address(host.url), "lead.json")
    with pytest.raises(ChangedError, match=r"big\.bin is not the file that was stated"):
        mirror.file("big.bin", "0" * 64)
    assert not (mirror.folder / "big.bin").exists()
    with pytest.raises(MissingError, match=r"none\.bin"):
        mirror.file("none.bin", "0" * 64)
    with pytest.raises(MissingError, match=r"none\.json"):
        Mirror(Address(host.url), "none.json")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASHIONBATCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(RemoteError, match="FASHIONBATCH_CACHE"):
        Mirror(Address(host.url), "lead.json")
