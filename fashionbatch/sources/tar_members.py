"""The members of a tar file, whoever made it.

Nothing in it is trusted: no member is unpacked or used as a path, no size is believed before the
file is seen to be that long, and a file that is damaged anywhere outside the members' contents is
refused as a whole.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from fashionbatch.errors import ShardError
from fashionbatch.sources.base import to_text
from fashionbatch.sources.folder import IMAGE_SUFFIXES

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

_BLOCK = 512
_PIECE = 1 << 20
# room for a path and some extended attributes; tarfile asks for as much memory as a header claims
_MAX_HEADER = 64 << 10
# tarfile's patterns take seconds for a header full of digits
_DIGITS = re.compile(rb"[0-9]{1000}")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


class OpenTar:
    """An open file; also what tarfile reads headers from, and no more than headers.

    Args:
        read_at: gives up to so many bytes (its second argument) from an offset on (its first).
        length: of the file in bytes.
        where: the file is, for messages.
    """

    def __init__(self, read_at: Callable[[int, int], bytes], length: int, where: str) -> None:
        self.length = length
        self.where = where
        self._read_at = read_at
        self._position = 0

    def read(self, size: int) -> bytes:
        """For tarfile: the next bytes, if they can be a header."""
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self.at(self._position, size)
        if _DIGITS.search(data):
            raise tarfile.ReadError("a header of digits only")
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        """For tarfile."""
        self._position = position

    def tell(self) -> int:
        """For tarfile."""
        return self._position

    def at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on; fewer at the end of the file."""
        return self._read_at(offset, size)

    def pieces(self, offset: int, end: int) -> Iterator[bytes]:
        """All bytes from ``offset`` to ``end``."""
        while offset < end:
            piece = self.at(offset, min(_PIECE, end - offset))
            if not piece:
                raise OSError("it became shorter while it was read")
            yield piece
            offset += len(piece)


@dataclass(frozen=True, slots=True)
class Member:
    """A member, and what WebDataset makes of its name.

    Attributes:
        name: its path, as text.
        key: its path up to the first dot of the file name; empty where nothing stands before it.
        stem: its path up to the last dot.
        extension: what follows the last dot, in lower case.
        offset: first byte of its content in the file.
        size: length of its content in bytes.
        fault: why it cannot be used, or ``None``.
    """

    name: str
    key: str
    stem: str
    extension: str
    offset: int
    size: int
    fault: str | None

    @property
    def is_picture(self) -> bool:
        """Whether it is named like a photograph, of whatever kind."""
        return f".{self.extension}" in IMAGE_SUFFIXES

    @property
    def is_image(self) -> bool:
        """Whether it is named like one that we read."""
        return self.extension in IMAGE_EXTENSIONS


@contextmanager
def open_tar(path: Path) -> Iterator[OpenTar]:
    """Opens a tar file; while it is open, an error of reading it becomes one line.

    Args:
        path: of the tar file, uncompressed.

    Raises:
        ShardError: it cannot be read, or is not a regular file.
    """
    where = to_text(os.fspath(path))
    descriptor = None
    try:
        # not blocking: opening a named pipe would wait for its writer for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ShardError(f"{where} is not a regular file: name a tar file")
        yield OpenTar(_reading(descriptor), status.st_size, where)
    except OSError as error:
        raise ShardError(
            f"{where} cannot be read ({error.strerror or error}): mend it, or leave it out"
        ) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _reading(descriptor: int) -> Callable[[int, int], bytes]:
    return lambda offset, size: os.pread(descriptor, size, offset)


def refuse_compressed(file: OpenTar) -> None:
    """Refuses what is no plain tar file by its first bytes.

    Raises:
        ShardError: it is compressed.
        OSError: it cannot be read.
    """
    head = file.at(0, _BLOCK)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise ShardError(
                f"{file.where} is compressed ({name}), so no image in it can be found by its "
                "offset: unpack it to a plain tar file"
            )


def members(file: OpenTar) -> Iterator[Member]:
    """Every member but folders, in order, up to an end that is one.

    Raises:
        ShardError: it is not a tar file, or is damaged or cut short; after the members before.
        OSError: it cannot be read.

    Example:
        >>> with open_tar(Path("part-000000.tar")) as file:  # doctest: +SKIP
        ...     print([member.name for member in members(file)])
        ['000000.jpg', '000000.json']
    """
    tar: tarfile.TarFile | None = None
    end = 0
    while True:
        try:
            tar = tar or tarfile.TarFile(
                fileobj=cast(IO[bytes], file), encoding="utf-8", errors="surrogateescape"
            )
            info = tar.next()
        except OSError:
            raise
        except Exception as error:  # tarfile raises nearly anything on headers that lie
            if tar is None:
                raise ShardError(
                    f"{file.where} is not a tar file ({error}): make it again"
                ) from error
            raise _damaged(file.where, end, str(error)) from error
        if info is None:
            break
        if tar.offset <= end:  # a negative size: tarfile would go round in circles
            raise _damaged(file.where, end, "a header points backwards")
        end = tar.offset
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        if info.isfile() and not info.issparse() and not _fits(info, file.length):
            raise ShardError(
                f"{file.where} ends within {_text(info.name)!r}: copy it again, or make it again"
            )
        if not info.isdir():
            yield _member(info)
    # tarfile takes a damaged header for the end: the true end is two blocks of zeros, and nothing
    if file.length - end < 2 * _BLOCK:
        raise _damaged(file.where, end, "its end is missing")
    if any(any(piece) for piece in file.pieces(end, file.length)):
        raise _damaged(file.where, end, "no header, and not the end")


def _fits(info: tarfile.TarInfo, length: int) -> bool:
    return 0 <= info.size <= length - info.offset_data


def _damaged(where: str, position: int, reason: str) -> ShardError:
    return ShardError(
        f"{where} is damaged or cut short at byte {position} ({reason}): copy it again, or make "
        "it again"
    )


def _member(info: tarfile.TarInfo) -> Member:
    name = _text(info.name)
    folder, slash, base = name.rpartition("/")
    first = base.partition(".")[0]
    stem, dot, extension = base.rpartition(".")
    fault = None
    if not info.isfile():
        fault = f"is {_KINDS.get(info.type, 'a member of an unknown kind')}, not a file"
    elif info.issparse():
        fault = "is a sparse file: its bytes do not lie together"
    return Member(
        name=name,
        key=folder + slash + first if first and dot else "",
        stem=folder + slash + stem,
        extension=extension.lower() if dot else "",
        offset=info.offset_data,
        size=info.size,
        fault=fault,
    )


def _text(name: str) -> str:
    return to_text(name).replace("\0", "\\x00")  # only a PAX header can hold one; HDF5 cannot
