"""Rows of an earlier prediction file for images with the same bytes.

What a network says of an image depends on its bytes alone (model, configuration and engine being
the same, which the caller has made sure of), so a catalogue that has grown is predicted by
predicting what is new.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import ImageError, StoreError
from fashionbatch.inference.answers import Answers
from fashionbatch.inference.gathering import Gathering, Places
from fashionbatch.store.arrays import Array
from fashionbatch.store.storage import open_storage

#: stages at which the bytes were to blame, so that the same bytes fail again
_OF_BYTES = ("decode", "transform", "model", "write")
#: rows that are read along with those that are wanted, rather than asking the disk once more
_GAP = 64


class Reuse:
    """An earlier file, looked up by the SHA-256 of the image.

    Takes 48 bytes of memory for each of its rows.

    Args:
        path: of the file; it stays open.
        answers: says what columns there are.
        retry: try again what failed then.

    Raises:
        StoreError: the file is damaged.
    """

    def __init__(self, path: Path, answers: Answers, *, retry: bool) -> None:
        self.path, self.answers = path, answers
        try:
            self._storage = open_storage(path)
            self._hashes = self._storage.array("items/sha256")[()]
            self._failures = {} if retry else self._failed()
        except (OSError, KeyError) as error:
            raise self._damaged(error) from error
        starts = _starts(self._hashes)
        self._order = np.argsort(starts, kind="stable")
        self._starts = starts[self._order]

    def close(self) -> None:
        """Closes the file."""
        self._storage.close()

    def fill(self, gathering: Gathering) -> Places:
        """Gives a unit what is known of its images.

        Returns:
            the places that are still to be predicted, ascending.

        Raises:
            StoreError: the file is damaged.
        """
        catalogue, rows = gathering.catalogue, gathering.unit.rows
        hashes = np.zeros((len(rows), 32), np.uint8)
        left: list[int] = []
        known: list[int] = []
        for place, row in enumerate(rows.tolist()):
            try:
                sha256 = catalogue.sha256(row)
            except ImageError:
                left.append(place)  # it is read once more, and fails with its reason
                continue
            hashes[place] = np.frombuffer(sha256, np.uint8)
            failed = self._failures.get(sha256)
            if failed is not None:
                gathering.fail(place, failed, sha256)
            else:
                known.append(place)
        places = np.array(known, np.int64)
        old = self._rows(hashes[places])
        found, sources = places[old >= 0], old[old >= 0]
        if len(found):
            try:
                columns = {
                    name: _read(self._storage.array(name), sources) for name in self.answers.layout
                }
            except (OSError, KeyError) as error:
                raise self._damaged(error) from error
            gathering.add(found, columns, hashes[found])
        return np.sort(np.concatenate([np.array(left, np.int64), places[old < 0]]))

    def _rows(self, hashes: npt.NDArray[np.uint8]) -> Places:
        """The row of each hash, or -1."""
        if not len(self._order) or not len(hashes):
            return np.full(len(hashes), -1, np.int64)
        at = np.searchsorted(self._starts, _starts(hashes))
        rows: Places = self._order[np.minimum(at, len(self._order) - 1)]
        same = (self._hashes[rows] == hashes).all(axis=1)
        return np.where(same, rows, -1)

    def _failed(self) -> dict[bytes, ImageError]:
        columns = [self._storage.array(f"failures/{c}")[()] for c in ("stage", "reason")]
        hashes: Iterable[Any] = self._storage.array("failures/sha256")[()]
        return {
            sha256.tobytes(): ImageError(stage.decode(), reason.decode())
            for stage, reason, sha256 in zip(*columns, hashes, strict=True)
            if stage.decode() in _OF_BYTES and sha256.any()
        }

    def _damaged(self, error: Exception) -> StoreError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return StoreError(f"{self.path} is damaged ({reason}): start anew with --restart")


def _starts(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each hash, as a number."""
    return np.ascontiguousarray(hashes[:, :8]).view(np.uint64)[:, 0]


def _read(dataset: Array, rows: Places) -> npt.NDArray[Any]:
    """Rows in any order, read in runs."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    values = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    borders = np.flatnonzero(np.diff(ascending) > _GAP) + 1
    start = 0
    for run in np.split(ascending, borders):
        block = dataset[int(run[0]) : int(run[-1]) + 1]
        values[order[start : start + len(run)]] = block[run - run[0]]
        start += len(run)
    return values
