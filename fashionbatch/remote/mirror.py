"""Small files of a folder of objects, whole on this machine's disk, for who opens them by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fashionbatch import files
from fashionbatch.address import Address
from fashionbatch.errors import RemoteError
from fashionbatch.remote import cache as caches
from fashionbatch.remote import client
from fashionbatch.remote.trouble import ChangedError, MissingError, RefusedError

#: bytes of a file that says what the others are
_MOST = 256 << 20


class Mirror:
    """A folder of objects, of which one file states the hashes of the others.

    That one is asked for each time; the others are kept on the disk and compared with their hashes.

    Args:
        address: of the folder.
        lead: name of the file that states the others' hashes.

    Attributes:
        folder: on this disk; called like the address, and not removed while this process lives.
        key: stands for the address and what the file states.

    Raises:
        MissingError: there is no such file.
        RemoteError: it cannot be had, or the cache cannot be written to.

    Example:
        >>> Mirror(Address("s3://bucket/photos"), "dataset.json").folder  # doctest: +SKIP
        PosixPath('/home/me/.cache/fashionbatch/remote/folders/09e1.../photos')
    """

    def __init__(self, address: Address, lead: str) -> None:
        data = client.whole(address / lead, _MOST)
        self._hold(address, caches.key_of(address.url, lead, files.digest(data)))
        path = self.folder / lead
        try:
            if not path.is_file() or path.read_bytes() != data:
                files.write(path, data)
                self._cache.grown(len(data))
        except OSError as error:
            raise _unkept(error) from error

    @classmethod
    def of(cls, address: Address, key: str) -> Mirror:
        """That of another process, perhaps on another machine; nobody is asked for anything.

        Args:
            address: of the folder.
            key: the other one's.

        Raises:
            RemoteError: the cache cannot be written to.
        """
        made = cls.__new__(cls)
        made._hold(address, key)
        return made

    def _hold(self, address: Address, key: str) -> None:
        self.address, self.key = address, key
        try:
            self._cache = caches.of_user()
            self.folder = self._cache.hold(key) / address.name
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _unkept(error) from error

    def file(self, name: str, sha256: str) -> Path:
        """A file with this hash. Of several processes that want it, one fetches it.

        Raises:
            MissingError: there is none of this name.
            ChangedError: it has another hash.
            RemoteError: it cannot be had, or the cache cannot be written to.
        """
        path = self.folder / name
        try:
            with _alone(self.folder):
                if path.is_file() and files.sha256(path) == sha256:
                    return path
                found = client.look(self.address / name)
                client.fetch(found, path)
                self._cache.grown(found.size)
                if files.sha256(path) == sha256:
                    return path
                path.unlink()
        except OSError as error:
            raise _unkept(error) from error
        raise ChangedError(
            f"{self.address / name} is not the file that was stated beside it (SHA-256): copy or "
            "make it again"
        )

    def loose(self, name: str) -> None:
        """Fetches a small file of which nothing is stated, where there is one.

        Raises:
            RemoteError: it cannot be had, or the cache cannot be written to.
        """
        path = self.folder / name
        try:
            data = client.whole(self.address / name, _MOST)
        except (MissingError, RefusedError):  # who may not list is refused what is not there
            path.unlink(missing_ok=True)
            return
        try:
            files.write(path, data)
        except OSError as error:
            raise _unkept(error) from error
        self._cache.grown(len(data))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process fetches anything to a folder."""
    import fcntl  # Unix only, as the decoding processes are

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # without locks it is fetched twice
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unkept(error: OSError) -> RemoteError:
    return RemoteError(
        f"{error.filename or 'the cache'} cannot be written ({error.strerror or error}): "
        "name another folder with FASHIONBATCH_CACHE"
    )
