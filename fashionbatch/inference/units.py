"""The units of a run while workers have them: what is counted, and what becomes of lost ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fashionbatch.errors import ImageError
from fashionbatch.execution.executor import Tell
from fashionbatch.execution.lending import Lease
from fashionbatch.inference.gathering import Gathering
from fashionbatch.inference.job import Job
from fashionbatch.inference.stream import Failures
from fashionbatch.store import part as parts
from fashionbatch.store.part import Part


class Units:
    """See :class:`fashionbatch.execution.lending.Stage`.

    Args:
        job: whose units they are.
        folder: of the parts.
        fingerprint: of the run.
        failures: counts.
        tell: gets what the workers tell.
        commit: writes a part for good.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        fingerprint: str,
        failures: Failures,
        tell: Tell,
        commit: Callable[[Part], None],
    ) -> None:
        self.job, self.folder, self.fingerprint = job, folder, fingerprint
        self.failures, self.tell, self.commit = failures, tell, commit

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
        left = []
        for number in lease.tasks:
            count = self.job.plan.units[number].count
            found = parts.find(self.folder, number, fingerprint=self.fingerprint, count=count)
            if found is None:
                left.append(number)
            else:
                self.failures.add_known(found.failed)
                self.tell("progress", {"items": count})
        return left

    def give_up(self, task: int, reason: str) -> None:
        """Commits a part in which every image fails for this reason.

        Raises:
            SourceError: too much fails.
        """
        plan, labels = self.job.plan, self.job.labels
        unit = plan.units[task]
        start = sum(len(other.rows) for other in plan.units[:task])
        gathering = Gathering(
            task, unit, plan.catalogue, self.job.answers, labels[start : start + len(unit.rows)]
        )
        if unit.damage is None:
            error = ImageError("model", reason)
            for place, row in enumerate(unit.rows.tolist()):
                try:
                    gathering.fail(place, error, plan.catalogue.sha256(row))
                except ImageError as unread:
                    gathering.fail(place, unread)
        self.commit(gathering.close(self.fingerprint))
        self.failures.add(unit.name, reason, unit.count)
        self.tell("progress", {"items": unit.count})
