"""Which items of a catalogue or data set a job is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fashionbatch.errors import UsageError
from fashionbatch.fields import Checked, option
from fashionbatch.parse import parse_limits, parse_names


@dataclass(frozen=True, kw_only=True)
class Selecting(Checked):
    """Which items of a catalogue or data set."""

    classes: tuple[str, ...] = option([], "Only these classes: a,b,c. Repeatable.")
    category_type: tuple[str, ...] = option(
        [], "Only classes of these types, such as upper. Repeatable."
    )
    fraction: float = option(1.0, "This share of each class in each split.", min=0, max=1)
    per_class: int | None = option(
        None, "At most so many images of each class; when packing or training: to train on.", min=1
    )
    limit_per_split: str | None = option(
        None, "At most so many images of a split: test=10000,val=10000."
    )
    seed: int = option(0, "Seed of everything random.", min=0, max=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction == 0:
            raise UsageError("--fraction 0: it is above 0")
        self.selection()

    def selection(self) -> dict[str, Any]:
        """The arguments of :class:`fashionbatch.shards.select.Selection`."""
        limits = parse_limits(self.limit_per_split) if self.limit_per_split else {}
        return {
            "classes": parse_names(self.classes),
            "category_type": parse_names(self.category_type),
            "fraction": self.fraction,
            "per_class": self.per_class,
            "limit_per_split": limits,
            "seed": self.seed,
        }
