"""The items of a catalogue on the disk, so that planning holds a few numbers of each in memory."""

from __future__ import annotations

import json
import operator
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from fashionbatch.errors import SourceError
from fashionbatch.sources import Item


def _plain(value: object) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"metadata has a {type(value).__name__}, which is no JSON value")


_HEAD = struct.Struct("<II")
_NO_DATA = 2**32 - 1
_FIELDS = tuple(f.name for f in fields(Item) if f.name != "data")
_values = operator.attrgetter(*_FIELDS)
# ASCII, because paths can hold lone surrogates
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain).encode
_decode = json.JSONDecoder().decode
_TUPLES = ("positive", "unknown", "box", "landmarks")


class SpoolWriter:
    """Appends items to a new file.

    Args:
        path: of the file; one that is there is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)
        self._offset = 0

    def add(self, item: Item) -> int:
        """Appends an item.

        Returns:
            where it starts: what :meth:`Spool.record` takes.

        Raises:
            SourceError: its metadata is no JSON, or a text (the path aside) no UTF-8.
        """
        try:
            text = _encode(_values(item)).encode()
            if b"\\ud" in text:
                _refuse_surrogates(item)
        except (TypeError, ValueError) as error:
            raise SourceError(
                f"item {item.name!r} of the source cannot be kept ({error}): its texts are to be "
                "valid UTF-8, its metadata JSON values"
            ) from error
        length = _NO_DATA if item.data is None else len(item.data)
        start = self._offset
        self._offset += self._file.write(_HEAD.pack(len(text), length) + text + (item.data or b""))
        return start

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


class Spool:
    """Reads items back, in any order.

    Args:
        path: of a file made by :class:`SpoolWriter`.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def record(self, offset: int) -> bytes:
        """The item's bytes in the file: equal for equal items."""
        head = os.pread(self._descriptor, 4096, offset)
        text, data = _HEAD.unpack_from(head)
        size = _HEAD.size + text + (0 if data == _NO_DATA else data)
        return head[:size] if size <= len(head) else os.pread(self._descriptor, size, offset)

    def item(self, record: bytes) -> Item:
        """The item of a :meth:`record`."""
        text, length = _HEAD.unpack_from(record)
        end = _HEAD.size + text
        about = dict(zip(_FIELDS, _decode(record[_HEAD.size : end].decode("ascii")), strict=True))
        for name in _TUPLES:
            about[name] = _tuple(about[name])
        if length != _NO_DATA:
            about["data"] = record[end:]
        return Item(**about)

    def items(self, offsets: Iterator[int]) -> Iterator[Item]:
        """The items that start at the offsets."""
        return (self.item(self.record(offset)) for offset in offsets)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def _refuse_surrogates(item: Item) -> None:
    """Raises UnicodeEncodeError where a text that is to be written is no UTF-8."""
    for text in (item.name, item.label, item.group):
        (text or "").encode()
    json.dumps(item.metadata, ensure_ascii=False, default=_plain).encode()


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value
