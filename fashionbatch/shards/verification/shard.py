"""Checks the shards of a data set of ours: each is read once, from front to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fashionbatch.address import Location
from fashionbatch.errors import RemoteError
from fashionbatch.shards.index import EXTENSIONS, Index
from fashionbatch.shards.manifest import MANIFEST, Manifest, ShardRecord
from fashionbatch.shards.verification.findings import AGAIN, Finding
from fashionbatch.shards.verification.members import (
    BLOCK,
    END,
    Fault,
    Sample,
    check_end,
    check_sample,
    decoded,
)
from fashionbatch.shards.verification.stream import opened, why

_PLAIN = ("offset", "label", "size", "extension", "width", "height", "box")
_NO_BOX = [-1, -1, -1, -1]


class Checked(NamedTuple):
    """How long a shard is, and what was found in it."""

    bytes: int
    findings: list[Finding]


class Shards:
    """Checks the shards of a data set.

    Args:
        path: of the folder, or its address.
        manifest: of it.
        index: one without contradictions, or ``None``.
    """

    def __init__(self, path: Location, manifest: Manifest, index: Index | None) -> None:
        self._path = path
        self._manifest = manifest
        self._index = index
        if index is not None:
            borders = np.arange(len(manifest.shards) + 1)
            self._borders: list[int] = np.searchsorted(index.shard, borders).tolist()

    def check(self, number: int) -> Checked:
        """Reads a shard once and compares it with its record and the index."""
        record = self._manifest.shards[number]
        faults: list[Fault] = []
        end: str | None = None
        try:
            with opened(self._path / record.file) as stream:
                if self._index is not None:
                    checked = (check_sample(stream, s) for s in self._samples(number))
                    faults = [f for f in checked if f is not None]
                    if not record.items or stream.position == record.bytes - END:
                        end = check_end(stream)
                sha256 = stream.finish()
        except (OSError, ValueError, RemoteError) as error:
            reason = f"cannot be read ({why(error)}): {AGAIN}"
            return Checked(0, [Finding(shard=record.file, reason=reason)])
        reasons = [self._difference(record, stream.position, sha256, faults), end]
        findings = [
            *(Finding(shard=record.file, reason=f"{r}: {AGAIN}") for r in reasons if r),
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
        return Checked(stream.position, findings)

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
                    "box": None if box == _NO_BOX else box,
                    "positive": index.positive[row].tolist() or None,
                    "unknown": index.unknown[row].tolist() or None,
                },
            )
