"""Photographs at addresses: read like files, several at a time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator

from fashionbatch.address import Address, is_address
from fashionbatch.errors import FashionbatchError, ImageError, RemoteError
from fashionbatch.remote import ahead, pattern
from fashionbatch.remote.stores import Object
from fashionbatch.remote.trouble import OF_ONE
from fashionbatch.sources.base import MAX_BYTES, Item
from fashionbatch.sources.folder import is_image


def images(address: Address) -> list[Item] | None:
    """The image at an address, or those that a pattern fits; ``None`` where it is of no image.

    Raises:
        MissingError: nothing fits the pattern.
        RemoteError: a host cannot be reached, or refuses.
        UsageError: the pattern cannot be read.
    """
    if not is_image(address.path):
        return None
    found = pattern.expand(address) if address.is_pattern else [address]
    return [Item(name=one.path.rpartition("/")[2], path=one.url) for one in found]


class Ahead:
    """Reads items, those that are expected several at a time."""

    def __init__(self) -> None:
        self._expected: deque[Item] = deque()
        self._coming: Iterator[tuple[Item, bytes | ImageError | None]] = iter(())

    def expect(self, items: Iterable[Item]) -> None:
        """Says which items at addresses are going to be read next, in this order."""
        self._expected = deque(items)
        self._coming = fetched(list(self._expected))

    def read(self, item: Item) -> bytes:
        """The bytes of an item at an address. Raises as :func:`read`."""
        while any(one.path == item.path for one in self._expected):
            try:
                one, data = next(self._coming)
            except RemoteError:
                self._expected.clear()
                raise
            self._expected.popleft()
            if one.path == item.path:
                return _bytes(data)
        return read(item)


def read(item: Item) -> bytes:
    """The bytes of an item at an address.

    Raises:
        ImageError: its host does not give it.
        RemoteError: its host cannot be reached.
    """
    ((_, data),) = fetched([item])
    return _bytes(data)


def fetched(items: Iterable[Item]) -> Iterator[tuple[Item, bytes | ImageError | None]]:
    """Items, in order, with what their hosts give, or why not; ``None`` of those on this disk.

    Raises:
        RemoteError: a host cannot be reached: of no photograph could be said what is wrong.
    """
    own, theirs = itertools.tee(items)
    found = ahead.read((_wanted(item) for item in theirs if _is_elsewhere(item)), MAX_BYTES)
    for item in own:
        if not _is_elsewhere(item):
            yield item, None
            continue
        data = next(found)
        if isinstance(data, FashionbatchError):
            if not isinstance(data, OF_ONE):
                raise data
            data = ImageError("read", str(data))
        yield item, data


def _bytes(data: bytes | ImageError | None) -> bytes:
    if isinstance(data, bytes):
        return data
    assert data is not None  # of an address there is something
    raise data


def _is_elsewhere(item: Item) -> bool:
    return item.data is None and item.path is not None and is_address(item.path)


def _wanted(item: Item) -> Object | Address:
    address = Address(str(item.path))
    if item.size is None or item.version is None:
        return address
    return Object(address, item.size, item.version)
