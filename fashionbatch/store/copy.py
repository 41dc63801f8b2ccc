"""Predictions that lie elsewhere, fetched to this disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashionbatch.address import Address, Location, located
from fashionbatch.errors import RemoteError, StoreError
from fashionbatch.store import part as parts
from fashionbatch.store import parts_set

_FILES = (".h5", ".hdf5")


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
    from fashionbatch.remote import copies
    from fashionbatch.remote.trouble import MissingError

    try:
        return copies.copy(where) if where.path.endswith(_FILES) else _set(where)
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
    from fashionbatch.remote import copies

    path = here(location)
    with copies.called(path, located(location)):
        yield path


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
