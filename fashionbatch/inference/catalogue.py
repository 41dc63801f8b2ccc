"""Images by row, wherever a prediction finds them: in a folder, at addresses, or in shards."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.address import Address
from fashionbatch.errors import ImageError, ShardError, UsageError
from fashionbatch.shards.read import ShardSet
from fashionbatch.shards.travel import Parcel
from fashionbatch.sources import Item
from fashionbatch.sources.base import from_text, to_text
from fashionbatch.sources.folder import is_image


class Catalogue(Protocol):
    """Images by row."""

    def read(self, row: int) -> bytes:
        """The image file's bytes; raises ImageError where they cannot be used."""
        ...

    def name(self, row: int) -> str:
        """What the catalogue calls it."""
        ...

    def key(self, row: int) -> str:
        """Its key in its shard."""
        ...

    def labels(
        self, rows: npt.NDArray[np.int64], numbers: Mapping[str, int]
    ) -> npt.NDArray[np.int32]:
        """int32 ``[n]``: the number of the class of each, -1 where it is none of these."""
        ...

    def sha256(self, row: int) -> bytes:
        """Of the image's bytes; those of a folder are read for it. Raises as :meth:`read`."""
        ...

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> int:
        """Of these images; what cannot be read has none."""
        ...

    def absolute(self) -> Catalogue:
        """The same for a process on another machine, which opens it with :meth:`here`."""
        ...

    def here(self, stack: ExitStack) -> Catalogue:
        """The same, opened where this is called; ``stack`` ends what that takes."""
        ...

    def parcel(self, rows: npt.NDArray[np.int64]) -> Parcel | None:
        """What is sent to another machine with rows, int64 ``[n]`` and ascending, if anything."""
        ...

    def unpack(self, parcel: Parcel) -> None:
        """Takes what :meth:`parcel` gave there."""
        ...


class Folder:
    """Image files.

    Args:
        root: the folder that they lie in.
        names: their paths below it, as :func:`fashionbatch.sources.base.to_text` writes them.
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = os.fspath(root)
        self.names = names

    def content(self, rows: slice) -> str | None:
        """Stands for the content of some images, where it is known before they are read."""
        return None

    def read(self, row: int) -> bytes:
        """See :class:`Catalogue`."""
        name = self.names[row]
        try:
            return Item(name=name, path=f"{self.root}/{from_text(name)}").read()
        except OSError as error:
            raise ImageError("read", error.strerror or type(error).__name__) from None

    def name(self, row: int) -> str:
        """See :class:`Catalogue`."""
        return self.names[row]

    def key(self, row: int) -> str:
        """See :class:`Catalogue`."""
        return f"{row:09d}"

    def labels(
        self, rows: npt.NDArray[np.int64], numbers: Mapping[str, int]
    ) -> npt.NDArray[np.int32]:
        """See :class:`Catalogue`: of the folders that the images lie in."""
        parents = (self.names[row].rpartition("/")[0].rpartition("/")[2] for row in rows.tolist())
        return np.fromiter((numbers.get(p, -1) for p in parents), np.int32, len(rows))

    def sha256(self, row: int) -> bytes:
        """See :class:`Catalogue`."""
        return hashlib.sha256(self.read(row)).digest()

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> int:
        """See :class:`Catalogue`."""
        total = 0
        for row in rows.tolist():
            with suppress(OSError):
                total += os.stat(f"{self.root}/{from_text(self.names[row])}").st_size
        return total

    def absolute(self) -> Folder:
        """See :class:`Catalogue`."""
        return Folder(Path(self.root).absolute(), self.names)

    def here(self, stack: ExitStack) -> Folder:
        """See :class:`Catalogue`."""
        return self

    def parcel(self, rows: npt.NDArray[np.int64]) -> None:
        """See :class:`Catalogue`; the names went before."""

    def unpack(self, parcel: Parcel) -> None:
        """See :class:`Catalogue`."""


class Elsewhere(Folder):
    """Images at addresses.

    Args:
        items: them; their versions, where all are known, stand for what they hold.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__(Path(), [item.name for item in items])
        from fashionbatch.sources.elsewhere import Ahead

        self.items = items
        self._ahead = Ahead()

    @classmethod
    def at(cls, address: Address, limit: int | None) -> Elsewhere:
        """One image, or all that lie below an address of an object store.

        Raises:
            SourceError: there are none.
            RemoteError: a host cannot be reached, or refuses.
            UsageError: it is a pattern.
        """
        from fashionbatch.sources import elsewhere
        from fashionbatch.sources.objects import Objects

        if is_image(address.path):
            if address.is_pattern:
                raise UsageError(f"{address}: name the folder of the images, {address.parent}")
            return cls(elsewhere.images(address) or ())
        objects = Objects(address)
        parts = (parts for parts, hidden in objects.walk() if hidden is None)
        return cls([objects.item(p, to_text("/".join(p))) for p in itertools.islice(parts, limit)])

    def __reduce__(self) -> tuple[type[Elsewhere], tuple[Sequence[Item]]]:
        return type(self), (self.items,)

    def content(self, rows: slice) -> str | None:
        """See :class:`Folder`."""
        known = [(item.name, item.size, item.version) for item in self.items[rows]]
        return None if any(None in each for each in known) else files.fingerprint(known)

    def expect(self, rows: Iterable[int]) -> None:
        """See :class:`fashionbatch.pipeline.foresight.Foreseeing`."""
        self._ahead.expect(self.items[row] for row in rows)

    def read(self, row: int) -> bytes:
        """See :class:`Catalogue`.

        Raises:
            RemoteError: a host cannot be reached.
        """
        return self._ahead.read(self.items[row])

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> int:
        """See :class:`Catalogue`."""
        return sum(self.items[row].size or 0 for row in rows.tolist())

    def absolute(self) -> Elsewhere:
        """See :class:`Catalogue`."""
        return self


