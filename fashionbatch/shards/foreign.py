"""Tar files made elsewhere, as a data set: scanned on first use, then read by their index.

The index is kept in the user's cache, not beside files that may be another's; it is made again when
a file's size, times or inode differ, or the version of an object.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.address import Address, Location, name_of
from fashionbatch.errors import ShardError
from fashionbatch.shards.index import UNKNOWN, Index, IndexRow
from fashionbatch.shards.index_writer import IndexWriter
from fashionbatch.shards.manifest import Manifest, ShardRecord
from fashionbatch.shards.threads import in_order
from fashionbatch.shards.verification.findings import Tell
from fashionbatch.sources import Failure
from fashionbatch.sources.names import by_value
from fashionbatch.sources.tar import Scan, scan, scan_open
from fashionbatch.sources.tar_members import OpenTar
from fashionbatch.sources.webdataset import prefixes, split_of, tars

if TYPE_CHECKING:
    from fashionbatch.remote.stores import Object

#: goes up when the scanner finds other things in the same file
_VERSION = 2
#: objects that are read at the same time
_STREAMS = 4


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What was found.

    Attributes:
        manifest: as if we had made it; a damaged shard has no items.
        index: the images.
        damaged: from a shard's number to what is wrong with it.
        skipped: from a shard's number to what is in it and cannot be used.
        notes: from a shard's number to what is worth knowing.
        objects: the shards, where they lie elsewhere.
    """

    manifest: Manifest
    index: Index
    damaged: Mapping[int, str] = field(default_factory=dict)
    skipped: Mapping[int, tuple[Failure, ...]] = field(default_factory=dict)
    notes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    objects: tuple[Object, ...] = ()


def index_foreign(path: Location, *, whole: bool = True) -> Foreign:
    """Finds the images of a tar file, or of those in a folder; from the cache where it has them.

    Labels are the texts or numbers that the samples have, sorted, numbers by value; names, splits
    and the order of classes are those of :class:`fashionbatch.sources.webdataset.WebdatasetSource`.

    Args:
        path: of the tar file, or of the folder; or the address of tar files, with braces or ``*``.
        whole: have the index in memory, in place of reading it block by block; it is, too, where
            there is no room for it in the cache.

    Raises:
        MissingError: nothing fits the address.
        RemoteError: the host cannot be reached, or refuses.
    """
    listed = _listed(path)
    found = _cached(path, listed, whole=whole)
    streams = _STREAMS if isinstance(path, Address) else 1
    return found or _scan_all(path, listed, streams, whole=whole)


def cached(path: Location) -> Foreign | None:
    """What the first scan has found, or ``None`` where no file has been scanned as it is now.

    Args:
        path: see :func:`index_foreign`, which also says what is raised.

    Example:
        >>> cached(Path("never-seen")) is None  # doctest: +SKIP
        True
    """
    return _cached(path, _listed(path))


def scan_foreign(
    path: Location, *, workers: int = 1, tell: Tell = lambda event, values: None
) -> Foreign:
    """Reads all tar files; what the first scan has found of them stays in the cache.

    Args:
        path: see :func:`index_foreign`, which also says what is raised.
        workers: files that are read at the same time.
        tell: gets ``("start", {"bytes"})``, then ``("progress", {"bytes"})`` after each file.
    """
    return _scan_all(path, _listed(path), workers, tell)


def _cached(path: Location, listed: Sequence[_Listed], *, whole: bool = True) -> Foreign | None:
    stem = _stem(path, listed)
    found = None if stem is None else _load(stem, whole=whole)
    return None if found is None else replace(found, objects=_objects(listed))


def _scan_all(
    path: Location,
    listed: Sequence[_Listed],
    workers: int,
    tell: Tell = lambda event, values: None,
    *,
    whole: bool = True,
) -> Foreign:
    stem = _stem(path, listed)  # before they are read: one that changes meanwhile is read again

    def scanned() -> Iterator[_Scanned]:
        tell("start", {"bytes": sum(tar.bytes for tar in listed)})
        for one in in_order(_scan, list(enumerate(listed)), workers):
            tell("progress", {"bytes": one.record.bytes})
            yield one

    found = None
    if stem is not None and not whole:
        with suppress(OSError):  # no room or no permission: it must fit the memory
            found = _written(stem, path, scanned())
    if found is None:
        found = _joined(path, scanned())
        # damage can be a disk's passing fault; a later scan would hide what has rotted since
        if stem is not None and not found.damaged and _load(stem) is None:
            _save(stem, found)
    return replace(found, objects=_objects(listed))


