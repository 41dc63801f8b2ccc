"""Where the bytes of shards come from: files of this machine, or objects elsewhere."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fashionbatch.errors import ShardError

if TYPE_CHECKING:
    from fashionbatch.remote.stores import Object

_OPEN_FILES = 64
#: bytes that are fetched at once of what is expected
_AHEAD = 8 << 20
#: bytes between two images that are fetched too, in place of a request of their own: the JSON of an
#: image and headers lie there
_GAP = 16 << 10


class Place(NamedTuple):
    """Some bytes: the number of the shard, the first byte, how many."""

    shard: int
    offset: int
    size: int


class Shelf(Protocol):
    """Shards by number, to read from in any process."""

    def at(self, place: Place) -> bytes:
        """The bytes of a place, fewer where the shard ends before.

        Raises:
            ShardError: the shard cannot be read.
            RemoteError: the host cannot be reached, or refuses.
        """
        ...

    def expect(self, places: Iterable[Place]) -> None:
        """Says what is going to be read next, in this order."""
        ...

    def distrust(self, place: Place) -> None:
        """The bytes of a place were not what they should be: forgets them.

        Raises:
            ShardError: the whole shard is another one than it was.
        """
        ...

    def close(self) -> None:
        """Closes what this process has open; reading opens it again."""
        ...


class LocalShelf:
    """Files of this machine.

    Args:
        paths: of the shards.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        # keyed by process: a fork must not share file positions or close its parent's files
        self._open: OrderedDict[tuple[int, int], int] = OrderedDict()
        weakref.finalize(self, _close, self._open)

    def __reduce__(self) -> tuple[type[LocalShelf], tuple[Sequence[Path]]]:
        return type(self), (self._paths,)

    def at(self, place: Place) -> bytes:
        """See :class:`Shelf`."""
        return os.pread(self._descriptor(place.shard), place.size, place.offset)

    def expect(self, places: Iterable[Place]) -> None:
        """The system reads ahead by itself."""

    def distrust(self, place: Place) -> None:
        """What is on the disk stays as it is."""

    def close(self) -> None:
        """See :class:`Shelf`."""
        _close(self._open)

    def _descriptor(self, number: int) -> int:
        key = (os.getpid(), number)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        path = self._paths[number]
        try:
            # not blocking: a named pipe in its place would wait for a writer for ever
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ShardError(
                f"{path} cannot be read ({error.strerror}): copy or pack it again"
            ) from error
        self._open[key] = descriptor
        if len(self._open) > _OPEN_FILES:
            (process, _), oldest = self._open.popitem(last=False)
            if process == os.getpid():
                os.close(oldest)
        return descriptor


def _close(descriptors: OrderedDict[tuple[int, int], int]) -> None:
    while descriptors:
        (process, _), descriptor = descriptors.popitem()
        if process == os.getpid():
            os.close(descriptor)


class RemoteShelf:
    """Objects elsewhere: images are fetched by range, together where they are expected.

    Neighbours among what is expected make one request, others several at the same time. What was
    fetched stays in the cache on the disk, where every process finds it.

    Args:
        objects: the shards as they were found; another version of one is not read.
    """

    def __init__(self, objects: Sequence[Object]) -> None:
        self._objects = objects
        self._expected: deque[Place] = deque()
        self._fetched: dict[Place, bytes] = {}

    def __reduce__(self) -> tuple[type[RemoteShelf], tuple[Sequence[Object]]]:
        return type(self), (self._objects,)

    def at(self, place: Place) -> bytes:
        """See :class:`Shelf`."""
        if place not in self._fetched:
            self._fetch_from(place)
        return self._fetched.pop(place)

    def expect(self, places: Iterable[Place]) -> None:
        """See :class:`Shelf`."""
        self._expected = deque(places)
        self._fetched.clear()

    def distrust(self, place: Place) -> None:
        """See :class:`Shelf`."""
        from fashionbatch.remote import cache, client

        cache.of_user().drop(self._key(place))
        before = self._objects[place.shard]
        now = client.look(before.address)
        if now != before:
            raise ShardError(
                f"{before.address} has changed while it was in use: run the command again"
            )

    def close(self) -> None:
        """Nothing is open."""

    def _fetch_from(self, place: Place) -> None:
        from fashionbatch.remote.trouble import ChangedError, MissingError

        group = self._group(place)
        try:
            self._fetch(group)
        except (ChangedError, MissingError) as error:
            if len(group) > 1:  # it may be another one's shard that is gone
                self._expected.clear()
                self._fetched.clear()
                self._fetch_from(place)
                return
            raise ShardError(str(error)) from None

    def _group(self, place: Place) -> list[Place]:
        """A place, and what is expected behind it where it is expected itself."""
        if place not in self._expected:
            return [place]
        while self._expected.popleft() != place:
            pass
        group, size = [place], place.size
        while self._expected and size + self._expected[0].size <= _AHEAD:
            group.append(self._expected.popleft())
            size += group[-1].size
        return group

    def _fetch(self, group: Sequence[Place]) -> None:
        from fashionbatch.remote import cache, client

        kept = cache.of_user()
        found = {place: kept.get(self._key(place)) for place in group}
        missing = sorted(place for place, data in found.items() if data is None)
        stretches = [list(stretch) for stretch in _stretches(missing)]
        ranges = [
            client.Range(self._objects[s[0].shard], s[0].offset, s[-1].offset + s[-1].size)
            for s in stretches
        ]
        for stretch, data in zip(stretches, client.read(ranges), strict=True):
            for place in stretch:
                start = place.offset - stretch[0].offset
                found[place] = data[start : start + place.size]
                kept.put(self._key(place), found[place] or b"")
        self._fetched |= {place: data for place, data in found.items() if data is not None}

    def _key(self, place: Place) -> str:
        from fashionbatch.remote import cache

        found = self._objects[place.shard]
        return cache.key_of(found.address.url, found.tag, found.size, place.offset, place.size)


def _stretches(places: Sequence[Place]) -> Iterable[list[Place]]:
    """Sorted places, those together that one request is to fetch."""
    stretch: list[Place] = []
    for place in places:
        if stretch:
            last = stretch[-1]
            near = place.offset - last.offset - last.size <= _GAP
            if place.shard != last.shard or not near:
                yield stretch
                stretch = []
        stretch.append(place)
    if stretch:
        yield stretch
