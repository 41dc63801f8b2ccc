"""Writing that leaves either the whole file or nothing, and hashing what was written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: what new files are not allowed to others; asked here, because asking changes it for a moment
_MASK = os.umask(0)
os.umask(_MASK)


@contextmanager
def atomic(path: Path, *, within: Path | None = None) -> Iterator[Path]:
    """Gives a temporary name beside ``path``; on success it is synced and takes that name.

    With ``within`` the temporary file lies in that folder of the same disk, which is to go anyway:
    a process that is killed leaves it behind.

    The rename is atomic, and file and folder are synced, so that after a crash ``path`` is the old
    file or the whole new one. On an exception the temporary file is removed.
    """
    name = f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    temporary = (path.parent if within is None else within) / name
    try:
        yield temporary
        if not temporary.stat().st_mode & 0o077:
            temporary.chmod(0o666 & ~_MASK)  # some libraries write what only its owner may read
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes | str) -> None:
    """Writes a whole file by :func:`atomic`; text as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON by :func:`atomic`."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # lone surrogates, which file names can hold, become the escapes that JSON has for them
    write(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a lock as long as the process lives, at most until the end of the block.

    A record lock: forked processes do not inherit it. Two blocks of one process do not see each
    other.

    Args:
        path: of the lock file, which is made and stays.

    Yields:
        whether no other process holds it; true on a file system without locks, too.
    """
    import fcntl  # Unix only, and nothing else here is

    with path.open("w") as file:
        try:
            fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield error.errno not in (errno.EACCES, errno.EAGAIN)
        else:
            yield True


def sync(path: Path) -> None:
    """Waits until a file's bytes (or a folder's entries) are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(data: bytes | memoryview) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def cache_folder() -> Path:
    """Where things are kept that can be made again: ``FASHIONBATCH_CACHE``, or the user's cache.

    Raises:
        OSError: the user has no home.
    """
    own = os.environ.get("FASHIONBATCH_CACHE")
    if own:
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "fashionbatch"
    try:
        return Path.home() / ".cache" / "fashionbatch"
    except RuntimeError as error:  # HOME is not set, and the user is not in the list of users
        raise FileNotFoundError(errno.ENOENT, str(error)) from error


def config_folder() -> Path:
    """Where the user's choices are kept: ``FASHIONBATCH_CONFIG``, or the user's configuration.

    Raises:
        OSError: the user has no home.
    """
    own = os.environ.get("FASHIONBATCH_CONFIG")
    if own:
        return Path(own)
    if shared := os.environ.get("XDG_CONFIG_HOME"):
        return Path(shared) / "fashionbatch"
    try:
        return Path.home() / ".config" / "fashionbatch"
    except RuntimeError as error:  # as above
        raise FileNotFoundError(errno.ENOENT, str(error)) from error


def fingerprint(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
