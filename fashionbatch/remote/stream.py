"""An object that is read from front to end, with looks back at what was read just before."""

from __future__ import annotations

import hashlib
from collections import deque

from fashionbatch.remote import client
from fashionbatch.remote.client import PIECE, Range
from fashionbatch.remote.stores import Object

#: pieces that are kept in memory
_KEPT = 3


class RemoteStream:
    """Every byte of an object, once, in requests of some mebibytes that follow each other.

    Args:
        found: the object; a host that gives no parts of it gives all of it at once.
    """

    def __init__(self, found: Object) -> None:
        self.found = found
        self._pieces: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)
        self._digest = hashlib.sha256()
        self._fetched = 0
        self._position = 0

    def at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on; fewer at the end.

        Raises:
            ChangedError: it is not the object that was found.
            RemoteError: it cannot be had.
        """
        stop = min(offset + size, self.found.size)
        if stop <= offset:
            return b""
        while self._fetched < stop:
            self._fetch()
        if offset < self._pieces[0][0]:
            return client.read([Range(self.found, offset, stop)])[0]
        return b"".join(
            data[max(0, offset - start) : stop - start]
            for start, data in self._pieces
            if start < stop and start + len(data) > offset
        )

    def readinto(self, buffer: bytearray) -> int:
        """The next bytes into a buffer; how many, 0 at the end. Raises as :meth:`at`."""
        data = self.at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def sha256(self) -> str:
        """Of the whole object, hexadecimal; reads what is left of it. Raises as :meth:`at`."""
        while self._fetched < self.found.size:
            self._fetch()
        return self._digest.hexdigest()

    def _fetch(self) -> None:
        start, size = self._fetched, self.found.size
        stop = min(start + PIECE, size) if self.found.ranged else size
        data = b"".join(client.pieces(self.found, start, stop))
        self._digest.update(data)
        self._pieces.append((start, data))
        self._fetched = stop
