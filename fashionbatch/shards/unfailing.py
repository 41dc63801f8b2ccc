"""A file that HDF5 can be trusted with on a disk that is full: HDF5 crashes where a write fails."""

from __future__ import annotations

from io import SEEK_SET
from pathlib import Path
from types import TracebackType
from typing import Self


class Unfailing:
    """Takes what it is given whether or not it can be written, and raises in the end.

    A context manager around the HDF5 file.

    Args:
        path: of the file, which must not be there.

    Raises:
        OSError: at the end of the block, or by :meth:`check`: something could not be written.

    Example:
        >>> with Unfailing(path) as opened, h5py.File(opened, "w") as file:  # doctest: +SKIP
        ...     file["a"] = array
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x+b", buffering=0)
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is None:
            self.check()

    def check(self) -> None:
        """Raises what went wrong so far."""
        if self._error is not None:
            raise self._error

    def write(self, data: bytes | memoryview) -> int:
        """Says that all was written."""
        view = memoryview(data).cast("B")
        try:
            done = 0
            while self._error is None and done < len(view):
                done += self._file.write(view[done:])
        except OSError as error:
            self._error = error
        return len(view)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """What was written there; zeros where it could not be."""
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view)
        view[count:] = bytes(len(view) - count)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """Part of what h5py takes for a file, and not used."""
        raise NotImplementedError

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """As of files."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of files."""
        return self._file.tell()

    def truncate(self, size: int) -> int:
        """Says that it was done."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size

    def flush(self) -> None:
        """There is nothing in between."""
