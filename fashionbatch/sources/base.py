"""What a catalogue is made of, and the base class of everything that reads one."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fashionbatch.address import is_address

#: most bytes of an image file
MAX_BYTES = 256 << 20


@dataclass(slots=True, kw_only=True)  # not frozen, which takes four times as long to make
class Item:
    """One photograph of a catalogue.

    Its bytes are ``data``; or the file ``path``; or, with ``offset``, ``size`` bytes of that file.
    Where the path is an address, they are those of what lies there.

    Attributes:
        name: what the catalogue calls it, such as its path below the folder, with ``/``; valid
            UTF-8 (see :func:`to_text`). Of two items with the same name one is left out.
        path: the file that holds it, or its address as text, such as ``"s3://bucket/1.jpg"``.
        data: the bytes themselves, for small catalogues.
        offset: first byte within ``path``, or whatever the source's own ``read`` makes of it.
        size: length in bytes, with ``offset``; and of an address, where it is known.
        version: of what lies at an address, where it is known: another one is not read.
        label: its class, or ``None``.
        split: ``"train"``, ``"val"``, ``"test"``, or ``None`` where the catalogue has no splits.
        group: what must not be torn apart by a split, such as the product; or ``None``.
        positive: attributes it has, as positions in the source's ``attributes``, ascending.
        unknown: attributes of which the catalogue does not know whether it has them; all others
            are negative. To be masked in training.
        box: ``(x1, y1, x2, y2)`` of the garment, in pixels of the image when it is upright.
        landmarks: ``(visibility, x, y)`` each, in the same pixels; visibility 0 visible, 1
            occluded, 2 cut off.
        metadata: whatever else the catalogue knows, as JSON values.
        line: of the catalogue's file, for messages.
    """

    name: str
    path: str | Path | None = None
    data: bytes | None = None
    offset: int | None = None
    size: int | None = None
    version: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    positive: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    box: tuple[int, int, int, int] | None = None
    landmarks: tuple[tuple[int, int, int], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None

    def read(self) -> bytes:
        """The image file's bytes.

        Raises:
            OSError: the file cannot be read, is not a regular one, or is over :data:`MAX_BYTES`.
            ImageError: a host does not give what lies at an address.
            RemoteError: a host cannot be reached.
        """
        if self.data is not None:
            return self.data
        if self.path is None:
            raise ValueError(f"item {self.name!r} has neither path nor data")
        if is_address(self.path):
            from fashionbatch.sources import elsewhere

            return elsewhere.read(self)
        # not blocking: opening a named pipe would wait for its writer for ever
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except ValueError:
            raise OSError(errno.EINVAL, "its path has a NUL character") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                kind = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
                raise OSError(kind, "not a regular file")
            if self.offset is None:
                _refuse_large(status.st_size)
                return _all(descriptor, status.st_size)
            _refuse_large(self.size or 0)
            data = os.pread(descriptor, self.size or 0, self.offset)
            if len(data) != self.size:
                raise OSError(errno.EIO, f"{to_text(os.fspath(self.path))} ends within the image")
            return data
        finally:
            os.close(descriptor)


def _refuse_large(size: int) -> None:
    if size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"the file has over {MAX_BYTES >> 20} MiB")


def _all(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size + 1)  # one more, to see that it has not grown
    if len(data) == size:
        return data
    pieces = [data]
    while piece := os.read(descriptor, 1 << 20):
        size = sum(map(len, pieces)) + len(piece)
        _refuse_large(size)
        pieces.append(piece)
    return b"".join(pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something of the catalogue that is not packed, and why.

    Attributes:
        name: of the item or file, as :class:`Item` has it.
        stage: where it was given up: ``"source"``, ``"shard"``, ``"read"`` or ``"decode"``.
        reason: why, in a few words.
        line: of the catalogue's file, where it has lines.
    """

    name: str
    stage: str
    reason: str
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something that an image can have or not have beside its class.

    Attributes:
        name: such as ``"floral print"``.
        type: such as ``"texture"``, or ``None``.
    """

    name: str
    type: str | None = None


class Source:
    """Base class of catalogues; a subclass overrides :meth:`items`.

    Items are streamed: a source of ten million does not hold them. Instances travel to worker
    processes, so what they hold is small and can be pickled.

    Attributes:
        class_types: from a class to its type, such as ``{"jeans": "lower"}``; complete when
            :meth:`items` has come to its end.
        attributes: what :attr:`Item.positive` counts in; complete before the first item.

    Example::

        class ListSource(fashionbatch.Source):
            def __init__(self, path):
                self.path = path

            def items(self):
                for line in self.path.read_text().splitlines():
                    yield fashionbatch.Item(name=line, path=self.path.parent / line)
    """

    class_types: Mapping[str, str] = MappingProxyType({})
    attributes: Sequence[Attribute] = ()

    def items(self) -> Iterator[Item | Failure]:
        """All items, always in the same order for the same catalogue.

        What is no item but should not be lost without a word (an unusable row, a file of another
        kind) is yielded as a :class:`Failure`.

        Raises:
            SourceError: the catalogue is empty or contradicts itself.
        """
        raise NotImplementedError  # the one method a subclass must write

    def read(self, item: Item) -> bytes:
        """The bytes of an item's image file; called in worker processes.

        Raises:
            OSError: they cannot be read.
            ImageError: they can be read and not be used.
        """
        return item.read()


def to_text(name: str) -> str:
    r"""A file's name as valid UTF-8, reversible by :func:`from_text`.

    Python holds bytes that are not UTF-8 as lone surrogates, which JSON, HDF5 and terminals
    refuse. They become ``\xNN``; a backslash becomes two.

    Example:
        >>> to_text(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
        'caf\\xe9.jpg'
    """
    escaped = name.replace("\\", "\\\\")
    return escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """Undoes :func:`to_text`."""

    def plain(found: re.Match[str]) -> str:
        if found.group() == "\\\\":
            return "\\"
        return bytes([int(found.group(1), 16)]).decode("utf-8", "surrogateescape")

    return re.sub(r"\\\\|\\x([0-9a-f]{2})", plain, text)
