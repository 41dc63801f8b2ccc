"""What is kept of earlier computations, and who uses it: so that nobody clears what another reads.

Every folder of activations holds a file ``lock``. Whoever computes into the folder, or trains from
it, shares the lock of that file; what nobody shares may be removed. The system gives a lock back
however its process ends, so a kill leaves none.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fashionbatch import files

#: beside the runs
FOLDER = ".features"
ABOUT = "about.json"
_LOCK = "lock"
_NAME = 32  # characters of the key
_KEY = re.compile(rf"[0-9a-f]{{{_NAME}}}")
_TEMPORARY = ".*.tmp"


class Hold:
    """As long as this object lives, nobody clears the folder.

    What killed processes have left half written in it is removed, unless others use it just now.

    Args:
        folder: of one key; made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        while not self._take(folder):
            pass  # somebody was clearing it

    def _take(self, folder: Path) -> bool:
        import fcntl  # Unix only, and nothing else here is

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if folder.exists() and not folder.is_dir():
                raise
            return False  # it was there, and is gone
        path = folder / _LOCK
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a disk that cannot be written to cannot be cleared either
        taken = False
        try:
            if _is_free(lock):
                for left in folder.glob(_TEMPORARY):
                    left.unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_SH)
            taken = path.exists() and os.path.samestat(os.fstat(lock), os.stat(path))
            if taken:
                weakref.finalize(self, os.close, lock)
        except FileNotFoundError:
            pass
        except OSError:
            return True  # a disk without locks: what is on it counts as used
        finally:
            if not taken:
                os.close(lock)
        return taken


class Kept(NamedTuple):
    """What one computation gave.

    Attributes:
        path: of its folder.
        bytes: that it takes.
        about: what the numbers depend on, as JSON values; empty where that cannot be read.
        used: a running process uses it.
    """

    path: Path
    bytes: int
    about: dict[str, Any]
    used: bool


@dataclass
class Cleared:
    """What :func:`clear` did.

    Attributes:
        removed: how many computations.
        bytes: that they took.
        used: how many stay, because running processes use them.
    """

    removed: int = 0
    bytes: int = 0
    used: int = 0


def kept(folder: Path) -> list[Kept]:
    """What is in a folder, by name.

    Args:
        folder: such as ``runs/.features``; there need not be one.
    """
    listed = []
    for own in _folders(folder):
        try:
            about = json.loads((own / ABOUT).read_bytes())
        except (OSError, ValueError):
            about = {}
        with _alone(own) as free:
            listed.append(Kept(path=own, bytes=_size(own), about=about, used=not free))
    return listed


def abouts(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each computation's folder and what its numbers depend on; those whose key fits to that."""
    for own in _folders(folder):
        try:
            about = json.loads((own / ABOUT).read_bytes())
        except (OSError, ValueError):
            continue
        if own.name == name_of(files.fingerprint(about)):
            yield own, about


def name_of(key: str) -> str:
    """Of the folder of what a key stands for."""
    return key[:_NAME]


def size(folder: Path) -> int:
    """Bytes that all of it takes."""
    return sum(map(_size, _folders(folder)))


def clear(folder: Path) -> Cleared:
    """Removes what no running process uses.

    Raises:
        OSError: something cannot be removed.
    """
    done = Cleared()
    for own in _folders(folder):
        with _alone(own) as free:
            if not free:
                done.used += 1
                continue
            count = _size(own)
            # under another name first: who comes now finds no folder, rather than half of one
            gone = own.with_name(f".{own.name}.{secrets.token_hex(4)}.tmp")
            os.replace(own, gone)
            shutil.rmtree(gone)
            done.removed, done.bytes = done.removed + 1, done.bytes + count
    for left in folder.glob(_TEMPORARY):  # of a clearing that was killed
        shutil.rmtree(left, ignore_errors=True)
    return done


def _folders(folder: Path) -> list[Path]:
    """Only what has the name of a key: people may keep things of their own beside it."""
    return sorted(p for p in folder.glob("*") if _KEY.fullmatch(p.name) and p.is_dir())


def _size(own: Path) -> int:
    total = 0
    for path in own.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # a temporary file, just now
            continue
    return total


@contextmanager
def _alone(own: Path) -> Iterator[bool]:
    """Whether nobody uses it; if so, nobody begins to within the block."""
    lock = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _is_free(lock)
    finally:
        os.close(lock)


def _is_free(lock: int) -> bool:
    """Takes the lock for this process alone, if nobody has it."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or a disk without locks
        return False
    return True
