"""Packs items into tar shards: ``<key>.jpg``, ``<key>.json`` and, where labelled, ``<key>.cls``.

The folder is built under a temporary name and takes its own when everything is in it, so a data
set is either complete or not there. The same source, options and seed make the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fashionbatch import files
from fashionbatch.errors import ImageError, OutputExistsError, SourceError, UsageError
from fashionbatch.shards.index import UNKNOWN, Index, IndexRow
from fashionbatch.shards.manifest import FAILURES, INDEX, MANIFEST, Manifest, ShardRecord
from fashionbatch.sources import Item

_BLOCK = 512
_READ_AHEAD = 64
UNSPLIT = "all"


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What a check found out about an image: file ``extension``, and size in pixels if read."""

    extension: str
    width: int | None = None
    height: int | None = None


#: looks at an image's bytes; raises ImageError where they cannot be used
Check = Callable[[bytes], ImageInfo]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file of the catalogue that was not packed."""

    name: str
    stage: str
    reason: str


def plan(
    items: Iterable[Item],
    *,
    split: Mapping[str, float] | None,
    default_split: Mapping[str, float],
    allow_missing_classes: bool,
    seed: int,
) -> tuple[list[Item], tuple[str, ...]]:
    """Gives every item its split and the whole its vocabulary.

    Args:
        items: of the source.
        split: shares of the splits, in place of the source's own.
        default_split: shares for labelled items whose source has no splits.
        allow_missing_classes: accept a class that a split of the source's lacks.
        seed: of the random split and of the order of the training items.

    Returns:
        the items with their splits, grouped by split, training items shuffled; and the classes,
        sorted.

    Raises:
        SourceError: no items, two of one name, or a class in some of the source's splits only.
    """
    found = list(items)
    if not found:
        raise SourceError("the source has no items")
    twice = [n for n, count in Counter(i.name for i in found).items() if count > 1]
    if twice:
        raise SourceError(f"{len(twice)} names stand for several items, {twice[0]!r} first")
    classes = tuple(sorted({i.label for i in found if i.label is not None}))
    own = {i.split for i in found if i.split is not None}
    if split is None and own and classes and not allow_missing_classes:
        _refuse_missing(found, classes, own)
    shares = split if split is not None else default_split if classes and not own else None
    if shares:
        found = _assign(found, shares, seed)
    order = {"train": 0, "val": 1, "test": 2, None: 3}
    found.sort(key=lambda i: order[i.split])  # stable: within a split the source's order stays
    training = sum(i.split == "train" for i in found)
    shuffled = np.random.default_rng(seed).permutation(training)
    return [found[i] for i in shuffled] + found[training:], classes


def _refuse_missing(items: Sequence[Item], classes: Sequence[str], splits: set[str]) -> None:
    present = {(i.label, i.split) for i in items}
    for split in sorted(splits):
        for name in classes:
            if (name, split) not in present:
                where = ", ".join(s for s in sorted(splits) if (name, s) in present)
                raise SourceError(
                    f"class {name!r} is in {where or 'no split'} but not in {split}: is a folder "
                    f"misnamed? Mend it, split anew with --split, or accept it with "
                    f"--allow-missing-classes"
                )


def _assign(items: Sequence[Item], shares: Mapping[str, float], seed: int) -> list[Item]:
    """Each class alike: its share of the items to each split, at least one of them to train."""
    by_class: dict[str | None, list[Item]] = {}
    for item in items:
        by_class.setdefault(item.label, []).append(item)
    names = sorted(shares, key=("train", "val", "test").index)
    ends = np.cumsum([shares[name] for name in names])
    random = np.random.default_rng(seed)
    chosen: dict[str, str] = {}
    for label in sorted(by_class, key=lambda v: (v is None, v or "")):
        members = by_class[label]
        ordered = [members[i].name for i in random.permutation(len(members))]
        start = 0
        for name, end in zip(
            names, np.maximum(np.rint(ends * len(members)), 1).astype(int), strict=True
        ):
            chosen.update(dict.fromkeys(ordered[start:end], name))
            start = end
    return [dataclasses.replace(i, split=chosen[i.name]) for i in items]


def write_shards(
    items: Sequence[Item],
    classes: Sequence[str],
    output: Path,
    *,
    check: Check,
    samples_per_shard: int,
    workers: int,
    source: Mapping[str, Any],
    exist_ok: bool = False,
    sample: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> Manifest:
    """Writes a data set.

    Args:
        items: in the order to write, grouped by split; see :func:`plan`.
        classes: the vocabulary.
        output: the folder to make.
        check: called with each image's bytes, in ``workers`` threads.
        samples_per_shard: most items of a shard.
        workers: threads that read and check.
        source: recorded in the manifest.
        exist_ok: replace a data set that is there.
        sample: marks a data set that comes with fashionbatch.
        progress: called with the number of items done since the last call.

    Returns:
        the manifest, as written.

    Raises:
        OutputExistsError: something is at ``output`` already.
        SourceError: no item could be packed.
    """
    _refuse_existing(output, exist_ok)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir()
    try:
        with ThreadPoolExecutor(workers) as pool:
            writer = _Writer(
                partial, {name: i for i, name in enumerate(classes)}, samples_per_shard
            )
            for item, checked in _checked(items, check, pool):
                writer.add(item, checked)
                progress(1)
            manifest = writer.finish(
                name=output.name, classes=tuple(classes), source=source, sample=sample
            )
        _take_name(partial, output)
    except OSError as error:
        raise SourceError(
            f"{output} cannot be written ({error.strerror or error}): nothing was kept"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _refuse_existing(output: Path, exist_ok: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputExistsError(f"{output} is a file: choose another output with -o")
    if any(output.iterdir()):
        if not (output / MANIFEST).exists():
            raise OutputExistsError(
                f"{output} holds something else than a data set: choose another output with -o"
            )
        if not exist_ok:
            raise OutputExistsError(
                f"{output} exists: choose another output with -o, or replace it with --exist-ok"
            )


def _take_name(partial: Path, output: Path) -> None:
    files.sync(partial)
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.replace(output, old)
    os.replace(partial, output)
    files.sync(output.parent)
    shutil.rmtree(old, ignore_errors=True)


_Checked = tuple[bytes, ImageInfo, bytes] | ImageError


def _checked(
    items: Iterable[Item], check: Check, pool: ThreadPoolExecutor
) -> Iterator[tuple[Item, _Checked]]:
    """Reads and checks ahead in threads; yields in order, so memory and order stay bounded."""
    waiting: deque[tuple[Item, Future[_Checked]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(_check_one, item, check)))
        if len(waiting) >= _READ_AHEAD:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def _check_one(item: Item, check: Check) -> _Checked:
    try:
        data = item.read()
        return data, check(data), hashlib.sha256(data).digest()
    except OSError as error:
        return ImageError("read", error.strerror or type(error).__name__)
    except ImageError as error:
        return error


class _Writer:
    """Appends samples to the open shard, starts the next one when it is full."""

    def __init__(self, folder: Path, numbers: Mapping[str, int], samples_per_shard: int) -> None:
        self.folder = folder
        self.numbers = numbers
        self.samples_per_shard = samples_per_shard
        self.rows: list[IndexRow] = []
        self.shards: list[ShardRecord] = []
        self.failures: list[Failure] = []
        self._file: BinaryIO | None = None
        self._split: str | None = None
        self._count = 0

    def add(self, item: Item, checked: _Checked) -> None:
        if isinstance(checked, ImageError):
            self.failures.append(
                Failure(name=item.name, stage=checked.stage, reason=checked.reason)
            )
            return
        if self._file and (self._count == self.samples_per_shard or self._split != item.split):
            self._close()
        file = self._file or self._open(item.split)
        data, info, digest = checked
        label = UNKNOWN if item.label is None else self.numbers[item.label]
        key = f"{len(self.rows):09d}"
        about: dict[str, Any] = {"name": item.name, "label": item.label, "split": item.split}
        if info.width is not None:
            about |= {"width": info.width, "height": info.height}
        if item.metadata:
            about["metadata"] = dict(item.metadata)
        offset = self._offset + _BLOCK
        self._write(file, f"{key}.{info.extension}", data)
        text = json.dumps(about, ensure_ascii=False, separators=(",", ":"))
        self._write(file, f"{key}.json", text.encode())
        if label != UNKNOWN:
            self._write(file, f"{key}.cls", str(label).encode())
        self.rows.append(
            IndexRow(
                key=key,
                name=item.name,
                shard=len(self.shards),
                offset=offset,
                size=len(data),
                label=label,
                sha256=digest,
            )
        )
        self._count += 1

    def finish(self, **about: Any) -> Manifest:
        if self._file:
            self._close()
        if not self.rows:
            raise SourceError(
                f"none of the {len(self.failures)} files is an image that can be used "
                f"({self.failures[0].name!r}: {self.failures[0].reason}): nothing was written"
            )
        Index.of(self.rows).save(self.folder / INDEX)
        lines = [json.dumps(vars(f), ensure_ascii=False) + "\n" for f in self.failures]
        files.write(self.folder / FAILURES, "".join(lines))
        manifest = Manifest(
            items=len(self.rows), failed=len(self.failures), shards=tuple(self.shards), **about
        )
        manifest.save(self.folder)
        return manifest

    def _open(self, split: str | None) -> BinaryIO:
        number = sum(s.split == split for s in self.shards)
        self._path = self.folder / f"{split or UNSPLIT}-{number:06d}.tar"
        self._file = self._path.open("wb", buffering=1 << 20)
        self._hash = hashlib.sha256()
        self._split, self._count, self._offset = split, 0, 0
        return self._file

    def _write(self, file: BinaryIO, name: str, data: bytes) -> None:
        for piece in (_header(name, len(data)), data, b"\0" * (-len(data) % _BLOCK)):
            file.write(piece)
            self._hash.update(piece)
            self._offset += len(piece)

    def _close(self) -> None:
        assert self._file is not None
        end = b"\0" * (2 * _BLOCK)  # a tar file ends with two empty blocks
        self._file.write(end)
        self._hash.update(end)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self.shards.append(
            ShardRecord(
                file=self._path.name,
                split=self._split,
                items=self._count,
                bytes=self._offset + len(end),
                sha256=self._hash.hexdigest(),
            )
        )


def _header(name: str, size: int) -> bytes:
    """A ustar header (POSIX.1-1988) of a plain file; no clock, owner or machine in it."""
    if size >= 8**11:
        raise UsageError(f"{name} has {size} bytes: a shard holds images below 8 GiB")
    fields = b"%-100b0000644\x000000000\x000000000\x00%011o\x0000000000000\x00" % (
        name.encode("ascii").ljust(100, b"\0"),
        size,
    )
    rest = b"0".ljust(101, b"\0") + b"ustar\x0000"
    total = sum(fields) + sum(rest) + 8 * ord(" ")  # the checksum counts itself as blanks
    return (fields + b"%06o\0 " % total + rest).ljust(_BLOCK, b"\0")
