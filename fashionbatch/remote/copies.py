"""Single files that lie elsewhere, copied whole to this disk for libraries that open them there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashionbatch import files
from fashionbatch.address import Address, Location
from fashionbatch.errors import FashionbatchError, RemoteError
from fashionbatch.remote import cache as caches
from fashionbatch.remote import client

_SHA256 = ".sha256"


def copy(address: Address) -> Path:
    """The copy of a file, as it is there now; it is kept in the cache, and not changed by anybody.

    Raises:
        MissingError: nothing lies there.
        RemoteError: it cannot be had, or the cache cannot be written to.

    Example:
        >>> copy(Address("s3://bucket/catalog.csv"))  # doctest: +SKIP
        PosixPath('/home/me/.cache/fashionbatch/remote/folders/77ab.../catalog.csv')
    """
    found = client.look(address)
    cache = caches.of_user()
    try:
        folder = cache.hold(caches.key_of("file", address.url, found.tag, found.size))
        path = folder / address.path.rpartition("/")[2]
        record = path.with_name(path.name + _SHA256)
        # who opens it, such as HDF5, may not bear a damaged copy
        if not (path.is_file() and record.is_file() and record.read_text() == files.sha256(path)):
            client.fetch(found, path)
            files.write(record, files.sha256(path))
            cache.grown(found.size)
    except OSError as error:
        raise RemoteError(
            f"{address} cannot be copied to the cache ({error.strerror or error}): name another "
            "folder with FASHIONBATCH_CACHE"
        ) from error
    return path


@contextmanager
def called(path: Path, location: Location) -> Iterator[None]:
    """Errors name what was copied, and not the copy at ``path``."""
    try:
        yield
    except FashionbatchError as error:
        error.args = (str(error).replace(str(path), str(location)), *error.args[1:])
        raise
