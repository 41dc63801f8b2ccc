"""A unit while its answers come in: every image has a row, a failure, or is still on its way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import ImageError
from fashionbatch.inference.answers import Answers, Columns
from fashionbatch.inference.catalogue import Catalogue
from fashionbatch.inference.plan import Unit, content
from fashionbatch.store.part import Failed, Part

_WAITING, _DONE, _FAILED = 0, 1, 2

Places = npt.NDArray[np.int64]


class Gathering:
    """What is known of a unit's images, by their place in it.

    Args:
        number: of the unit.
        unit: whose images they are.
        catalogue: of the plan.
        answers: says what columns there are.
        labels: int32, of every image of the unit.
    """

    def __init__(
        self,
        number: int,
        unit: Unit,
        catalogue: Catalogue,
        answers: Answers,
        labels: npt.NDArray[np.int32],
    ) -> None:
        self.number, self.unit, self.catalogue, self.labels = number, unit, catalogue, labels
        count = len(unit.chosen)
        self._state = np.zeros(count, np.int8)
        self._hashes = np.zeros((count, 32), np.uint8)
        self._errors: dict[int, ImageError] = {}
        self._columns: Columns = {
            name: np.empty((count, *shape), dtype)
            for name, (shape, dtype) in answers.layout.items()
        }
        if unit.damage is not None:
            error = ImageError("shard", unit.damage)
            for place in range(count):
                self.fail(place, error)

    @property
    def complete(self) -> bool:
        """Nothing is on its way any more."""
        return not (self._state == _WAITING).any()

    @property
    def failed(self) -> int:
        """How many have failed, what is no image included."""
        hidden = self.unit.count - len(self.unit.chosen)
        return int((self._state == _FAILED).sum()) + hidden

    def add(self, places: Places, columns: Columns, hashes: npt.NDArray[np.uint8]) -> None:
        """Rows of these places, as the columns are ordered."""
        for name, values in columns.items():
            self._columns[name][places] = values
        self._hashes[places] = hashes
        self._state[places] = _DONE

    def fail(self, place: int, error: ImageError, sha256: bytes = bytes(32)) -> None:
        """The image of a place has none."""
        self._errors[place] = error
        self._hashes[place] = np.frombuffer(sha256, np.uint8)
        self._state[place] = _FAILED

    def close(self, fingerprint: str) -> Part:
        """The part of a unit that is complete."""
        unit, catalogue = self.unit, self.catalogue
        good = self._state == _DONE
        rows = unit.rows[good].tolist()
        return Part(
            fingerprint=fingerprint,
            shard=self.number,
            sha256=unit.sha256 if unit.sha256 is not None else content(self._known()),
            names=[catalogue.name(row) for row in rows],
            keys=[catalogue.key(row) for row in rows],
            labels=self.labels[good],
            hashes=self._hashes[good],
            arrays={name: values[good] for name, values in self._columns.items()},
            failures=self._failures(),
        )

    def _known(self) -> Iterator[tuple[str, bytes | ImageError]]:
        errors: Mapping[int, ImageError] = self._errors
        for place, row in enumerate(self.unit.rows.tolist()):
            sha256 = self._hashes[place].tobytes()
            unread = place in errors and not any(sha256)
            yield self.catalogue.name(row), errors[place] if unread else sha256

    def _failures(self) -> list[Failed]:
        unit, catalogue = self.unit, self.catalogue
        failures = []
        for place, error in sorted(self._errors.items()):
            row = int(unit.rows[place])
            name, key = catalogue.name(row), catalogue.key(row)
            sha256 = self._hashes[place].tobytes()
            failures.append(Failed(name, key, error.stage, error.reason, sha256))
        if unit.damage is not None and not len(unit.chosen):
            failures.append(Failed(unit.name, "", "shard", unit.damage))
        return failures + [Failed(f.name, "", f.stage, f.reason) for f in unit.skipped]
