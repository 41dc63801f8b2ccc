"""Checks every byte of a data set, or of tar files made elsewhere, and says what is damaged."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fashionbatch import files
from fashionbatch.errors import ShardError, UsageError
from fashionbatch.shards.foreign import Foreign, index_foreign
from fashionbatch.shards.index import EXTENSIONS, Index
from fashionbatch.shards.manifest import MANIFEST, FileRecord, Manifest, ShardRecord
from fashionbatch.shards.members import (
    BLOCK,
    END,
    Fault,
    Sample,
    Stream,
    check_end,
    check_sample,
    decoded,
    shown,
)
from fashionbatch.shards.ragged import Texts
from fashionbatch.shards.read import is_shards, refuse_url
from fashionbatch.sources.base import to_text
from fashionbatch.sources.tar import scan
from fashionbatch.sources.webdataset import tars
from fashionbatch.specs import SPLITS

REFUSED, DAMAGED, SKIPPED, NOTE = "refused", "damaged", "skipped", "note"

_MOST_BYTES = 1 << 62
_PLAIN = ("offset", "label", "size", "extension", "width", "height", "box")
_AGAIN = "copy it again, or pack the catalogue again"

#: gets (event, values)
Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        shard: the file it is about; also ``index.h5``, ``dataset.json`` and so on.
        reason: what is wrong, and what to do.
        severity: ``"refused"``, the file cannot be used at all; ``"damaged"``, it is not what its
            record says; ``"skipped"``, a sample that is left out; or ``"note"``, worth knowing.
        key: of the item in its shard; empty where it is about the whole file.
        name: what the catalogue calls the item.
    """

    shard: str
    reason: str
    severity: str = DAMAGED
    key: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What :func:`verify` found.

    Attributes:
        path: of the data set.
        items: images that it should hold; of tar files made elsewhere, that it holds.
        shards: how many.
        bytes: of all shards, as they lie there.
        findings: of the data set's own files first, then shard by shard.
    """

    path: Path
    items: int = 0
    shards: int = 0
    bytes: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is refused or damaged."""
        return not any(f.severity in (REFUSED, DAMAGED) for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """``{"path", "items", "shards", "bytes", "ok", "findings"}``."""
        return {
            "path": str(self.path),
            "items": self.items,
            "shards": self.shards,
            "bytes": self.bytes,
            "ok": self.ok,
            "findings": [asdict(f) for f in self.findings],
        }


def verify(path: Path, *, workers: int = 1, tell: Tell = lambda event, values: None) -> Report:
    """Reads all of a data set and compares it with what it states of itself.

    Of a data set made by ``shard`` the index, the failures and each shard are compared with their
    SHA-256, each image with its own, and each shard's members with the index. Tar files made
    elsewhere are scanned, and compared with what the first scan has found.

    Args:
        path: a folder, or a tar file.
        workers: shards that are read at the same time.
        tell: gets ``("start", {"bytes"})``, then ``("progress", {"bytes"})`` after each shard.

    Raises:
        UsageError: nothing lies there.
        ShardError: what lies there holds no shards.

    Example:
        >>> verify(Path("shards/fashion-mnist")).ok  # doctest: +SKIP
        True
    """
    refuse_url(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist: name a data set made by `fashionbatch shard`")
    if (path / MANIFEST).exists():
        return _verify_own(path, workers, tell)
    if not is_shards(path):
        raise ShardError(
            f"{path} holds no shards (no {MANIFEST}, no *.tar): "
            f"pack it first with `fashionbatch shard {path}`"
        )
    return _verify_foreign(path, workers, tell)


class _Checked(NamedTuple):
    """What was found in one shard."""

    items: int
    bytes: int
    findings: list[Finding]


def _each(
    check: Callable[[int], _Checked], count: int, workers: int, tell: Tell
) -> Iterator[_Checked]:
    """What was found in each shard, in order; hashing lets other threads run."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for checked in pool.map(check, range(count)):
                tell("progress", {"bytes": checked.bytes})
                yield checked
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _verify_own(path: Path, workers: int, tell: Tell) -> Report:
    try:
        manifest = Manifest.load(path)
    except ShardError as error:
        found = Finding(shard=MANIFEST, severity=REFUSED, reason=str(error))
        return Report(path=path, findings=(found,))
    findings = [
        Finding(shard=MANIFEST, reason=f"{reason}: {_AGAIN}")
        for reason in _manifest_faults(manifest)
    ]
    index, faults = _check_index(path, manifest)
    findings += faults + _check_failures(path, manifest)
    tell("start", {"bytes": sum(s.bytes for s in manifest.shards)})
    shards = _Shards(path, manifest, index)
    size = 0
    for checked in _each(shards.check, len(manifest.shards), workers, tell):
        size += checked.bytes
        findings += checked.findings
    return Report(
        path=path,
        items=sum(s.items for s in manifest.shards),
        shards=len(manifest.shards),
        bytes=size,
        findings=(*findings, *_unlisted(path, manifest)),
    )


def _manifest_faults(manifest: Manifest) -> Iterator[str]:
    numbers = (manifest.items, manifest.failed, manifest.keys)
    if not all(isinstance(n, int) for n in numbers):
        yield "items, failed or keys is no number"
    elif sum(s.items for s in manifest.shards) != manifest.items:
        yield f"the items of its shards do not add up to {manifest.items}"
    if not isinstance(manifest.name, str):
        yield "the name is no text"
    for shard in manifest.shards:
        if shard.split not in (*SPLITS, None):
            yield f"{shard.file} is of the split {shown(shard.split)}, which there is not"


def _unlisted(path: Path, manifest: Manifest) -> Iterator[Finding]:
    listed = {s.file for s in manifest.shards}
    for name in sorted(to_text(p.name) for p in path.glob("*.tar")):
        if name not in listed:
            reason = f"{MANIFEST} does not list it: it is not read; delete it if it is not needed"
            yield Finding(shard=name, severity=NOTE, reason=reason)


def _check_index(path: Path, manifest: Manifest) -> tuple[Index | None, list[Finding]]:
    """The index, if it can be trusted; without it shards are only compared with their hashes."""
    assert manifest.index is not None
    file = manifest.index.file
    reason = _record_fault(path, manifest.index)
    if reason is not None:
        return None, [Finding(shard=file, reason=reason)]
    try:
        index = Index.load(path / file)
        index.to_arrays()  # loads all columns, before there are threads
        reason = _index_fault(index, manifest)
    except ShardError as error:
        return None, [Finding(shard=file, severity=REFUSED, reason=str(error))]
    if reason is not None:
        return None, [Finding(shard=file, reason=f"{reason}: pack the catalogue again")]
    return index, []


def _record_fault(path: Path, record: FileRecord) -> str | None:
    """Why a file is not the one that the manifest states."""
    try:
        with _opened(path / record.file) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        return f"cannot be read ({_why(error)}): {_AGAIN}"
    if sha256 != record.sha256:
        return f"its SHA-256 is not the one that {MANIFEST} states: {_AGAIN}"
    return None


@contextmanager
def _opened(path: Path) -> Iterator[io.FileIO]:
    # not blocking: opening a named pipe would wait for its writer for ever
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with io.FileIO(descriptor) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        yield file


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _index_fault(index: Index, manifest: Manifest) -> str | None:
    """The first thing in which the index contradicts itself or the manifest.

    Raises:
        ShardError: a column cannot be read.
    """
    shards = manifest.shards
    number = index.shard
    if (number[1:] < number[:-1]).any() or (number >= len(shards)).any():
        return "its rows are not in the order of the shards"
    counts = np.bincount(number, minlength=len(shards)).tolist()
    for shard, count in zip(shards, counts, strict=True):
        if count != shard.items:
            return f"it has {count} items in {shard.file}, {MANIFEST} states {shard.items}"
    if (index.label < -1).any() or (index.label >= len(manifest.classes)).any():
        return "it has labels that are no classes"
    if (index.extension >= len(EXTENSIONS)).any():
        return "it has images of an unknown kind"
    for column in ("positive", "unknown"):
        if (getattr(index, column).values >= len(manifest.attributes)).any():
            return f"its column {column} has numbers that are no attributes"
    if _repeats(index.key):
        return "it has a key twice"
    return _layout_fault(index, shards)


def _repeats(texts: Texts) -> bool:
    """Whether a text is there twice; without making millions of strings."""
    lengths = texts.lengths
    starts = texts.ends.astype(np.int64) - lengths
    for length in np.unique(lengths).tolist():
        mine = starts[lengths == length]
        if len(mine) < 2:
            continue
        if length == 0:
            return True
        rows = np.ascontiguousarray(texts.values[mine[:, None] + np.arange(length)])
        if len(np.unique(rows.view(f"S{length}"))) != len(mine):
            return True
    return False


def _layout_fault(index: Index, shards: Sequence[ShardRecord]) -> str | None:
    """Whether images lie on blocks, one behind the other, within their shards."""
    # whatever a manifest states, it fits 64 bits
    stated = [min(max(s.bytes, 0), _MOST_BYTES) for s in shards]
    lengths = np.array(stated, np.int64)[index.shard]
    if (index.offset > lengths.astype(np.uint64)).any():
        return "it has images outside of their shards"
    offset = index.offset.astype(np.int64)
    ends = offset + index.size + -index.size.astype(np.int64) % BLOCK
    first = np.diff(index.shard.astype(np.int64), prepend=-1) != 0
    last = np.roll(first, -1)
    # what follows an image is the header of the next one, or the end
    borders = np.where(last, lengths - END, np.roll(offset, -1) - BLOCK)
    if (offset % BLOCK).any() or (offset[first] != BLOCK).any() or (ends > borders).any():
        return "its images overlap, or do not lie where images lie"
    return None


def _check_failures(path: Path, manifest: Manifest) -> list[Finding]:
    assert manifest.failures is not None
    file = manifest.failures.file
    reason = _record_fault(path, manifest.failures)
    if reason is None:
        reason = _failures_fault(path / file, manifest.failed)
    return [Finding(shard=file, reason=reason)] if reason else []


def _failures_fault(path: Path, failed: int) -> str | None:
    count = 0
    with path.open("rb") as lines:
        for count, line in enumerate(lines, 1):
            try:
                whole = {"name", "stage", "reason"} <= dict(json.loads(line)).keys()
            except (ValueError, TypeError, RecursionError):
                whole = False
            if not whole:
                return f"line {count} is no failure: pack the catalogue again"
    if count != failed:
        return f"it has {count} lines, {MANIFEST} states {failed} failures: {_AGAIN}"
    return None


class _Shards:
    """Checks the shards of a data set.

    Args:
        path: of the folder.
        manifest: of it.
        index: one without contradictions, or ``None``.
    """

    def __init__(self, path: Path, manifest: Manifest, index: Index | None) -> None:
        self._path = path
        self._manifest = manifest
        self._index = index
        if index is not None:
            borders = np.arange(len(manifest.shards) + 1)
            self._borders: list[int] = np.searchsorted(index.shard, borders).tolist()

    def check(self, number: int) -> _Checked:
        """Reads a shard once and compares it with its record and the index."""
        record = self._manifest.shards[number]
        faults: list[Fault] = []
        end: str | None = None
        try:
            with _opened(self._path / record.file) as file:
                stream = Stream(file)
                if self._index is not None:
                    checked = (check_sample(stream, s) for s in self._samples(number))
                    faults = [f for f in checked if f is not None]
                    if not record.items or stream.position == record.bytes - END:
                        end = check_end(stream)
                sha256 = stream.finish()
        except (OSError, ValueError) as error:
            reason = f"cannot be read ({_why(error)}): {_AGAIN}"
            return _Checked(0, 0, [Finding(shard=record.file, reason=reason)])
        reasons = [self._difference(record, stream.position, sha256, faults), end]
        findings = [
            *(Finding(shard=record.file, reason=f"{r}: {_AGAIN}") for r in reasons if r),
            *(
                Finding(
                    shard=record.file,
                    key=f.sample.key,
                    name=f.sample.about["name"],
                    reason=f"{f.reason}: copy its shard again, or pack the catalogue again",
                )
                for f in faults
            ),
        ]
        return _Checked(record.items, stream.position, findings)

    def _difference(
        self, record: ShardRecord, size: int, sha256: str, faults: Sequence[Fault]
    ) -> str | None:
        """In what a shard as a whole is not the one of the manifest."""
        if size != record.bytes:
            what = f"it has {size} bytes, {MANIFEST} states {record.bytes}"
        elif sha256 != record.sha256:
            what = f"its SHA-256 is not the one that {MANIFEST} states"
        else:
            return None
        if self._index is None:
            return f"{what}; which images are damaged cannot be told without the index"
        lost = sum(f.image for f in faults)
        return f"{what}; " + (
            f"{lost} of its {record.items} images are damaged"
            if lost
            else f"its {record.items} images are whole"
        )

    def _samples(self, number: int) -> Iterator[Sample]:
        index, record = self._index, self._manifest.shards[number]
        assert index is not None
        rows = slice(self._borders[number], self._borders[number + 1])
        # lists at once, because one value of an array takes as long as a header
        columns = {c: getattr(index, c)[rows].tolist() for c in _PLAIN}
        # a sample ends where the header of the next one starts, the last one where the end does
        ends = [*(offset - BLOCK for offset in columns.pop("offset")[1:]), record.bytes - END]
        positions = range(rows.start, rows.stop)
        for row, end, label, size, extension, width, height, box in zip(
            positions, ends[: len(positions)], *columns.values(), strict=True
        ):
            yield Sample(
                key=decoded(index.key.raw(row)),
                extension=EXTENSIONS[extension],
                size=size,
                sha256=index.sha256[row].tobytes(),
                end=end,
                label=label,
                about={
                    "name": decoded(index.name.raw(row)),
                    "label": self._manifest.classes[label] if label >= 0 else None,
                    "split": record.split,
                    "width": width or None,
                    "height": height or None,
                    "box": box if box[0] >= 0 else None,
                    "positive": index.positive[row].tolist() or None,
                    "unknown": index.unknown[row].tolist() or None,
                },
            )


def _verify_foreign(path: Path, workers: int, tell: Tell) -> Report:
    before = index_foreign(path)
    found = tars(path)
    tell("start", {"bytes": sum(s.bytes for s in before.manifest.shards)})
    shards = _ForeignShards(found, before)
    findings: list[Finding] = []
    if any(path.glob("index*.h5")) and any(path.glob("failures*.jsonl")):
        reason = f"is missing, though the other files of a data set are here: {_AGAIN}"
        findings.append(Finding(shard=MANIFEST, severity=REFUSED, reason=reason))
    items = size = 0
    for checked in _each(shards.check, len(found), workers, tell):
        items += checked.items
        size += checked.bytes
        findings += checked.findings
    return Report(path=path, items=items, shards=len(found), bytes=size, findings=tuple(findings))


class _ForeignShards:
    """Scans tar files made elsewhere, and compares them with what an earlier scan has found.

    Args:
        found: name and path of each.
        before: the earlier scan.
    """

    def __init__(self, found: list[tuple[str, Path]], before: Foreign) -> None:
        self._found = found
        self._before = before
        self._numbers = {s.file: i for i, s in enumerate(before.manifest.shards)}
        before.index.to_arrays()  # loads all columns, before there are threads

    def check(self, number: int) -> _Checked:
        """Scans a tar file from front to end."""
        name, path = self._found[number]
        try:
            scanned = scan(path)
            size, sha256 = path.stat().st_size, files.sha256(path)
        except (ShardError, OSError) as error:
            reason = str(error) if isinstance(error, ShardError) else f"{name}: {_why(error)}"
            return _Checked(0, 0, [Finding(shard=name, severity=REFUSED, reason=reason)])
        findings = [
            *self._changes(name, {s.key: s.sha256 for s in scanned.samples}, sha256),
            *(
                Finding(shard=name, severity=SKIPPED, name=f.name, reason=f.reason)
                for f in scanned.failures
            ),
            *(Finding(shard=name, severity=NOTE, reason=note) for note in scanned.notes),
        ]
        return _Checked(len(scanned.samples), size, findings)

    def _changes(self, name: str, now: dict[str, bytes], sha256: str) -> Iterator[Finding]:
        before = self._before
        number = self._numbers.get(name)
        if number is None or number in before.damaged:
            return
        if before.manifest.shards[number].sha256 == sha256:
            return
        advice = "since the first scan, and the file's time did not: copy it again"
        yield Finding(shard=name, reason=f"its bytes have changed {advice}")
        rows = np.searchsorted(before.index.shard, [number, number + 1])
        for row in range(*rows.tolist()):
            key = before.index.key[row]
            if now.get(key) != before.index.sha256[row].tobytes():
                yield Finding(
                    shard=name,
                    key=key,
                    name=before.index.name[row],
                    reason=f"its bytes have changed {advice}",
                )
