"""A bulk prediction from its plan to its file, exactly once, however often it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.address import Address, Location
from fashionbatch.errors import SourceError, StoppedError
from fashionbatch.execution.executor import Executor
from fashionbatch.execution.lending import Lending
from fashionbatch.execution.worker import StoppedHere
from fashionbatch.inference import output
from fashionbatch.inference.engine import EngineOfRun
from fashionbatch.inference.job import Job, Tell
from fashionbatch.inference.ledger import Ledger
from fashionbatch.inference.reuse import Reuse
from fashionbatch.inference.units import Units
from fashionbatch.inference.worker import Recipe, UnitWorker
from fashionbatch.interrupt import interrupts
from fashionbatch.models.choice import Picked
from fashionbatch.shards.threads import in_order
from fashionbatch.store import part as parts
from fashionbatch.store.part import MissingPartError
from fashionbatch.store.reader import open_predictions

#: times that parts which somebody else took away are made again
_ROUNDS = 3
#: files of a folder that are read at the same time, to see whether they are what they were
_READERS = 4


def predict(job: Job, tell: Tell, executor: Executor, *, dry_run: bool = False) -> dict[str, Any]:
    """Predicts a plan into a file; goes on where an earlier run of the same stopped.

    Args:
        job: as prepared.
        tell: gets ``("plan", ...)``, ``("resumed", ...)``, ``("complete", {"output", "failed"})``,
            ``("progress", {"items"})``, ``("failed", {"name", "reason"})``.
        executor: has workers do it.
        dry_run: only return the plan.

    Returns:
        ``{"output", "items", "predicted", "failed", "seconds", "images_per_second", "engine"}``;
        of a dry run what ``plan`` tells.

    Raises:
        OutputExistsError: the output, or the parts beside it, are of another run or of other
            images.
        SourceError: no image could be used, or too many failed.
        StoppedError: a signal asked for it; what is finished is kept.
        LostError: another run has taken the output over.
        StoreError: what is on disk is damaged.
    """
    return _Run(job, tell, executor, dry_run=dry_run).predict()


class _Run:
    def __init__(self, job: Job, tell: Tell, executor: Executor, *, dry_run: bool) -> None:
        self.job, self.tell, self.executor, self.dry_run = job, tell, executor, dry_run
        self.ledger = Ledger(job)
        # by one local worker, which is this process
        self.here = executor.local and len(job.config.device_names) == 1
        self.engine = EngineOfRun(job, executor, tell, here=self.here, timed=dry_run)
        self.worker: UnitWorker | None = None
        self.retry: bool | None = None
        self.began = time.perf_counter()
        self.before = _identity(job.output)

    def predict(self) -> dict[str, Any]:
        job, config, ledger = self.job, self.job.config, self.ledger
        output.prepare(
            job.output, restart=config.restart and not self.dry_run, no_merge=config.no_merge
        )
        recorded = None if ledger.replacing else output.fingerprint_of(job.output)
        ledger.replacing = ledger.replacing or recorded is not None
        self.engine.look(ledger.folder, recorded)
        if recorded is not None and self._is_complete(recorded):
            return self._complete()
        with ExitStack() as stack:
            pool = None
            if self.here and not self.dry_run:
                # first, because its processes are forked, and engines start threads
                pool = stack.enter_context(job.pool())
            picked = self.engine.pick(self._recipe(), stack)
            if self.retry is not None:
                output.refuse_other(job.output, recorded or {}, {"engine": picked.fingerprint})
            ledger.open(picked.fingerprint)
            if self.dry_run and config.restart:  # what there is of parts is going to be discarded
                pending = list(range(len(job.plan.units)))
            else:
                pending = ledger.pending(retry=config.retry_failed)
            picked = self.engine.again(picked, len(job.grid.numbers(pending)))
            plan = self._plan(picked, pending)
            if self.dry_run:
                return plan
            self.tell("plan", plan)
            if pool is not None and self.engine.chosen is not None:
                reuse = None
                if self.retry is not None:
                    reuse = Reuse(job.output, job.answers, retry=self.retry)
                    stack.callback(reuse.close)
                self.worker = UnitWorker(
                    job,
                    pool=pool,
                    engine=self.engine.chosen.engine,
                    fingerprint=ledger.key,
                    commit=ledger.commit,
                    reuse=reuse,
                )
            return self._rounds(pending, picked)

    def _is_complete(self, recorded: Mapping[str, Any]) -> bool:
        """Whether the output that is there is what is asked for; else what may be taken from it.

        Raises:
            OutputExistsError: it is of another run, or of other images.
        """
        job, config, known = self.job, self.job.config, self.engine.known
        wanted = {**job.fingerprint, **({"engine": known} if known else {})}
        batch = recorded.get("batch_size")
        if batch == min(config.batch_size, max(1, recorded.get("rows", 0))):
            # of a few images, which one batch had room for: that follows from the input
            wanted["batch_size"] = batch
        output.refuse_other(job.output, recorded, wanted, update=config.incremental)
        if batch == job.grid.batch_size and (config.incremental or config.retry_failed):
            self.retry = config.retry_failed  # other batches are rounded in another way
        same = recorded["input"] == wanted["input"] and recorded["items"] == wanted["items"]
        how = self._differences() if same else "the names differ"
        if how is not None and not config.incremental:
            output.refuse_changed(job.output, how)
        return how is None and not (config.retry_failed and self._counts()[1])

    def _differences(self) -> str | None:
        """How the input differs from what the output was made from; reads the files of a folder."""
        units = self.job.plan.units
        hashes = in_order(self.ledger.content, units, _READERS)
        found = [(u.name, sha256, u.count) for u, sha256 in zip(units, hashes, strict=True)]
        return output.differences(self.job.output, found, retry=self.job.config.retry_failed)

    def _counts(self) -> tuple[int, int]:
        with open_predictions(self.job.output) as done:
            return len(done), len(done.failures)

    def _complete(self) -> dict[str, Any]:
        counts = self._counts()
        made = output.fingerprint_of(self.job.output) or {}
        if parts.fingerprint_of(self.ledger.folder) in (None, files.fingerprint(made)):
            self.ledger.tidy()  # a run may have been killed while it did that
        self._refuse_nothing(counts)
        self.tell("complete", {"output": str(self.job.output), "failed": counts[1]})
        return self._result(counts, fresh=0, engine=str(made.get("engine", {}).get("name", "")))

    def _plan(self, picked: Picked, pending: list[int]) -> dict[str, Any]:
        job = self.job
        batches, size = len(job.grid.numbers(pending)), job.grid.batch_size
        rate = job.config.rate
        each = size / rate if rate is not None else picked.seconds.get(picked.name)
        left = sum(job.plan.units[n].count for n in pending)
        parallel = self.executor.workers() or len(job.config.device_names)
        return {
            "output": str(job.output),
            "items": job.plan.items,
            "kept": job.plan.items - left,
            "shards": len(job.plan.units),
            "batches": batches,
            "batch_size": size,
            "bytes": job.bytes(),
            "bytes_read": job.plan.stored_bytes(pending) if self.dry_run else None,
            **picked.figures(size),
            "device": job.site.kind,
            "precision": job.site.precision,
            "workers": job.workers,
            "parallel": parallel,
            "shards_each": -(-len(pending) // parallel),
            "seconds": None if each is None else round(each * batches / parallel, 1),
        }

    def _rounds(self, pending: list[int], picked: Picked) -> dict[str, Any]:
        """Predicts what is pending and merges; again where somebody else took parts away."""
        job, ledger = self.job, self.ledger
        kept = job.plan.items - sum(job.plan.units[n].count for n in pending)
        if kept:
            done = len(job.plan.units) - len(pending)
            self.tell("resumed", {"parts": done, "items": kept, "of": job.plan.items})
        started = time.perf_counter()
        for last in range(_ROUNDS):
            try:
                if pending:
                    self._stream(pending)
                if job.delivery is not None and not self.executor.local:
                    # workers elsewhere have put their parts there, and not on this disk
                    job.delivery.fetch(len(job.plan.units), restart=False)
                seconds = time.perf_counter() - started
                counts = ledger.merge(picked.provenance)
                break
            except (MissingPartError, FileNotFoundError):
                seconds = time.perf_counter() - started
                # another process of the same run has merged the parts, and tidied them away
                made = _identity(job.output) != self.before
                if made and output.fingerprint_of(job.output) == output.plain(ledger.fingerprint):
                    counts = self._counts()
                    break
                if last == _ROUNDS - 1:
                    raise
                pending = ledger.pending()
        if job.delivery is not None:
            job.delivery.finish()
        ledger.tidy()
        self._refuse_nothing(counts)
        return self._result(
            counts, fresh=job.plan.items - kept, engine=picked.name, seconds=seconds
        )

    def _stream(self, pending: list[int]) -> None:
        job, ledger = self.job, self.ledger
        ledger.begin()
        stopped = False
        try:
            with interrupts() as asked:
                if job.delivery is not None:
                    job.delivery.claim.ends(asked)
                lending = Lending(
                    pending,
                    stage=Units(ledger, self.tell),
                    worker=self._recipe(),
                    asked=asked,
                    places=job.config.device_names,
                    here=self.worker,
                    pack=None if self.executor.local else job.parcel,
                )
                self.executor.run(lending)
        except StoppedHere:
            # without a look at the images themselves: whoever stops this may not wait long
            stopped = True
            if job.delivery is not None:
                job.delivery.claim.check()
            done = ledger.finished_items(elsewhere=not self.executor.local)
            text = f"{done:,} of {job.plan.items:,} items are finished and kept"
            if not done:
                text = "no part was finished yet"
            without = " without --restart" if job.config.restart else ""
            raise StoppedError(
                f"stopped: {text}; the same command{without} goes on from there", asked.signal
            ) from None
        finally:
            ledger.leave_nothing(stopped=stopped)

    def _recipe(self) -> Recipe:
        """What workers are made by, as far as it is known."""
        job, config = self.job, self.job.config
        elsewhere = not self.executor.local
        model: Location = job.folder.absolute()
        earlier: Location = job.output.absolute()
        if elsewhere:  # in another folder, and without the copies that this disk has
            model = config.model if isinstance(config.model, Address) else model
            earlier = earlier if job.delivery is None else job.delivery.address
        return Recipe(
            plan=job.plan.absolute() if elsewhere else job.plan,
            model=model,
            card=job.card,
            config=config,
            output=job.output.absolute(),
            earlier=earlier,
            site=job.site,
            engine=self.ledger.fingerprint.get("engine"),
            fingerprint=self.ledger.key,
            commit=self.ledger.commit_elsewhere if elsewhere else self.ledger.commit,
            workers=config.workers if elsewhere else job.workers,
            retry=self.retry,
        )

    def _refuse_nothing(self, counts: tuple[int, int]) -> None:
        predicted, failed = counts
        if not predicted and failed:
            raise SourceError(
                f"none of the {failed} files of {self.job.plan.path} is an image that can be used: "
                f"{self.job.output} lists the reasons"
            )

    def _result(
        self, counts: tuple[int, int], *, fresh: int, engine: str, seconds: float | None = None
    ) -> dict[str, Any]:
        if seconds is None:
            seconds = time.perf_counter() - self.began
        return {
            "output": str(self.job.output),
            "items": self.job.plan.items,
            "predicted": counts[0],
            "failed": counts[1],
            "seconds": round(seconds, 3),
            "images_per_second": round(fresh / seconds, 2) if fresh and seconds else 0.0,
            "engine": engine,
        }


def _identity(path: Path) -> tuple[int, int] | None:
    """Stands for the file at a path as it is now."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