class PackedCatalogue:
    """Images in shards."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards

    def read(self, row: int) -> bytes:
        """See :class:`Catalogue`; a shard that vanishes or shrinks costs its own images only."""
        try:
            return self.shards.read(row)
        except ShardError as error:
            # the same words wherever the shards lie
            raise ImageError("shard", str(error).replace(f"{self.shards.path}/", "")) from None

    def expect(self, rows: Iterable[int]) -> None:
        """See :class:`fashionbatch.pipeline.foresight.Foreseeing`."""
        self.shards.expect(rows)

    def name(self, row: int) -> str:
        """See :class:`Catalogue`."""
        return self.shards.name(row)

    def key(self, row: int) -> str:
        """See :class:`Catalogue`."""
        return self.shards.key(row)

    def labels(
        self, rows: npt.NDArray[np.int64], numbers: Mapping[str, int]
    ) -> npt.NDArray[np.int32]:
        """See :class:`Catalogue`."""
        # what has no label, -1, takes the last
        table = np.array([*(numbers.get(c, -1) for c in self.shards.classes), -1], np.int32)
        found: npt.NDArray[np.int32] = table[self.shards.index.take("label", rows)]
        return found

    def sha256(self, row: int) -> bytes:
        """See :class:`Catalogue`; as packed."""
        return self.shards.sha256(row)

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> int:
        """See :class:`Catalogue`."""
        return int(self.shards.index.take("size", rows).sum())

    def absolute(self) -> PackedCatalogue:
        """See :class:`Catalogue`."""
        return PackedCatalogue(self.shards.absolute())

    def here(self, stack: ExitStack) -> PackedCatalogue:
        """See :class:`Catalogue`."""
        return PackedCatalogue(self.shards.here(stack))

    def parcel(self, rows: npt.NDArray[np.int64]) -> Parcel | None:
        """See :class:`Catalogue`."""
        return self.shards.parcel(rows)

    def unpack(self, parcel: Parcel) -> None:
        """See :class:`Catalogue`."""
        self.shards.unpack(parcel)
