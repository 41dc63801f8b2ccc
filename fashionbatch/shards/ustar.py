"""Writing a shard: a plain ustar file, hashed on the way."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fashionbatch.errors import UsageError
from fashionbatch.shards.index import EXTENSIONS

_BLOCK = 512
_END = b"\0" * (2 * _BLOCK)  # a tar file ends with two empty blocks
_ZEROS = b"\0" * _BLOCK
_PIECE = 1 << 20  # bytes that are hashed and written together


class TarWriter:
    """A plain ustar file that is written from front to end, and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._bytes = 0
        self.size = 0
        self.sha256 = ""

    def add(self, key: str, members: list[tuple[str, bytes]]) -> int:
        """Appends the members of a sample.

        Args:
            key: of the sample.
            members: extension and bytes of each.

        Returns:
            where the bytes of the first member start.
        """
        start = self.size
        own = key.encode("ascii")
        key_sum = sum(own)
        for extension, data in members:
            size = len(data)
            pad = -size % _BLOCK
            self._waiting += (_header(own, key_sum, extension, size), data, _ZEROS[:pad])
            self.size += _BLOCK + size + pad
        if self.size - self._bytes > _PIECE:
            self._flush()
        return start + _BLOCK

    def _flush(self) -> None:
        # one hash and one write for many small pieces
        piece = b"".join(self._waiting)
        self._waiting.clear()
        self._hash.update(piece)
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]
        self._bytes = self.size

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if error is None:
                self._waiting.append(_END)
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
