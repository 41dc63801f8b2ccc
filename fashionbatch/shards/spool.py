"""The items of a catalogue on the disk, so that planning holds a few numbers of each in memory."""

from __future__ import annotations

import json
import marshal
import mmap
import operator
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fashionbatch.errors import SourceError
from fashionbatch.sources import Item

_HEAD = struct.Struct("<II")
_NO_DATA = 2**32 - 1
#: in marshal's format 2, in which equal values make equal bytes; a path can hold lone surrogates
_COMMON = ("name", "path", "label", "split", "group", "offset", "size", "version", "line")
#: what few items have, as JSON
_RARE = ("positive", "unknown", "box", "landmarks", "metadata")
_MARSHAL = 2
_common = operator.attrgetter(*_COMMON)
_rare = operator.attrgetter(*_RARE)
_BASIC = {str, int, type(None)}


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"metadata has a {type(value).__name__}, which is no JSON value")


# ASCII, so that it refuses nothing that a text can hold; what is refused is decided in one place
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain).encode
_decode = json.JSONDecoder().decode


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
            common = _common(item)
            if not _BASIC.issuperset(map(type, common)):
                common = tuple(map(_basic, common))
            rare = _rare(item)
            more = _encode(rare) if any(rare) else ""
            text = marshal.dumps((common, more), _MARSHAL)
            if b"\xed" in text or "\\ud" in more:
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
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                self._map = mmap.mmap(-1, 1)  # an empty file cannot be mapped

    def record(self, offset: int) -> bytes:
        """The item's bytes in the file: equal for equal items."""
        text, data = _HEAD.unpack_from(self._map, offset)
        return self._map[offset : offset + _HEAD.size + text + (0 if data == _NO_DATA else data)]

    def item(self, record: bytes) -> Item:
        """The item of a :meth:`record`."""
        text, length = _HEAD.unpack_from(record)
        end = _HEAD.size + text
        common, more = marshal.loads(record[_HEAD.size : end])
        name, path, label, split, group, offset, size, version, line = common
        item = Item(
            name=name,
            path=path,
            data=None if length == _NO_DATA else record[end:],
            label=label,
            split=split,
            group=group,
            offset=offset,
            size=size,
            version=version,
            line=line,
        )
        if more:
            *numbers, item.metadata = _decode(more)
            item.positive, item.unknown, item.box, item.landmarks = map(_tuple, numbers)
        return item

    def items(self, offsets: Iterator[int]) -> Iterator[Item]:
        """The items that start at the offsets."""
        return (self.item(self.record(offset)) for offset in offsets)

    def close(self) -> None:
        """Closes the file."""
        self._map.close()


def _basic(value: object) -> str | int | None:
    """A plain text or number: a path is one, and NumPy's."""
    if value is None:
        return None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return str(value) if isinstance(value, str) else operator.index(value)  # type: ignore[arg-type]  # TypeError for all else


def _refuse_surrogates(item: Item) -> None:
    """Raises UnicodeEncodeError where a text that is to be written is no UTF-8."""
    for text in (item.name, item.label, item.group):
        (text or "").encode()
    json.dumps(item.metadata, ensure_ascii=False, default=_plain).encode()


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value
