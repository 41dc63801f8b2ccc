"""Which images go through the network together.

The images of all units stand in one row, and every ``B`` of them are a batch: full batches,
whatever the size of a shard. The borders depend on the plan alone. So a run that was interrupted
puts an image into the same batch as one that was not, and the network, which rounds differently in
other company, gives the same bits; a batch that reaches into a unit that is done already is
computed again, and what it says of that unit is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashionbatch.inference.plan import Unit

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What of a batch belongs to a unit.

    Attributes:
        unit: number of the unit.
        places: int64, of its images in the unit.
        offset: place in the batch of the first image; the others follow.
    """

    unit: int
    places: npt.NDArray[np.int64]
    offset: int


class Grid:
    """The batches of a plan.

    Args:
        units: of the plan; the images of damaged ones are never read and have no place.
        batch_size: images of a batch; the last one may have fewer.
    """

    def __init__(self, units: Sequence[Unit], batch_size: int) -> None:
        self.units, self.batch_size = units, batch_size
        sizes = [0 if unit.damage is not None else len(unit.chosen) for unit in units]
        self.ends = np.cumsum([0, *sizes], dtype=np.int64)  # unit u is ends[u] to ends[u + 1]

    def __len__(self) -> int:
        return -(-int(self.ends[-1]) // self.batch_size)

    def numbers(self, wanted: Sequence[int]) -> list[int]:
        """The batches that hold an image of these units, ascending."""
        found: set[int] = set()
        for unit in wanted:
            first, end = int(self.ends[unit]), int(self.ends[unit + 1])
            if end > first:
                found.update(range(first // self.batch_size, (end - 1) // self.batch_size + 1))
        return sorted(found)

    def shares(self, number: int) -> list[Share]:
        """What of a batch belongs to which unit, in order."""
        first = number * self.batch_size
        last = min(first + self.batch_size, int(self.ends[-1]))
        shares = []
        unit = int(np.searchsorted(self.ends, first, side="right")) - 1
        while first < last:
            end = min(last, int(self.ends[unit + 1]))
            if end > first:
                start = first - int(self.ends[unit])
                offset = first - number * self.batch_size
                places = np.arange(start, start + end - first, dtype=np.int64)
                shares.append(Share(unit=unit, places=places, offset=offset))
            first, unit = end, unit + 1
        return shares

    def rows(self, number: int) -> Rows:
        """The catalogue's rows of a batch."""
        pieces = [self.units[s.unit].rows[s.places] for s in self.shares(number)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def batches(self, numbers: Sequence[int]) -> Iterator[Rows]:
        """The rows of these batches."""
        return map(self.rows, numbers)
