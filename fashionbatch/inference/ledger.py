"""Which units of a run are finished: its parts, until they are merged into its output."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashionbatch import files
from fashionbatch.inference import output
from fashionbatch.inference.job import Job
from fashionbatch.inference.plan import Unit, content_now
from fashionbatch.sources.base import to_text
from fashionbatch.store import merge as merging
from fashionbatch.store import part as parts
from fashionbatch.store import publish as publishing
from fashionbatch.store.part import Part

if TYPE_CHECKING:
    from fashionbatch.inference.delivery import Delivery


class Ledger:
    """The parts of a run.

    Args:
        job: of the run.

    Attributes:
        folder: where they lie.
        replacing: they are to replace a file of another run.
        fingerprint: all that the numbers of the run depend on, once :meth:`open` was called.
        key: the same, short.
        already_failed: items that failed in the parts that :meth:`pending` found.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = output.parts_folder(job.output)
        self.replacing = job.config.restart or output.is_replacing(self.folder)
        self.fingerprint: dict[str, Any] = {}
        self.key = ""
        self.already_failed = 0

    def open(self, engine: Mapping[str, Any]) -> None:
        """Says what the parts are of.

        Args:
            engine: the fingerprint's words for it.

        Raises:
            OutputExistsError: those that are there are of another run.
        """
        self.fingerprint = {**self.job.fingerprint, "engine": dict(engine)}
        self.key = files.fingerprint(self.fingerprint)
        config = self.job.config
        if not config.restart:
            output.refuse_other_parts(self.folder, self.fingerprint, update=config.incremental)

    @property
    def commit(self) -> Callable[[Part], None]:
        """Writes a part for good; can be pickled."""
        return partial(_commit, self.folder.absolute(), self.job.delivery)

    @property
    def commit_elsewhere(self) -> Callable[[Part], None]:
        """The same on another machine, without this disk where the output lies on no disk."""
        delivery = self.job.delivery
        return self.commit if delivery is None else delivery.dispatch().commit

    def refresh(self, numbers: Sequence[int]) -> None:
        """Makes sure that :meth:`find` knows what has become of some units.

        Raises:
            RemoteError: where they are to lie does not say.
        """
        if self.job.delivery is not None:
            self.job.delivery.refresh(numbers)

    def find(self, number: int) -> parts.Found | None:
        """The part of a unit, if it is finished."""
        count = self.job.plan.units[number].count
        return parts.find(self.folder, number, fingerprint=self.key, count=count)

    def pending(self, *, retry: bool = False) -> list[int]:
        """The units that have no part yet; of a retry also those in which something failed.

        Raises:
            OutputExistsError: an image has changed since its part was made.
        """
        self.already_failed = 0
        pending = []
        for number, unit in enumerate(self.job.plan.units):
            found = self.find(number)
            if found is None or (retry and found.failed):
                pending.append(number)
                continue
            content = self.content(unit)
            if found.sha256 == content:
                self.already_failed += found.failed
                continue
            if not self.job.config.incremental:
                output.refuse_changed_part(self.folder, unit.name, found.sha256, content)
            pending.append(number)
        return pending

    def content(self, unit: Unit) -> str:
        """The hash of a unit as it is now."""
        return content_now(self.job.plan.catalogue, unit)

    def begin(self) -> None:
        """Makes room for parts, and writes down what they are of."""
        self.folder.mkdir(parents=True, exist_ok=True)
        parts.say(self.folder, self.fingerprint)
        if self.job.config.restart:
            output.replace_at_the_end(self.folder)

    def finished_items(self, *, elsewhere: bool) -> int:
        """Items of the units that have a part, whatever their images are by now.

        Args:
            elsewhere: look where the output is to lie, and not at what this disk has of it.

        Raises:
            RemoteError: that cannot be asked.
        """
        units, delivery = self.job.plan.units, self.job.delivery
        if elsewhere and delivery is not None:
            return sum(units[number].count for number in delivery.there(len(units)))
        return sum(unit.count for number, unit in enumerate(units) if self.find(number))

    def leave_nothing(self, *, stopped: bool) -> None:
        """Removes the folder where no part was finished.

        Args:
            stopped: by a signal: a ``--restart`` is then gone on with.
        """
        if stopped and output.is_replacing(self.folder):
            return
        if self.folder.is_dir() and not any(self.folder.glob("part-*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def merge(self, engine: Mapping[str, str]) -> tuple[int, int]:
        """Makes the output of the parts.

        Args:
            engine: its name, package and version.

        Returns:
            items that were predicted, and that failed.

        Raises:
            MissingPartError: a part is not there any more.
            StoreError: a part is damaged.
        """
        job = self.job
        about = {
            "fingerprint": self.fingerprint,
            "model_card": job.card.to_json(),
            "configuration": self.fingerprint["configuration"],
            "components": [
                dict(job.card.backbone) | {"kind": "backbone"},
                dict(engine) | {"kind": "engine"},
            ],
            "source": to_text(str(job.plan.path)),
        }
        made = (self.folder, job.output, job.entries, job.card.classes, about, job.card.attributes)
        if not job.config.no_merge:
            return merging.merge(*made, fingerprint=self.key)
        counts = publishing.publish(*made, fingerprint=self.key, replace=self.replacing)
        output.replaced(job.output)
        return counts

    def tidy(self) -> None:
        """Removes the parts of an output that is whole, unless they are to be kept."""
        job = self.job
        if job.config.keep_parts:
            output.replaced(self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        if job.delivery is not None:
            job.delivery.tidy(keep_parts=job.config.keep_parts)


def _commit(folder: Path, delivery: Delivery | None, part: Part) -> None:
    parts.commit(folder, part, again=True)
    if delivery is not None:
        delivery.commit(part)
