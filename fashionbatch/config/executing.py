"""Where the work of a job is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fashionbatch.fields import Checked, option
from fashionbatch.parse import parse_options

#: what is always there
LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Executing(Checked):
    """Where the work of a job is done."""

    executor: str = option(
        LOCAL, "Who has workers do the work: local, or a plugin's, such as ray for a cluster."
    )
    address: str | None = option(None, "Of the cluster, for executors that have one.")
    executor_kwargs: tuple[str, ...] = option(
        [], "Further options of the executor, k=v. Repeatable."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.executor_options()

    def executor_options(self) -> dict[str, Any]:
        """What the executor's factory is called with."""
        given = parse_options(self.executor_kwargs, "--executor-kwargs")
        return {**given, **({"address": self.address} if self.address is not None else {})}
