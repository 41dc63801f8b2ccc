"""What a data set of ours says of itself, compared with what lies beside it, here or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fashionbatch.address import Address, Location
from fashionbatch.errors import FashionbatchError, ShardError
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from fashionbatch.remote.stores import Object


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A data set of ours.

    Attributes:
        folder: of its small files, on this disk.
        manifest: what it states.
        index: where each item lies.
        damaged: from a shard's number to why it cannot be used.
        objects: the shards, where they lie elsewhere.
        key: of the copy of its small files, see :class:`fashionbatch.remote.mirror.Mirror`.
    """

    folder: Path
    manifest: Manifest
    index: Index
    damaged: Mapping[int, str]
    objects: tuple[Object, ...] = ()
    key: str = ""


def at_path(folder: Path, *, whole: bool = True) -> Opened:
    """A data set in a folder of this machine.

    Args:
        folder: that it lies in.
        whole: have the index in memory, in place of reading it block by block.

    Raises:
        ShardError: its manifest or index is damaged.
    """
    manifest = Manifest.load(folder)
    index = _index(folder, manifest, whole=whole)
    sizes: list[int | str] = []
    for shard in manifest.shards:
        try:
            sizes.append((folder / shard.file).stat().st_size)
        except OSError as error:
            sizes.append(str(error.strerror))
    damaged = _damaged(folder, manifest, index, sizes)
    return Opened(folder=folder, manifest=manifest, index=index, damaged=damaged)


def at_address(address: Address, *, whole: bool = True) -> Opened:
    """A data set elsewhere; its small files are fetched to this disk.

    Args:
        address: that it lies at.
        whole: as of :func:`at_path`.

    Raises:
        MissingError: there is none.
        ShardError: its manifest or index is damaged.
        RemoteError: the host cannot be reached, refuses, or gives no parts of files.
    """
    from fashionbatch.remote import client
    from fashionbatch.remote.mirror import Mirror
    from fashionbatch.remote.stores import Object
    from fashionbatch.remote.trouble import ChangedError, MissingError

    mirror = Mirror(address, MANIFEST)
    try:
        manifest = Manifest.load(mirror.folder)
        for record in (manifest.index, manifest.failures):
            assert record is not None
            mirror.file(record.file, record.sha256)
        index = _index(mirror.folder, manifest, whole=whole)
    except (ShardError, MissingError, ChangedError) as error:
        # what is said of the copy is meant of what it was copied from
        raise ShardError(str(error).replace(str(mirror.folder), str(address))) from None
    sizes: list[int | str] = []
    objects: list[Object] = []
    files = [address / shard.file for shard in manifest.shards]
    for file, found in zip(files, client.look_at(files), strict=True):
        if isinstance(found, FashionbatchError) and not isinstance(found, MissingError):
            raise found
        if isinstance(found, Object):
            client.need_ranges(found)
            sizes.append(found.size)
            objects.append(found)
        else:
            sizes.append("no such object")
            objects.append(Object(file, 0, ""))
    damaged = _damaged(address, manifest, index, sizes)
    return Opened(
        folder=mirror.folder,
        manifest=manifest,
        index=index,
        damaged=damaged,
        objects=tuple(objects),
        key=mirror.key,
    )


def _index(folder: Path, manifest: Manifest, *, whole: bool) -> Index:
    assert manifest.index is not None
    path = folder / manifest.index.file
    index = Index.load(path) if whole else Index.open(path)
    shards = len(index.per_shard(len(manifest.shards)))
    if shards != len(manifest.shards) or len(index) != manifest.items:
        raise ShardError(f"{path} does not fit {MANIFEST}: pack the catalogue again")
    return index


def _damaged(
    where: Location, manifest: Manifest, index: Index, sizes: Sequence[int | str]
) -> dict[int, str]:
    """The shards that are not as they are stated, given the size of each or why it has none."""
    counts = index.per_shard(len(manifest.shards)).tolist()
    damaged = {}
    for number, (shard, count) in enumerate(zip(manifest.shards, counts, strict=True)):
        file, size = where / shard.file, sizes[number]
        if isinstance(size, str):
            damaged[number] = (
                f"{file} is missing ({size}): copy it again, or pack the catalogue again"
            )
        elif size != shard.bytes or count != shard.items:
            damaged[number] = (
                f"{file} has {size} bytes and {count} indexed items, {MANIFEST} states "
                f"{shard.bytes} and {shard.items}: copy it again, or pack the catalogue again"
            )
    return damaged
