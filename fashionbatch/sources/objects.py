"""What lies below an address of an object store, as if it were files in folders."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from fashionbatch.address import Address
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.remote import client
from fashionbatch.sources.base import Item
from fashionbatch.sources.folder import is_image, left_out

_DATA_SET = ("dataset.json",)


class Objects:
    """See :class:`fashionbatch.sources.folder.Tree`; sorted, because hosts list in any order.

    Args:
        address: of an object store.

    Raises:
        SourceError: there is nothing, or there are shards.
        RemoteError: the host cannot be reached, or refuses.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        above = len(address.key.rstrip("/")) + 1 if address.key else 0
        self._found: list[tuple[tuple[str, ...], int, str]] = sorted(
            (tuple(one.key[above:].split("/")), one.size, one.tag)
            for one in client.below(address)
            # what ends with a slash stands for a folder
            if not one.key.endswith("/")
        )
        if not self._found:
            raise SourceError(f"{address} holds no files: see how it is written")
        if self._holds_shards():
            raise SourceError(
                f"{address} holds shards: train and predict read them as they are; to pack them "
                "anew, copy them to a disk"
            )

    def __len__(self) -> int:
        return len(self._found)

    def _holds_shards(self) -> bool:
        names = [parts for parts, _, _ in self._found]
        if any(parts == _DATA_SET for parts in names):
            return True
        tars = any(parts[-1].endswith(".tar") for parts in names)
        return tars and not any(is_image(parts[-1]) for parts in names)

    def walk(self) -> Iterator[tuple[tuple[str, ...], str | None]]:
        """Every file, and why it is to be left out; a hidden folder comes as one entry."""
        hidden: tuple[str, ...] | None = None
        for parts, _, _ in self._found:
            if hidden is not None and parts[: len(hidden)] == hidden:
                continue
            hidden = _hidden(parts)
            if hidden is not None:
                yield hidden, left_out(hidden[-1])
            else:
                yield parts, self._unusable(parts)

    def level(self, parts: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
        """See :class:`fashionbatch.sources.folder.Tree`."""
        depth, last = len(parts), None
        for place in range(bisect.bisect_left(self._found, (parts, 0, "")), len(self._found)):
            found = self._found[place][0]
            if found[:depth] != parts:
                return
            entry = found[depth], len(found) > depth + 1
            if entry != last and _hidden(found) is None and not self._unusable(found):
                last = entry
                yield entry

    def item(self, parts: tuple[str, ...], name: str) -> Item:
        """See :class:`fashionbatch.sources.folder.Tree`."""
        place = bisect.bisect_left(self._found, (parts, 0, ""))
        _, size, tag = self._found[place]
        path = (self.address / "/".join(parts)).url
        return Item(name=name, path=path, size=size, version=tag or None)

    def _unusable(self, parts: tuple[str, ...]) -> str | None:
        if "" in parts:
            return "a folder in its name is called nothing"
        try:
            _ = self.address / "/".join(parts)
        except UsageError as error:
            return str(error)
        return None


def _hidden(parts: tuple[str, ...]) -> tuple[str, ...] | None:
    """The first part that is not of a catalogue, with those in front of it."""
    return next((parts[: place + 1] for place, part in enumerate(parts) if left_out(part)), None)
