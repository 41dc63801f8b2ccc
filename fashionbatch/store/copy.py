"""Predictions that lie elsewhere, fetched to this disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashionbatch import files
from fashionbatch.address import Address, Location, located
from fashionbatch.errors import FashionbatchError, RemoteError, StoreError
from fashionbatch.store import part as parts
from fashionbatch.store import parts_set

_FILES = (".h5", ".hdf5")
_SHA256 = ".sha256"


def here(location: str | Location) -> Path:
    """Where predictions lie on this disk: the path itself, or the copy of what lies at an address.

    Args:
        location: of a prediction file (``.h5``), or of a folder of parts.

    Raises:
        UsageError: it is an address of a kind that is not read.
        StoreError: there are no predictions at an address.
        RemoteError: a host cannot be reached, or refuses.
    """
    where = located(location)
    if isinstance(where, Path):
        return where
    from fashionbatch.remote.trouble import MissingError

    try:
        return _file(where) if where.path.endswith(_FILES) else _set(where)
    except MissingError as error:
        raise StoreError(f"{where} holds no predictions: {error}") from None
    except OSError as error:
        raise RemoteError(
            f"{where} cannot be copied to the cache ({error.strerror or error}): name another "
            "folder with FASHIONBATCH_CACHE"
        ) from error


@contextmanager
def copied(location: str | Location) -> Iterator[Path]:
    """As :func:`here`, for a job; its errors name the location, and not the copy."""
    path = here(location)
    try:
        yield path
    except FashionbatchError as error:
        text = str(error).replace(str(path), str(located(location)))
        error.args = (text, *error.args[1:])
        raise


def _file(address: Address) -> Path:
    from fashionbatch.remote import cache as caches
    from fashionbatch.remote import client

    found = client.look(address)
    cache = caches.of_user()
    folder = cache.hold(caches.key_of("predictions", address.url, found.tag, found.size))
    path = folder / address.path.rpartition("/")[2]
    record = path.with_name(path.name + _SHA256)
    # HDF5 must not see a damaged copy: see fashionbatch.store.part
    if not (path.is_file() and record.is_file() and record.read_text() == files.sha256(path)):
        client.fetch(found, path)
        files.write(record, files.sha256(path))
        cache.grown(found.size)
    return path


def _set(address: Address) -> Path:
    from fashionbatch.remote import client
    from fashionbatch.remote.mirror import Mirror

    folder = Mirror(address, parts_set.MANIFEST).folder
    count = len(parts_set.read(folder).counts["shards/count"])
    lacking = [p for n in range(count) if not parts.is_whole(p := parts.path_of(folder, n))]
    for path, found in zip(
        lacking, client.look_at([address / path.name for path in lacking]), strict=True
    ):
        if isinstance(found, Exception):
            raise found
        client.fetch(found, path)
    return folder
