"""The items of a catalogue on the disk, so that planning holds a few numbers of each in memory."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from fashionbatch.sources import Item

_HEAD = struct.Struct("<II")
_DEFAULTS = {f.name: f.default for f in fields(Item)} | {"metadata": {}}
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
        """
        about = {k: v for k in _DEFAULTS if (v := getattr(item, k)) != _DEFAULTS[k]}
        data = about.pop("data", b"")
        if "path" in about:
            about["path"] = os.fspath(about["path"])
        if "metadata" in about:
            about["metadata"] = dict(about["metadata"])
        # ASCII, because paths can hold lone surrogates
        text = json.dumps(about, separators=(",", ":"), allow_nan=False).encode()
        start = self._offset
        self._offset += self._file.write(_HEAD.pack(len(text), len(data)) + text + data)
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
        size = _HEAD.size + text + data
        return head[:size] if size <= len(head) else os.pread(self._descriptor, size, offset)

    def item(self, record: bytes) -> Item:
        """The item of a :meth:`record`."""
        text, data = _HEAD.unpack_from(record)
        end = _HEAD.size + text
        about: dict[str, Any] = json.loads(record[_HEAD.size : end])
        if data:
            about["data"] = record[end:]
        if "path" in about:
            about["path"] = Path(about["path"])
        for name in _TUPLES:
            if name in about:
                about[name] = _tuple(about[name])
        return Item(**about)

    def items(self, offsets: Iterator[int]) -> Iterator[Item]:
        """The items that start at the offsets."""
        return (self.item(self.record(offset)) for offset in offsets)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value
