"""Asks hosts, patiently: each request again, with growing pauses, until its time is up."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from fashionbatch import files
from fashionbatch.address import Address
from fashionbatch.errors import FashionbatchError, UsageError
from fashionbatch.remote import stores
from fashionbatch.remote.stores import Aged, Listed, Object, Store
from fashionbatch.remote.trouble import Kind, MissingError, Trouble, of_error, told

T = TypeVar("T")
S = TypeVar("S")

#: names the seconds that a request may take with all its repetitions
SECONDS = "FASHIONBATCH_REMOTE_SECONDS"
#: below the 30 that an image may take: a run ends with what is wrong, and not with failed images
_SECONDS = 20.0
#: of silence, behind which a request is made anew: this share of all that it has
_SILENCE = 1 / 3
_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: requests on their way at the same time
_TOGETHER = 16
#: bytes of one request
PIECE = 8 << 20

#: of this process: connections and threads do not survive a fork
_stores: dict[tuple[int, str], Store] = {}


class Range(NamedTuple):
    """The bytes of an object from ``start`` to ``stop``."""

    found: Object
    start: int
    stop: int


def seconds() -> float:
    """How long a request may take, by default or as the environment says.

    Raises:
        UsageError: it says no number above 0.
    """
    text = os.environ.get(SECONDS, str(_SECONDS))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{SECONDS}={text}: it must be a number of seconds above 0")
    return value


def look(address: Address) -> Object:
    """What lies at an address.

    Raises:
        MissingError: nothing.
        RemoteError: it cannot be asked, or refuses.
    """
    (found,) = look_at([address])
    if isinstance(found, FashionbatchError):
        raise found
    return found


def look_at(addresses: Sequence[Address]) -> list[Object | FashionbatchError]:
    """What lies at addresses, each by itself: an object, or the error."""

    async def one(store: Store, address: Address) -> Object:
        return await _tried(address, lambda: store.look(address))

    return _of_all(addresses, lambda address: address, one)


def need_ranges(found: Object) -> None:
    """Refuses an object of which only the whole can be had, where images of it are read.

    Raises:
        RemoteError: it is one.
    """
    if not found.ranged:
        reason = "it gives whole files only (no range requests); copy them to a disk first"
        raise told(Trouble(Kind.FINAL, reason), found.address, 0)


def read(ranges: Sequence[Range]) -> list[bytes]:
    """Parts of objects of one scheme, of just the length asked for.

    Raises:
        ChangedError: an object is another one than was found.
        RemoteError: it is not there any more, or cannot be had in time.
    """

    async def one(store: Store, part: Range) -> bytes:
        return await _part(store, part)

    if not ranges:
        return []
    made = _each(ranges[0].found.address.scheme, one, ranges)
    for data in made:
        if isinstance(data, FashionbatchError):
            raise data
    return [data for data in made if isinstance(data, bytes)]


def whole(address: Address, most: int) -> bytes:
    """A small object.

    Args:
        address: of it.
        most: bytes that it may have.

    Raises:
        MissingError: it is not there.
        RemoteError: it cannot be had, or is larger.
    """
    found = look(address)
    if found.size > most:
        raise told(Trouble(Kind.FINAL, f"it has {found.size} bytes"), address, 0)
    return b"".join(pieces(found))


def wholes(found: Sequence[Object]) -> list[bytes | FashionbatchError]:
    """Objects of any hosts, each by itself: all of its bytes, or the error.

    As many as are asked for are in memory at the same time.
    """

    async def one(store: Store, each: Object) -> bytes:
        step = PIECE if each.ranged else max(each.size, 1)
        places = range(0, each.size, step)
        ranges = [Range(each, place, min(place + step, each.size)) for place in places]
        return b"".join([await _part(store, part) for part in ranges])

    return _of_all(found, lambda each: each.address, one)


def fetch(found: Object, path: Path) -> None:
    """Writes an object to a file, atomically.

    Raises:
        RemoteError: it cannot be had.
        OSError: it cannot be written.
    """
    with files.atomic(path) as temporary, temporary.open("xb") as file:
        for piece in pieces(found):
            file.write(piece)


def find(pattern: Address) -> list[Address]:
    """What fits a pattern on an object store, sorted: hosts list in any order.

    Raises:
        RemoteError: it cannot be asked, or lists nothing.
    """

    async def one(store: Store, address: Address) -> list[Address]:
        return await _tried(address, lambda: store.find(address))

    (found,) = _each(pattern.scheme, one, [pattern])
    if isinstance(found, FashionbatchError):
        raise found
    return sorted(found, key=lambda address: address.url)


def below(address: Address) -> Iterator[Listed]:
    """All that lies below an address on an object store, in any order.

    Each page of the list is asked for until its own time is up.

    Raises:
        RemoteError: it cannot be asked, refuses, or is no object store.
    """
    token, first = "", True
    while token or first:
        found, token = _page(address, token)
        first = False
        yield from found


def _page(address: Address, token: str) -> tuple[list[Listed], str]:
    async def one(store: Store, where: Address) -> tuple[list[Listed], str]:
        return await _tried(where, lambda: store.page(where, token))

    (made,) = _each(address.scheme, one, [address])
    if isinstance(made, FashionbatchError):
        raise made
    return made


def put(address: Address, data: bytes) -> None:
    """Writes an object, whole or not at all.

    Raises:
        RemoteError: it cannot be written.
        UsageError: nothing is written to such hosts.
    """

    async def one(store: Store, to: Address) -> None:
        await _tried(to, lambda: store.put(to, data), size=len(data), writes=True)

    (made,) = _each(address.scheme, one, [address])
    if isinstance(made, FashionbatchError):
        raise made


def replace(address: Address, data: bytes, tag: str) -> str:
    """Writes an object where nobody else has changed it: of several who try, one does.

    Args:
        address: of it.
        data: what it is going to be.
        tag: of the version that it replaces; empty where nothing may be there.

    Returns:
        the tag of the new version.

    Raises:
        ChangedError: another version is there. It can be this very one, if an answer was lost.
        MissingError: the version that it replaces is gone.
        RemoteError: it cannot be written.
        UsageError: nothing is written to such hosts.
    """

    async def one(store: Store, to: Address) -> str:
        return await _tried(to, lambda: store.replace(to, data, tag), writes=True)

    (made,) = _each(address.scheme, one, [address])
    if isinstance(made, FashionbatchError):
        raise made
    return made


def aged(address: Address) -> Aged:
    """A small object with its age.

    Raises:
        MissingError: it is not there.
        RemoteError: it cannot be had.
        UsageError: nothing is written to such hosts.
    """

    async def one(store: Store, to: Address) -> Aged:
        return await _tried(to, lambda: store.aged(to))

    (made,) = _each(address.scheme, one, [address])
    if isinstance(made, FashionbatchError):
        raise made
    return made


def remove(addresses: Sequence[Address]) -> None:
    """Removes objects; those that are not there are no error.

    Raises:
        RemoteError: one cannot be removed.
        UsageError: nothing is written to such hosts.
    """

    async def one(store: Store, address: Address) -> None:
        await _tried(address, lambda: store.remove(address), writes=True)

    for made in _each(addresses[0].scheme, one, addresses) if addresses else ():
        if isinstance(made, FashionbatchError) and not isinstance(made, MissingError):
            raise made


def pieces(found: Object, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The bytes of an object in some requests; in one of a host that gives no parts.

    Raises:
        ChangedError: it is another one than was found.
        RemoteError: it cannot be had.
    """
    stop = found.size if stop is None else stop
    if found.ranged:
        for place in range(start, stop, PIECE):
            yield from read([Range(found, place, min(place + PIECE, stop))])
        return

    async def whole_one(store: Store, one: Object) -> bytes:
        return await _part(store, Range(one, 0, one.size))

    (data,) = _each(found.address.scheme, whole_one, [found])
    if isinstance(data, FashionbatchError):
        raise data
    yield data[start:stop]


