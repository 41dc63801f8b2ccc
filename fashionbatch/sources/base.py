"""What a catalogue is made of, and the base class of everything that reads one."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One photograph of a catalogue.

    Attributes:
        name: what the catalogue calls it, such as its path below the folder, with ``/``; valid
            UTF-8 (see :func:`to_text`) and unique in the catalogue.
        path: the file that holds it; or ``data``, the bytes themselves.
        label: its class, or ``None``.
        split: ``"train"``, ``"val"``, ``"test"``, or ``None`` where the catalogue has no splits.
        metadata: whatever else the catalogue knows, as JSON values.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    label: str | None = None
    split: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> bytes:
        """The image file's bytes.

        Raises:
            OSError: the file cannot be read.
        """
        if self.data is not None:
            return self.data
        if self.path is None:
            raise ValueError(f"item {self.name!r} has neither path nor data")
        if self.path.exists() and not self.path.is_file():
            raise OSError(errno.EINVAL, "not a regular file")  # a named pipe would hang
        return self.path.read_bytes()


class Source:
    """Base class of catalogues; a subclass overrides :meth:`items`.

    Example::

        class ListSource(fashionbatch.Source):
            def __init__(self, path):
                self.path = path

            def items(self):
                for line in self.path.read_text().splitlines():
                    yield fashionbatch.Item(name=line, path=self.path.parent / line)
    """

    def items(self) -> Iterator[Item]:
        """All items, always in the same order for the same catalogue.

        Raises:
            SourceError: the catalogue is empty or contradicts itself.
        """
        raise NotImplementedError  # the one method a subclass must write


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
