"""A file that is read once, from front to end, and hashed on the way."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from fashionbatch.address import Address, Location

_PIECE = 4 << 20


class Readable(Protocol):
    """What gives its bytes one after the other."""

    def readinto(self, buffer: bytearray, /) -> int | None:
        """The next bytes into a buffer; how many, 0 at the end."""
        ...


class Stream:
    """The bytes of a file.

    Args:
        file: at its start.

    Attributes:
        position: of the next byte.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._buffer = bytearray(_PIECE)
        self._piece = memoryview(b"")
        self._digest = hashlib.sha256()
        self.position = 0

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next bytes; a piece is valid until the next one is asked for.

        Raises:
            EOFError: the file ends before.
        """
        while size:
            if not self._piece:
                self._fill()
            part, self._piece = self._piece[:size], self._piece[size:]
            if not part:
                raise EOFError
            self.position += len(part)
            size -= len(part)
            yield part

    def take(self, size: int) -> bytes:
        """The next bytes."""
        return b"".join(bytes(piece) for piece in self.pieces(size))

    def sha256(self, size: int) -> bytes:
        """The hash of the next bytes."""
        digest = hashlib.sha256()
        for piece in self.pieces(size):
            digest.update(piece)
        return digest.digest()

    def finish(self) -> str:
        """Reads the rest; gives the SHA-256 of the whole file, hexadecimal."""
        while True:
            self.position += len(self._piece)
            self._fill()
            if not self._piece:
                return self._digest.hexdigest()

    def _fill(self) -> None:
        count = self._file.readinto(self._buffer)
        self._piece = memoryview(self._buffer)[:count]
        self._digest.update(self._piece)


@contextmanager
def opened(path: Location) -> Iterator[Stream]:
    """A file at its start, or an object.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or its name cannot be one.
        RemoteError: the object cannot be had.
    """
    if isinstance(path, Address):
        from fashionbatch.remote import client
        from fashionbatch.remote.stream import RemoteStream

        yield Stream(RemoteStream(client.look(path)))
        return
    # not blocking: opening a named pipe would wait for its writer for ever
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with io.FileIO(descriptor) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        yield Stream(file)


def why(error: Exception) -> str:
    """Why :func:`opened` or reading failed, in a few words."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
