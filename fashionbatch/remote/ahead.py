"""Whole objects that are read one after the other, fetched some at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from fashionbatch.address import Address
from fashionbatch.errors import FashionbatchError
from fashionbatch.remote import cache as caches
from fashionbatch.remote import client
from fashionbatch.remote.stores import Object
from fashionbatch.remote.trouble import RefusedError

#: objects that are looked at together, and the bytes that are fetched together
_TOGETHER, _AHEAD = 64, 8 << 20


def read(wanted: Iterable[Object | Address], most: int) -> Iterator[bytes | FashionbatchError]:
    """The bytes of each, in order, or the error that it comes to.

    What was fetched before is in the cache on the disk. In memory are some mebibytes, or one
    object where that is larger.

    Args:
        wanted: the objects, as they were found, or where they lie.
        most: bytes that one may have.
    """
    waiting = iter(wanted)
    while some := _looked_at(waiting):
        places: list[Object | FashionbatchError] = []
        size = 0
        for found in some:
            length = found.size if isinstance(found, Object) else 0
            if size and size + length > _AHEAD:
                yield from _fetched(places)
                places, size = [], 0
            if isinstance(found, Object) and length > most:
                places.append(RefusedError(f"{found.address} has over {most >> 20} MiB"))
            else:
                places.append(found)
                size += length
        yield from _fetched(places)


def _looked_at(waiting: Iterator[Object | Address]) -> list[Object | FashionbatchError]:
    """The next ones, as they are found."""
    some = list(itertools.islice(waiting, _TOGETHER))
    found = iter(client.look_at([each for each in some if isinstance(each, Address)]))
    return [next(found) if isinstance(each, Address) else each for each in some]


def _fetched(places: list[Object | FashionbatchError]) -> Iterator[bytes | FashionbatchError]:
    cache = caches.of_user()
    # of a host that says nothing of versions, what was fetched before may be another one
    kept = {
        each: cache.get(_key(each)) if each.tag else None
        for each in places
        if isinstance(each, Object)
    }
    lacking = [each for each, data in kept.items() if data is None]
    made = dict(zip(lacking, client.wholes(lacking), strict=True))
    for found, data in made.items():
        if found.tag and isinstance(data, bytes):
            cache.put(_key(found), data)
    for each in places:
        if isinstance(each, Object):
            yield kept[each] or made.get(each, b"")
        else:
            yield each


def _key(found: Object) -> str:
    return caches.key_of(found.address.url, found.tag, found.size)
