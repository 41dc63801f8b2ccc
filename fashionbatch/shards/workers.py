"""Workers that pack shards, and what becomes of what they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fashionbatch.errors import SourceError
from fashionbatch.execution.lease import Lease
from fashionbatch.execution.worker import StoppedHere, Tell, Worker
from fashionbatch.interrupt import Interrupt
from fashionbatch.shards.pack import Packed, Packer
from fashionbatch.shards.plan import ShardTask


class PackWorker(Worker):
    """Packs shards.

    Args:
        packer: packs one.
        tasks: of the plan.
    """

    def __init__(self, packer: Packer, tasks: Sequence[ShardTask]) -> None:
        self.packer, self.tasks = packer, tasks

    def do(self, lease: Lease, tell: Tell, asked: Interrupt) -> None:
        """See :class:`fashionbatch.Worker`."""
        for number in lease.tasks:
            if asked:
                raise StoppedHere
            try:
                packed = self.packer.pack(self.tasks[number])
            except OSError as error:  # of the output: what is kept is told where it is known
                tell("unwritable", {"error": (error.errno, error.strerror, error.filename)})
                return
            tell("packed", {"task": number, "packed": packed})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Makes workers, wherever it is called; travels there.

    Attributes:
        packer: what each of them gets, and the ``tasks`` of the plan.
    """

    packer: Packer
    tasks: Sequence[ShardTask]

    def __call__(self, place: str) -> PackWorker:
        """A worker; the place does not matter."""
        return PackWorker(self.packer, self.tasks)


class Shelf:
    """The shards of a plan as they are finished; see :class:`fashionbatch.execution.lending.Stage`.

    Args:
        tasks: of the plan.
        put: called with each shard when it is finished.
        tell: gets what executors warn of.
    """

    def __init__(
        self, tasks: Sequence[ShardTask], put: Callable[[Packed], None], tell: Tell
    ) -> None:
        self.tasks, self.put, self.tell = tasks, put, tell
        self._done: dict[int, Packed] = {}

    def hear(self, lease: Lease, event: str, values: dict[str, Any]) -> None:
        """A shard is finished, or the executor warns.

        Raises:
            OSError: one cannot be written.
        """
        if event == "unwritable":
            raise OSError(*values["error"])
        if event == "warn":
            self.tell(event, values)
        if event == "packed" and values["task"] not in self._done:
            self._done[values["task"]] = values["packed"]
            self.put(values["packed"])

    def unfinished(self, lease: Lease) -> Sequence[int]:
        """Those of a lost lease that nobody has told of."""
        return [number for number in lease.tasks if number not in self._done]

    def give_up(self, task: int, reason: str) -> None:
        """A data set without it would lack items that nothing is wrong with.

        Raises:
            SourceError: always.
        """
        raise SourceError(
            f"{self.tasks[task].file} cannot be packed: {reason}, perhaps for want of memory: run "
            "the command again with fewer --workers; finished shards are kept"
        )

    @property
    def shards(self) -> list[Packed]:
        """All of them, in the order of the plan."""
        return [self._done[number] for number in range(len(self.tasks))]