class _Listed(NamedTuple):
    """A tar file before it is read; one that cannot be looked at has no bytes and no state.

    Attributes:
        name: below the folder.
        path: of the file; or its address.
        prefix: what its items are called after.
        bytes: its size.
        state: what differs when the file is another one or was written to.
        found: the object at its address.
    """

    name: str
    path: Location
    prefix: str
    bytes: int
    state: tuple[int | str, ...]
    found: Object | None = None


def _objects(listed: Sequence[_Listed]) -> tuple[Object, ...]:
    return tuple(tar.found for tar in listed if tar.found is not None)


def _listed(path: Location) -> list[_Listed]:
    if isinstance(path, Address):
        return _listed_at(path)
    found = tars(path)
    listed = []
    for (name, tar), prefix in zip(found, prefixes([n for n, _ in found]), strict=True):
        try:
            status = tar.stat()
        except OSError:  # a link to nowhere: reading it says so
            listed.append(_Listed(name, tar, prefix, 0, ()))
        else:
            listed.append(_Listed(name, tar, prefix, status.st_size, _state(status)))
    return listed


def _listed_at(address: Address) -> list[_Listed]:
    from fashionbatch.remote import client, pattern
    from fashionbatch.remote.stores import Object

    addresses = pattern.expand(address)
    objects = []
    for found in client.look_at(addresses):
        if not isinstance(found, Object):
            raise found
        client.need_ranges(found)
        objects.append(found)
    # below what they have in common: two can have the same name in different folders, or buckets
    parts = [f"{one.host}{one.path}".split("/") for one in addresses]
    folders = zip(*(folder for *folder, _ in parts), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, folders))
    names = ["/".join(each[common:]) for each in parts]
    return [
        _Listed(name, one.address, prefix, one.size, (one.size, one.tag), one)
        for name, prefix, one in zip(names, prefixes(names), objects, strict=True)
    ]


def _state(status: os.stat_result) -> tuple[int, ...]:
    # a copy can keep size and time of its original, but not the rest
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _stem(path: Location, listed: Sequence[_Listed]) -> Path | None:
    """Where in the cache it is kept what was found in these files, without a suffix.

    ``None`` where there is no cache.
    """
    state = [(tar.name, tar.state) for tar in listed]
    where = path.url if isinstance(path, Address) else str(path.resolve())
    key = files.fingerprint([_VERSION, where, state])
    try:
        return files.cache_folder() / "shards" / key
    except OSError:
        return None


@dataclass(frozen=True, kw_only=True)
class _Scanned:
    """What is in one tar file.

    Attributes:
        record: of the file; without items where it is damaged.
        index: the images; their labels are positions in ``labels``.
        labels: those that its images have.
        damaged: what is wrong with it.
        skipped, notes: see :class:`Foreign`.
    """

    record: ShardRecord
    index: Index = field(default_factory=lambda: Index.of([]))
    labels: tuple[str, ...] = ()
    damaged: str | None = None
    skipped: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


def _scan(numbered: tuple[int, _Listed]) -> _Scanned:
    number, tar = numbered
    split = split_of(tar.name)
    try:
        found, sha256 = _read(tar)
    except (ShardError, OSError) as error:
        record = ShardRecord(file=tar.name, split=split, items=0, bytes=tar.bytes, sha256="")
        return _Scanned(record=record, damaged=_reason(tar.name, error))
    labels = {s.label: None for s in found.samples if s.label is not None}
    places = {label: i for i, label in enumerate(labels)}
    rows = [
        IndexRow(
            key=s.key,
            name=f"{tar.prefix}/{s.name}",
            shard=number,
            offset=s.offset,
            size=s.size,
            label=UNKNOWN if s.label is None else places[s.label],
            sha256=s.sha256,
            extension=s.extension,
        )
        for s in found.samples
    ]
    return _Scanned(
        record=ShardRecord(
            file=tar.name, split=split, items=len(rows), bytes=tar.bytes, sha256=sha256
        ),
        index=Index.of(rows),
        labels=tuple(labels),
        skipped=tuple(replace(f, name=f"{tar.prefix}/{f.name}") for f in found.failures),
        notes=tuple(found.notes),
    )


def _read(tar: _Listed) -> tuple[Scan, str]:
    """What is in a file, and its SHA-256."""
    if isinstance(tar.path, Path):
        return scan(tar.path), files.sha256(tar.path)
    from fashionbatch.remote.stream import RemoteStream
    from fashionbatch.remote.trouble import ChangedError, MissingError

    assert tar.found is not None
    stream = RemoteStream(tar.found)
    try:
        found = scan_open(OpenTar(stream.at, tar.bytes, str(tar.path)))
        return found, stream.sha256()
    except (ChangedError, MissingError) as error:
        raise ShardError(str(error)) from None


