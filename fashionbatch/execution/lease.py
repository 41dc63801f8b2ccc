"""What a worker is lent: some tasks of a stage, and what goes with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any


def _given(parcel: Any, tasks: Sequence[int]) -> Any:
    return parcel


@dataclass(eq=False)
class Lease:
    """Tasks that a worker has; executors hand it over as it is.

    Attributes:
        tasks: their numbers, ascending.
        pack: makes the parcel of them.
        told: what the stage has counted of them since they were lent: it is not counted twice
            where they are done again.
    """

    tasks: Sequence[int]
    pack: Callable[[Sequence[int]], Any] | None = None
    told: Counter[str] = field(default_factory=Counter)

    @property
    def parcel(self) -> Any:
        """What the worker needs for them beside what it was made with; ``None`` for nothing."""
        return None if self.pack is None else self.pack(self.tasks)

    def __reduce__(self) -> tuple[Any, ...]:
        # made when it is sent, and not kept by who lends: there may be many workers
        return Lease, (list(self.tasks), partial(_given, self.parcel))
