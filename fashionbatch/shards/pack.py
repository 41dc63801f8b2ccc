"""One shard: reads its items, checks them, writes the tar file and what is known of it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fashionbatch import files
from fashionbatch.address import is_address
from fashionbatch.errors import ImageError
from fashionbatch.shards import part
from fashionbatch.shards.index import UNKNOWN, Index, IndexRow
from fashionbatch.shards.manifest import ShardRecord
from fashionbatch.shards.plan import ShardTask
from fashionbatch.shards.spool import Spool
from fashionbatch.shards.ustar import TarWriter
from fashionbatch.sources import Failure, Item, Source


class Prepared(NamedTuple):
    """An image that is fit to be packed.

    Attributes:
        data: the file's bytes: the catalogue's own, or made anew.
        extension: ``jpg``, ``png`` or ``webp``.
        width, height: in pixels; 0 where they were not looked at.
        original: width and height of the catalogue's file, where it was made anew.
    """

    data: bytes
    extension: str
    width: int = 0
    height: int = 0
    original: tuple[int, int] | None = None


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

_quote = json.encoder.encode_basestring


def _text(value: str | None) -> str:
    return "null" if value is None else _quote(value)


#: looks at an image's bytes; raises ImageError where they cannot be used
Prepare = Callable[[bytes], Prepared]


@dataclass(frozen=True, kw_only=True)
class Packer:
    """Writes shards of one plan; travels to the worker processes.

    Attributes:
        source: reads the items.
        prepare: checks each image.
        spool: the file that holds the items.
        classes: the vocabulary.
        data: the folder that shards go to.
        work: the folder of what is known of each finished shard.
        added: where finished shards can lie already, if a data set grows.
        unknown: attributes of which the source knows nothing, where a data set that grows has some.
        settings: whatever else decides about bytes; a shard that was written with others is
            written again.
    """

    source: Source
    prepare: Prepare
    spool: Path
    classes: tuple[str, ...]
    data: Path
    work: Path
    added: Path | None = None
    unknown: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def pack(self, task: ShardTask) -> Packed:
        """Writes a shard, unless it is there already, whole and of this plan.

        Raises:
            OSError: it cannot be written.
        """
        spool = Spool(self.spool)
        try:
            records = [spool.record(offset) for offset in task.offset.tolist()]
            digest = hashlib.sha256(files.fingerprint([task.file, task.key, self.classes]).encode())
            digest.update(files.fingerprint([dict(self.settings), self.unknown]).encode())
            digest.update(task.group.tobytes())
            items = [spool.item(record) for record in records]
            for record, item in zip(records, items, strict=True):
                digest.update(record)
                digest.update(_state(item))
            fingerprint = digest.hexdigest()
            done = self.find(task.file, fingerprint)
            if done is not None:
                return done
            return self._write(task, items, fingerprint)
        finally:
            spool.close()

    def find(self, file: str, fingerprint: str) -> Packed | None:
        """What is known of a shard that an interrupted run has finished."""
        path = self.work / f"{file}{part.SUFFIX}"
        try:
            _, about = part.load(path)
            if about.pop("fingerprint") != fingerprint:
                return None
            packed = replace(_packed(about, path), kept=True)
            for folder in filter(None, (self.data, self.added)):
                shard = folder / file
                if shard.exists() and files.sha256(shard) == packed.record.sha256:
                    return packed
        except (OSError, ValueError, KeyError, TypeError):
            # cut short or damaged: written again
            return None
        return None

    def _write(self, task: ShardTask, items: list[Item], fingerprint: str) -> Packed:
        failures: list[Failure] = []
        rows: list[IndexRow] = []
        labels = {name: i for i, name in enumerate(self.classes)}
        path = self.data / task.file
        temporary = self.work / f".{task.file}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        try:
            with TarWriter(temporary) as tar:
                for number, (item, given) in enumerate(self._given(items)):
                    try:
                        prepared = self._prepared(item, given)
                    except ImageError as error:
                        failures.append(
                            Failure(
                                name=item.name,
                                stage=error.stage,
                                reason=error.reason,
                                line=item.line,
                            )
                        )
                        continue
                    key = f"{task.key + number:09d}"
                    label = UNKNOWN if item.label is None else labels[item.label]
                    group = int(task.group[number])
                    item.unknown = item.unknown or self.unknown
                    rows.append(_add(tar, key, item, task.split, prepared, label, group))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        record = ShardRecord(
            file=task.file,
            split=task.split,
            items=len(rows),
            bytes=tar.size,
            sha256=tar.sha256,
        )
        about = {"record": asdict(record), "failures": [asdict(f) for f in failures]}
        known = self.work / f"{task.file}{part.SUFFIX}"
        part.save(known, Index.of(rows), {**about, "fingerprint": fingerprint})
        return _packed(about, known)

    def _given(self, items: Iterable[Item]) -> Iterable[tuple[Item, bytes | ImageError | None]]:
        """Items with what their hosts give; nothing of those on this disk."""
        items = list(items)
        if not any(item.path is not None and is_address(item.path) for item in items):
            return ((item, None) for item in items)
        from fashionbatch.sources import elsewhere

        return elsewhere.fetched(items)

    def _prepared(self, item: Item, given: bytes | ImageError | None) -> Prepared:
        if isinstance(given, ImageError):
            raise given
        if given is not None:
            item = replace(item, data=given)
        try:
            data = self.source.read(item)
        except OSError as error:
            raise ImageError("read", error.strerror or type(error).__name__) from None
        return self.prepare(data)


def _state(item: Item) -> bytes:
    """Of an item's file, so that one that was mended or replaced is read again."""
    if item.path is None:
        return b""
    if is_address(item.path):
        return (item.version or "").encode()
    try:
        status = os.stat(item.path)
    except (OSError, ValueError):
        return b"-"
    return b"%d %d %d" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A finished shard.

    Attributes:
        record: for the manifest.
        failures: of its items.
        part: the file with its rows of the index; their column ``shard`` is yet to be set.
        kept: an interrupted run has finished it.
    """

    record: ShardRecord
    failures: tuple[Failure, ...]
    part: Path
    kept: bool = False

    def index(self, number: int) -> Index:
        """Its rows, as shard ``number`` of the data set."""
        index, _ = part.load(self.part)
        return index.replaced(shard=np.full(len(index), number, np.uint32))


def _packed(about: Mapping[str, Any], known: Path) -> Packed:
    return Packed(
        record=ShardRecord(**about["record"]),
        failures=tuple(Failure(**f) for f in about["failures"]),
        part=known,
    )


def _add(
    tar: TarWriter,
    key: str,
    item: Item,
    split: str | None,
    prepared: Prepared,
    label: int,
    group: int,
) -> IndexRow:
    """Writes the members of one sample."""
    box, landmarks = item.box, item.landmarks
    about: dict[str, Any] = {}  # what few items have
    if prepared.original:
        about["original"] = list(prepared.original)
        x, y = (
            made / own
            for made, own in zip((prepared.width, prepared.height), prepared.original, strict=True)
        )
        if box:
            box = (round(box[0] * x), round(box[1] * y), round(box[2] * x), round(box[3] * y))
        landmarks = tuple((v, round(px * x), round(py * y)) for v, px, py in landmarks)
    if item.group is not None:
        about["group"] = item.group
    if box:
        about["box"] = box
    if landmarks:
        about["landmarks"] = landmarks
    if item.positive:
        about["positive"] = item.positive
    if item.unknown:
        about["unknown"] = item.unknown
    if item.metadata:
        about["metadata"] = item.metadata
    # one encoder's call for all of it would take several times as long
    text = f'{{"name":{_quote(item.name)},"label":{_text(item.label)},"split":{_text(split)}'
    if prepared.width:
        text += f',"width":{prepared.width},"height":{prepared.height}'
    text += "," + _encode(about)[1:] if about else "}"
    members = [(prepared.extension, prepared.data), ("json", text.encode())]
    if label != UNKNOWN:
        members.append(("cls", b"%d" % label))
    offset = tar.add(key, members)
    return IndexRow(
        key=key,
        name=item.name,
        shard=0,
        offset=offset,
        size=len(prepared.data),
        label=label,
        sha256=hashlib.sha256(prepared.data).digest(),
        extension=prepared.extension,
        width=prepared.width,
        height=prepared.height,
        group=group,
        box=box or (-1, -1, -1, -1),
        positive=item.positive,
        unknown=item.unknown,
    )
