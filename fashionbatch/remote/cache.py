"""What was fetched, on the disk of this machine: bounded, and safe for several processes.

Two things are kept in the user's cache: pieces of objects, each a file that begins with the
SHA-256 of the rest, and folders of whole files, for libraries that open files by their names. Both
are named by a hash of what they are of, so nothing is ever changed, only made and removed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fashionbatch import files
from fashionbatch.errors import UsageError

#: names the GiB that the cache may take
LIMIT = "FASHIONBATCH_REMOTE_CACHE"
_GIB = 8.0
#: looked through again when a process has written this share of the limit
_SHARE = 16
_FOLDERS, _PIECES = "folders", "pieces"
_LOCK = ".lock"
_SEAL = 65  # SHA-256 in hexadecimal, and a line's end
#: seconds behind which a temporary file belongs to a process that was killed
_LEFT_BEHIND = 3600

#: locks of the folders that this process uses, held until it ends
_held: dict[Path, int] = {}


def key_of(*parts: object) -> str:
    """A name for what these parts stand for.

    Example:
        >>> key_of("s3://bucket/a.tar", '"etag"', 0, 1024)[:8]
        '0ccdb1a1'
    """
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()


def limit() -> int:
    """Bytes that the cache may take, by default or as the environment says.

    Raises:
        UsageError: it says no number.
    """
    text = os.environ.get(LIMIT, str(_GIB))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"{LIMIT}={text}: it must be a number of GiB; 0 keeps no images")
    return int(value * (1 << 30))


class Cache:
    """The cache of this user.

    A disk that is full, or cannot be written to, keeps nothing, and nobody is told.

    Args:
        folder: of it; made where there is none.
        most: bytes that it may take; each process at work may exceed it by a sixteenth for a while.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self._since = 0  # bytes written since all was looked through
        self._looked = False

    def get(self, key: str) -> bytes | None:
        """What was put there under a key, if it is still there and whole."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            if data[: _SEAL - 1] == _sealed(memoryview(data)[_SEAL:]):
                os.utime(path)
                return data[_SEAL:]
            path.unlink()
        except OSError:
            pass
        return None

    def put(self, key: str, data: bytes) -> None:
        """Keeps something under a key."""
        if len(data) + _SEAL > self.most:
            return
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # not synced: what a crash leaves of it does not fit its seal
                temporary.write_bytes(_sealed(data) + b"\n" + data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            self.grown(len(data) + _SEAL)

    def drop(self, key: str) -> None:
        """Forgets what was put there."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def hold(self, key: str) -> Path:
        """A folder for whole files, which is not removed while this process lives.

        Raises:
            OSError: it cannot be made.
        """
        import fcntl  # Unix only, as the decoding processes are

        folder = self.folder / _FOLDERS / key
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                os.utime(folder)
            if folder in _held and _is_locked(folder, _held[folder]):
                return folder
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if _is_locked(folder, lock):
                _held[folder] = lock
                return folder
            os.close(lock)  # somebody was removing it

    def grown(self, size: int) -> None:
        """So many bytes were written; removes what was used least recently where it is too much."""
        self._since += size
        if not self._looked or self._since > self.most // _SHARE:
            self._looked, self._since = True, 0
            self._sweep()

    def _path(self, key: str) -> Path:
        return self.folder / _PIECES / key[:2] / key

    def _sweep(self) -> None:
        found = sorted(self._entries())
        total = sum(entry.size for entry in found)
        # down to less than the limit, so that the next piece does not ask for it again
        goal = self.most - self.most // _SHARE
        if total <= self.most:
            return
        for entry in found:
            if total <= goal:
                return
            if _remove(entry.path):
                total -= entry.size

    def _entries(self) -> Iterator[_Entry]:
        for folder in _listed(self.folder / _PIECES):
            for entry in _listed(Path(folder.path)):
                with contextlib.suppress(OSError):  # another process was quicker
                    status = entry.stat()
                    age = time.time() - status.st_mtime
                    if entry.name.endswith(".tmp") and age > _LEFT_BEHIND:
                        Path(entry.path).unlink()
                        continue
                    yield _Entry(status.st_mtime, status.st_size, Path(entry.path))
        for folder in _listed(self.folder / _FOLDERS):
            with contextlib.suppress(OSError):
                inside = [p.stat().st_size for p in Path(folder.path).rglob("*") if p.is_file()]
                yield _Entry(folder.stat().st_mtime, sum(inside), Path(folder.path))


class _Entry(NamedTuple):
    """Something in the cache; the one used last sorts last."""

    used: float
    size: int
    path: Path


def of_user() -> Cache:
    """The cache, where and as large as the environment says; of a user without a home, none.

    Raises:
        UsageError: the environment gives no number for its size.
    """
    try:
        return _cache((files.cache_folder() / "remote").absolute(), limit())
    except OSError:
        return _cache(Path(os.devnull), 0)  # where nothing can be kept


# one for all its users in this process, which counts what they write
_cache = functools.lru_cache(Cache)


def _sealed(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _remove(path: Path) -> bool:
    """Whether it is gone; a folder that somebody uses stays."""
    import fcntl

    try:
        if not path.is_dir():
            path.unlink()
            return True
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
            return True
        finally:
            os.close(lock)
    except OSError:
        return False


def _is_locked(folder: Path, lock: int) -> bool:
    """Whether a lock is of the folder that is there now."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK))
    except OSError:
        return False
