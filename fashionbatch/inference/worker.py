"""A worker that predicts units of a plan, and what it has to know for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashionbatch.config import PredictConfig
from fashionbatch.errors import ExecutionError
from fashionbatch.execution.executor import Tell, Worker
from fashionbatch.inference import job as jobs
from fashionbatch.inference.job import Job, Site
from fashionbatch.inference.plan import Plan
from fashionbatch.inference.reuse import Reuse
from fashionbatch.inference.stream import Failures, Stream, Writer
from fashionbatch.interrupt import Interrupt
from fashionbatch.models import choice
from fashionbatch.models.card import code_version
from fashionbatch.models.choice import Picked
from fashionbatch.pipeline.pool import Pool
from fashionbatch.store import part as parts
from fashionbatch.store.part import Part

if TYPE_CHECKING:
    from fashionbatch.inference.delivery import Delivery


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Makes workers, wherever it is called; travels there.

    Attributes:
        plan: of the run.
        model: folder of the model.
        config: of the run.
        output: the HDF5 file.
        site: what every worker must run on.
        engine: the fingerprint's words for it.
        fingerprint: of the run, for its parts.
        folder: of the parts.
        delivery: puts them where they are to lie, if that is elsewhere.
        workers: processes that decode for a worker.
        retry: take rows over from the output that is there, without (``False``) or with what
            failed in it (``True``) to be tried again; ``None`` takes none over.
        version: of the packages that numbers depend on, where this was made.
    """

    plan: Plan
    model: Path
    config: PredictConfig
    output: Path
    site: Site
    engine: dict[str, Any] | None = None
    fingerprint: str = ""
    folder: Path = dataclasses.field(default_factory=Path)
    delivery: Delivery | None = None
    workers: int | None = None
    retry: bool | None = None
    version: dict[str, str] = dataclasses.field(default_factory=code_version)

    def __call__(self, place: str) -> UnitWorker:
        """A worker on a device; ``""`` is the one of the configuration."""
        return UnitWorker(self, place)

    def commit(self, part: Part) -> None:
        """Writes a part for good."""
        parts.commit(self.folder, part, again=True)
        if self.delivery is not None:
            self.delivery.commit(part)

    def job(self, place: str = "") -> Job:
        """What is predicted, as it is where this runs.

        Raises:
            ExecutionError: the code or the device is another than the run's.
        """
        for package, here in code_version().items():
            if here != self.version[package]:
                raise ExecutionError(
                    f"the worker has {package} {here}, and this run is of {package} "
                    f"{self.version[package]}: install the same version everywhere"
                )
        config = dataclasses.replace(
            self.config, device=place or self.config.device, devices=None, workers=self.workers
        )
        job = jobs.prepare(self.plan, self.model, config, self.output, _untold)
        if job.site != self.site:
            raise ExecutionError(
                f"the worker runs on {job.site}, and this run on {self.site}: workers must be "
                "alike, or their numbers would differ"
            )
        return job

    def pick(self, engine: Mapping[str, Any] | None, batches: int, timed: bool) -> Picked:
        """The engine that is quickest where this runs, or the one that is named.

        Args:
            engine: as a fingerprint has it.
            batches: that are left to do.
            timed: how long a batch takes is wanted in any case.
        """
        at_work = self.job().engine_job()
        chosen = (
            choice.quickest(at_work, batches, _untold)
            if engine is None
            else choice.remade(engine, at_work)
        )
        try:
            return chosen.timed(at_work) if timed else chosen.picked
        finally:
            chosen.engine.close()


class UnitWorker(Worker):
    """Predicts units and commits their parts.

    Args:
        recipe: of the run.
        place: device of torch.
    """

    def __init__(self, recipe: Recipe, place: str) -> None:
        assert recipe.engine is not None
        self.recipe = recipe
        self.job = recipe.job(place)
        job = self.job
        with ExitStack() as stack:
            # first, because its processes are forked, and engines start threads
            self._pool = stack.enter_context(
                Pool(
                    job.plan.catalogue,
                    job.card.preprocessing,
                    batch_size=job.grid.batch_size,
                    workers=job.workers,
                    limits=job.limits,
                )
            )
            self._engine = choice.remade(recipe.engine, job.engine_job()).engine
            stack.callback(self._engine.close)
            self._reuse = None
            if recipe.retry is not None:
                self._reuse = Reuse(recipe.output, job.answers, retry=recipe.retry)
                stack.callback(self._reuse.close)
            self._stack = stack.pop_all()

    def do(self, tasks: Sequence[int], tell: Tell, asked: Interrupt) -> None:
        """See :class:`fashionbatch.Worker`."""
        job, recipe = self.job, self.recipe
        stream = Stream(
            plan=job.plan,
            labels=job.labels,
            grid=job.grid,
            answers=job.answers,
            engine=self._engine,
            device=job.device,
            pool=self._pool,
            fingerprint=recipe.fingerprint,
            failures=Told(tell),
            asked=asked,
            tell=tell,
            reuse=self._reuse,
        )
        with Writer(recipe.commit) as writer:
            stream.run(tasks, writer.put)

    def close(self) -> None:
        """See :class:`fashionbatch.Worker`."""
        self._stack.close()


class Told(Failures):
    """Failures that another process counts."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(None, tell)

    def add(self, name: str, reason: str, count: int = 1) -> None:
        """See :class:`Failures`."""
        self.tell("failed", {"name": name, "reason": reason, "count": count})

    def add_known(self, count: int) -> None:
        """See :class:`Failures`."""
        self.tell("known", {"count": count})


def _untold(event: str, values: dict[str, Any]) -> None:
    """What the process that lends has told already."""