async def _part(store: Store, part: Range) -> bytes:
    length = part.stop - part.start

    async def exact() -> bytes:
        data = await store.get(*part)
        if len(data) != length:
            raise Trouble(Kind.PASSING, f"it gave {len(data)} bytes in place of {length}")
        return data

    if length <= 0:
        return b""
    return await _tried(part.found.address, exact, size=length)


async def _tried(
    address: Address, attempt: Callable[[], Awaitable[T]], *, size: int = 0, writes: bool = False
) -> T:
    """What an attempt gives, the first or a later one; ``size`` bytes take their time.

    Raises:
        RemoteError: it cannot succeed, or did not in time.
        UsageError: it makes no sense.
    """
    patience = seconds() * (1 + size / PIECE)
    end, pause = time.monotonic() + patience, _PAUSE
    trouble = Trouble(Kind.PASSING, "no answer")
    while True:
        try:
            async with asyncio.timeout(max(0.001, end - time.monotonic())):
                return await attempt()
        except UsageError:
            raise
        except Exception as error:
            # the last thing that was heard says more than that the time is up
            late = isinstance(error, TimeoutError) and time.monotonic() >= end
            trouble = trouble if late else of_error(error)
        pause = min(2 * pause, _LONGEST_PAUSE) * random.uniform(0.75, 1.25)
        if trouble.kind is not Kind.PASSING or time.monotonic() + pause >= end:
            raise told(trouble, address, patience, writes=writes) from None
        await asyncio.sleep(pause)


def _of_all(
    items: Sequence[S],
    address: Callable[[S], Address],
    work: Callable[[Store, S], Awaitable[T]],
) -> list[T | FashionbatchError]:
    """As :func:`_each`, of hosts of several kinds."""
    schemes = [address(item).scheme for item in items]
    made: dict[int, T | FashionbatchError] = {}
    for scheme in dict.fromkeys(schemes):
        places = [place for place, own in enumerate(schemes) if own == scheme]
        found = _each(scheme, work, [items[place] for place in places])
        made.update(zip(places, found, strict=True))
    return [made[place] for place in range(len(items))]


def _each(
    scheme: str, work: Callable[[Store, S], Awaitable[T]], items: Sequence[S]
) -> list[T | FashionbatchError]:
    """What comes of each item, at most so many at the same time; errors of users as values."""
    from fsspec import asyn

    store = _store(scheme)

    async def everything() -> list[T | FashionbatchError]:
        room = asyncio.Semaphore(_TOGETHER)

        async def one(item: S) -> T | FashionbatchError:
            async with room:
                try:
                    return await work(store, item)
                except FashionbatchError as error:
                    return error

        return list(await asyncio.gather(*map(one, items)))

    made: list[T | FashionbatchError] = asyn.sync(store.loop, everything)
    return made


def _store(scheme: str) -> Store:
    from fsspec import asyn

    key = os.getpid(), scheme
    if key not in _stores:
        if _stores and not any(process == os.getpid() for process, _ in _stores):
            asyn.reset_lock()  # of a forked process: the parent may have held it
        _stores[key] = stores.make(scheme, seconds() * _SILENCE)
    return _stores[key]
