"""The units of a run while workers have them: what is counted, and what becomes of lost ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fashionbatch.errors import ImageError, SourceError, counted
from fashionbatch.execution.lease import Lease
from fashionbatch.execution.worker import Tell
from fashionbatch.inference.gathering import Gathering
from fashionbatch.inference.ledger import Ledger


class Failures:
    """Counts and tells what fails, and ends a run in which too much does.

    Args:
        most: that may fail; ``None`` for any number.
        tell: gets ``("failed", {"name", "reason"})``.
    """

    def __init__(self, most: int | None, tell: Tell) -> None:
        self.most, self.count, self.tell = most, 0, tell

    def add(self, name: str, reason: str, count: int = 1) -> None:
        """One more, or so many of one name.

        Raises:
            SourceError: one too many.
        """
        self.tell("failed", {"name": name, "reason": reason})
        self.count += count
        self._check(f", the last one {name!r} ({reason})")

    def add_known(self, count: int) -> None:
        """So many more failed in what is there of earlier runs.

        Raises:
            SourceError: too many.
        """
        self.count += count
        self._check(" so far, in earlier runs and this one")

    def forget(self, count: int) -> None:
        """So many are going to be tried again."""
        self.count -= count
        self.tell("forgotten", {"failed": count})

    def _check(self, which: str) -> None:
        if self.most is not None and self.count > self.most:
            raise SourceError(
                f"{counted(self.count, 'item')} failed{which}, and "
                f"--max-failures allows {self.most}: what is finished is kept, and the same "
                "command with a higher limit goes on"
            )


class Units:
    """See :class:`fashionbatch.execution.lending.Stage`.

    Args:
        ledger: of the run whose units they are.
        tell: gets what the workers tell, and ``("failed", {"name", "reason"})``.

    Raises:
        SourceError: more failed in earlier runs than may.
    """

    def __init__(self, ledger: Ledger, tell: Tell) -> None:
        self.ledger, self.job, self.tell = ledger, ledger.job, tell
        self.failures = Failures(self.job.most_failures, tell)
        self.failures.add_known(ledger.already_failed)

    def hear(self, lease: Lease, event: str, values: dict[str, Any]) -> None:
        """Counts what failed, and tells the rest."""
        if event == "failed":
            lease.told["failed"] += values["count"]
            self.failures.add(values["name"], values["reason"], values["count"])
        elif event == "known":
            lease.told["failed"] += values["count"]
            self.failures.add_known(values["count"])
        else:
            if event == "progress":
                lease.told.update(values)
            self.tell(event, values)

    def unfinished(self, lease: Lease) -> Sequence[int]:
        """Takes back what was told of a lost lease, but for the units that have their part."""
        self.failures.forget(lease.told["failed"])
        self.tell("progress", {name: -lease.told[name] for name in ("items", "reused")})
        lease.told.clear()
        self.ledger.refresh(lease.tasks)
        left = []
        for number in lease.tasks:
            found = self.ledger.find(number)
            if found is None:
                left.append(number)
            else:
                self.failures.add_known(found.failed)
                self.tell("progress", {"items": self.job.plan.units[number].count})
        return left

    def give_up(self, task: int, reason: str) -> None:
        """Commits a part in which every image fails for this reason.

        Raises:
            SourceError: too much fails.
        """
        plan = self.job.plan
        unit = plan.units[task]
        labels = self.job.labels(unit)
        gathering = Gathering(task, unit, plan.catalogue, self.job.answers, labels)
        if unit.damage is None:
            error = ImageError("model", reason)
            for place, row in enumerate(unit.rows.tolist()):
                try:
                    gathering.fail(place, error, plan.catalogue.sha256(row))
                except ImageError as unread:
                    gathering.fail(place, unread)
        self.ledger.commit(gathering.close(self.ledger.key))
        self.failures.add(unit.name, reason, unit.count)
        self.tell("progress", {"items": unit.count})
