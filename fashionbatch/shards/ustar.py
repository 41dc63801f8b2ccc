"""Writing a shard: a plain ustar file, hashed on the way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fashionbatch.errors import UsageError
from fashionbatch.shards.index import EXTENSIONS

_BLOCK = 512
_END = b"\0" * (2 * _BLOCK)  # a tar file ends with two empty blocks
_ZEROS = b"\0" * _BLOCK
_PIECE = 1 << 20  # bytes that are written together, without copying them into one piece
_MOST_PIECES = 1000  # of one call: POSIX grants 16, Linux and macOS 1,024


class TarWriter:
    """A plain ustar file that is written from front to end, and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._between = b""  # what comes before the next member's bytes, hashed together with it
        self._bytes = 0
        self.size = 0
        self.sha256 = ""

    def add(self, key: str, members: list[tuple[str, bytes]]) -> int:
        """Appends the members of a sample.

        Args:
            key: of the sample.
            members: extension and bytes of each; the first one is the large one.

        Returns:
            where the bytes of the first member start.
        """
        own = key.encode("ascii")
        key_sum = sum(own)
        (extension, data), *small = members
        pieces = [_ZEROS[: -len(data) % _BLOCK]]
        for ending, text in small:
            pieces += (
                _header(own, key_sum, ending, len(text)),
                text,
                _ZEROS[: -len(text) % _BLOCK],
            )
        before = self._between + _header(own, key_sum, extension, len(data))
        self._between = b"".join(pieces)
        self._append(before)
        self._append(data)
        start = self.size + _BLOCK
        self.size += _BLOCK + len(data) + len(self._between)
        return start

    def _append(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._waiting.append(piece)
        self._bytes += len(piece)
        if self._bytes > _PIECE or len(self._waiting) == _MOST_PIECES:
            self._flush()

    def _flush(self) -> None:
        pieces, self._waiting = self._waiting, []
        written = os.writev(self._file.fileno(), pieces)
        if written < self._bytes:  # the disk is filling up
            view = memoryview(b"".join(pieces))[written:]
            while view:
                view = view[self._file.write(view) :]
        self._bytes = 0

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if error is None:
                self._append(self._between + _END)
                self.size += len(_END)
                self._flush()
                self.sha256 = self._hash.hexdigest()
        finally:
            self._file.close()


# everything of a ustar header (POSIX.1-1988) but name, size and checksum: a plain file that all may
# read, without clock, owner or machine
_MODE = b"0000644\x000000000\x000000000\x00"
_TIME = b"00000000000\x00"
_REST = b"0".ljust(101, b"\0") + b"ustar\x0000".ljust(255, b"\0")
_SUM = sum(_MODE) + sum(_TIME) + 8 * ord(" ") + sum(_REST)  # the checksum counts as blanks
_ENDINGS = {
    e: (b"." + e.encode(), ord(".") + sum(e.encode())) for e in (*EXTENSIONS, "json", "cls")
}


def _header(key: bytes, key_sum: int, extension: str, size: int) -> bytes:
    if size >= 8**11:
        raise UsageError(f"an image has {size} bytes: a shard holds images below 8 GiB")
    ending, ending_sum = _ENDINGS[extension]
    length = b"%011o" % size
    total = _SUM + key_sum + ending_sum + sum(length)
    name = (key + ending).ljust(100, b"\0")
    return b"%b%b%b\0%b%06o\0 %b" % (name, _MODE, length, _TIME, total, _REST)