def _reason(name: str, error: ShardError | OSError) -> str:
    if isinstance(error, ShardError):
        return str(error)
    return f"{name} cannot be read ({error.strerror or error}): mend it, or leave it out"


class _Gathered:
    """What is in all files but for the rows, which go somewhere else one file after the other."""

    def __init__(self) -> None:
        self.scanned: list[_Scanned] = []
        self._numbers: dict[str, int] = {}

    def rows(self, one: _Scanned) -> Index:
        """Those of the next file; their labels are numbers of this object's."""
        numbers = [self._numbers.setdefault(label, len(self._numbers)) for label in one.labels]
        # label -1, none, takes the last
        table = np.array([*numbers, UNKNOWN], np.int32)
        self.scanned.append(replace(one, index=Index.of([]), labels=()))
        return one.index.relabelled(table)

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels, sorted."""
        return tuple(sorted(self._numbers, key=by_value))

    @property
    def table(self) -> npt.NDArray[np.int32]:
        """int32: from this object's numbers to positions in the classes."""
        places = {name: i for i, name in enumerate(self.classes)}
        return np.array([*(places[label] for label in self._numbers), UNKNOWN], np.int32)

    @property
    def damaged(self) -> dict[int, str]:
        """See :class:`Foreign`."""
        return {i: one.damaged for i, one in enumerate(self.scanned) if one.damaged}

    def joined(self, path: Location, index: Index) -> Foreign:
        """All of it."""
        scanned = self.scanned
        return Foreign(
            manifest=Manifest(
                name=name_of(path),
                classes=self.classes,
                items=len(index),
                failed=sum(len(one.skipped) for one in scanned),
                shards=tuple(one.record for one in scanned),
            ),
            index=index,
            damaged=self.damaged,
            skipped={i: one.skipped for i, one in enumerate(scanned) if one.skipped},
            notes={i: one.notes for i, one in enumerate(scanned) if one.notes},
        )


def _joined(path: Location, scanned: Iterable[_Scanned]) -> Foreign:
    gathered = _Gathered()
    index = Index.joined([gathered.rows(one) for one in scanned])
    return gathered.joined(path, index.relabelled(gathered.table))


def _written(stem: Path, path: Location, scanned: Iterable[_Scanned]) -> Foreign:
    """The same with the rows in a file of the cache, in memory that does not grow with them.

    Raises:
        OSError: it cannot be written.
    """
    gathered = _Gathered()
    stem.parent.mkdir(parents=True, exist_ok=True)
    made = stem.with_name(f"{stem.name}.{secrets.token_hex(4)}.h5")
    with files.atomic(made) as temporary, IndexWriter(temporary) as writer:
        for one in scanned:
            writer.add(gathered.rows(one))
        writer.relabel(gathered.table)
    if gathered.damaged:
        # not to be believed by the next scan, see above; another one may find other rows
        records = [asdict(one.record) for one in gathered.scanned]
        stem = stem.with_name(files.fingerprint([stem.name, records]))
    os.replace(made, stem.with_suffix(".h5"))
    found = gathered.joined(path, Index.open(stem.with_suffix(".h5")))
    if not found.damaged:
        files.write_json(stem.with_suffix(".json"), _about(found))
    return found


def _save(stem: Path, foreign: Foreign) -> None:
    with suppress(OSError):  # no room or no permission: it is scanned again next time
        stem.parent.mkdir(parents=True, exist_ok=True)
        foreign.index.save(stem.with_suffix(".h5"))
        # last: it says that both are there
        files.write_json(stem.with_suffix(".json"), _about(foreign))


def _about(foreign: Foreign) -> dict[str, Any]:
    return {
        "manifest": asdict(foreign.manifest),
        "damaged": list(foreign.damaged.items()),
        "skipped": [(n, [asdict(f) for f in v]) for n, v in foreign.skipped.items()],
        "notes": list(foreign.notes.items()),
    }


def _load(stem: Path, *, whole: bool = True) -> Foreign | None:
    try:
        values: dict[str, Any] = json.loads(stem.with_suffix(".json").read_bytes())
        file = stem.with_suffix(".h5")
        index = Index.load(file) if whole else Index.open(file)
        about = values["manifest"]
        about["shards"] = tuple(ShardRecord(**s) for s in about["shards"])
        for name in ("classes", "class_types", "attributes"):
            about[name] = tuple(about[name])
        return Foreign(
            manifest=Manifest(**about),
            index=index,
            damaged=dict(values["damaged"]),
            skipped={n: tuple(Failure(**f) for f in v) for n, v in values["skipped"]},
            notes={n: tuple(v) for n, v in values["notes"]},
        )
    except (OSError, ValueError, KeyError, TypeError, ShardError):
        return None  # not there, or damaged: scanned again
