"""A worker that predicts units of a plan, and what it has to know for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.address import Location
from fashionbatch.config import PredictConfig
from fashionbatch.errors import ExecutionError
from fashionbatch.execution.lease import Lease
from fashionbatch.execution.worker import Tell, Worker
from fashionbatch.inference import job as jobs
from fashionbatch.inference.job import Job, Site
from fashionbatch.inference.plan import Plan
from fashionbatch.inference.reuse import Reuse
from fashionbatch.inference.stream import Stream, Writer
from fashionbatch.interrupt import Interrupt
from fashionbatch.models import choice
from fashionbatch.models import copy as models
from fashionbatch.models.card import ModelCard, code_version
from fashionbatch.models.choice import Picked
from fashionbatch.models.engine import Engine
from fashionbatch.pipeline.pool import Pool
from fashionbatch.store import copy as predictions
from fashionbatch.store.part import Part


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Makes workers, wherever it is called; travels there.

    Attributes:
        plan: of the run.
        model: folder of the model, or its address, for workers that have another disk.
        card: of the model.
        config: of the run.
        output: the HDF5 file.
        earlier: the same to take rows from, or likewise its address.
        site: what every worker must run on.
        engine: the fingerprint's words for it.
        fingerprint: of the run, for its parts.
        commit: writes a part for good.
        workers: processes that decode for a worker.
        retry: take rows over from the output that is there, without (``False``) or with what
            failed in it (``True``) to be tried again; ``None`` takes none over.
        version: of the packages that numbers depend on, where this was made.
    """

    plan: Plan
    model: Location
    card: ModelCard
    config: PredictConfig
    output: Path
    earlier: Location
    site: Site
    engine: dict[str, Any] | None = None
    fingerprint: str = ""
    commit: Callable[[Part], None] | None = None
    workers: int | None = None
    retry: bool | None = None
    version: dict[str, str] = dataclasses.field(default_factory=code_version)

    def __call__(self, place: str) -> UnitWorker:
        """A worker on a device; ``""`` is the one of the configuration."""
        assert self.engine is not None and self.commit is not None
        with ExitStack() as stack:
            job = self.job(self.plan.here(stack), place)
            # first, because its processes are forked, and engines start threads
            pool = stack.enter_context(job.pool())
            engine = choice.remade(self.engine, job.engine_job()).engine
            stack.callback(engine.close)
            reuse = None
            if self.retry is not None:
                reuse = Reuse(predictions.here(self.earlier), job.answers, retry=self.retry)
                stack.callback(reuse.close)
            return UnitWorker(
                job,
                pool=pool,
                engine=engine,
                fingerprint=self.fingerprint,
                commit=self.commit,
                reuse=reuse,
                owned=stack.pop_all(),
            )

    def job(self, plan: Plan, place: str = "") -> Job:
        """What is predicted, as it is where this runs.

        Args:
            plan: of the run; no image is read where it was not opened there.
            place: see :meth:`__call__`.

        Raises:
            ExecutionError: the code, the model or the device is another than the run's.
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
        job = jobs.prepare(plan, models.here(self.model), config, self.output, _untold)
        if files.fingerprint(job.card.to_json()) != files.fingerprint(self.card.to_json()):
            raise ExecutionError(
                f"the worker finds another model at {self.model} than this run has: all machines "
                "must see the same one"
            )
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
        at_work = self.job(self.plan).engine_job()
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
        job: of the run, as it is here.
        pool: reads and decodes.
        engine: runs the network.
        fingerprint: of the run, for its parts.
        commit: writes a part for good.
        reuse: an earlier file to take rows from.
        owned: what ends with the worker.
    """

    def __init__(
        self,
        job: Job,
        *,
        pool: Pool,
        engine: Engine,
        fingerprint: str,
        commit: Callable[[Part], None],
        reuse: Reuse | None = None,
        owned: ExitStack | None = None,
    ) -> None:
        self.job, self.commit, self.owned = job, commit, owned or ExitStack()
        self._stream = Stream(
            plan=job.plan,
            labels=job.labels,
            grid=job.grid,
            answers=job.answers,
            engine=engine,
            device=job.device,
            pool=pool,
            fingerprint=fingerprint,
            reuse=reuse,
        )

    def do(self, lease: Lease, tell: Tell, asked: Interrupt) -> None:
        """See :class:`fashionbatch.Worker`."""
        if lease.parcel is not None:
            self.job.plan.catalogue.unpack(lease.parcel)
        with Writer(self.commit) as writer:
            self._stream.run(lease.tasks, writer.put, tell, asked)

    def close(self) -> None:
        """See :class:`fashionbatch.Worker`."""
        self.owned.close()


def _untold(event: str, values: dict[str, Any]) -> None:
    """What the process that lends has told already."""
