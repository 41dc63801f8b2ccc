"""A bulk prediction from its plan to its file, exactly once, however often it is interrupted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.errors import SourceError, StoppedError, UsageError
from fashionbatch.execution.executor import Executor, StoppedHere
from fashionbatch.execution.lending import Lending
from fashionbatch.inference import output
from fashionbatch.inference.job import Job, Tell
from fashionbatch.inference.plan import Unit, content_now
from fashionbatch.inference.reuse import Reuse
from fashionbatch.inference.stream import Failures, Stream, Writer
from fashionbatch.inference.units import Units
from fashionbatch.inference.worker import Recipe
from fashionbatch.interrupt import Interrupt, interrupts
from fashionbatch.models import choice
from fashionbatch.models.choice import AUTO, Chosen, Picked
from fashionbatch.pipeline.pool import Pool
from fashionbatch.registry import Component
from fashionbatch.shards.threads import in_order
from fashionbatch.sources.base import to_text
from fashionbatch.store import merge as merging
from fashionbatch.store import part as parts
from fashionbatch.store import publish as publishing
from fashionbatch.store.part import MissingPartError, Part
from fashionbatch.store.reader import open_predictions

#: batches of a run that is worth some to tell how long it is going to take
_WORTH_TIMING = 200
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
        StoreError: what is on disk is damaged.
    """
    return _Run(job, tell, executor).predict(dry_run=dry_run)


class _Run:
    def __init__(self, job: Job, tell: Tell, executor: Executor) -> None:
        self.job, self.tell, self.executor = job, tell, executor
        self.folder = output.parts_folder(job.output)
        self.began = time.perf_counter()
        self.fingerprint: dict[str, Any] = {}
        # by one local worker, which is this process
        self.here = executor.local and len(job.config.device_names) == 1
        self.pool: Pool | None = None
        self.chosen: Chosen | None = None
        self.reuse: Reuse | None = None
        self.retry: bool | None = None
        self.stopped = False
        self.before = _identity(job.output)

    def predict(self, *, dry_run: bool) -> dict[str, Any]:
        job, config = self.job, self.job.config
        restart = config.restart and not dry_run
        output.prepare(job.output, restart=restart, no_merge=config.no_merge)
        replacing = config.restart or output.is_replacing(self.folder)
        recorded = None if replacing else output.fingerprint_of(job.output)
        self.replacing = replacing or recorded is not None
        engine = self._recorded_engine(recorded)
        wanted = {**job.fingerprint, **({"engine": engine} if engine else {})}
        reusable = False
        if recorded is not None:
            reusable = self._is_reusable(recorded, wanted)
            same = recorded["input"] == wanted["input"] and recorded["items"] == wanted["items"]
            how = self._differences() if same else "the names differ"
            if how is None and not (config.retry_failed and self._counts()[1]):
                return self._complete()
            if how is not None and not config.incremental:
                output.refuse_changed(job.output, how)
        with ExitStack() as stack:
            if self.here and not dry_run:
                # first, because its processes are forked, and engines start threads
                self.pool = stack.enter_context(
                    Pool(
                        job.plan.catalogue,
                        job.card.preprocessing,
                        batch_size=job.grid.batch_size,
                        workers=job.workers,
                        limits=job.limits,
                    )
                )
            picked = self._pick(engine, timed=dry_run, stack=stack)
            self.fingerprint = {**job.fingerprint, "engine": dict(picked.fingerprint)}
            if recorded is not None and reusable:
                known = {"engine": self.fingerprint["engine"]}
                output.refuse_other(job.output, recorded, known)
            if not config.restart:
                output.refuse_other_parts(self.folder, self.fingerprint, update=config.incremental)
            pending = self._pending(retry=config.retry_failed, fresh=config.restart and dry_run)
            plan = self._plan(picked, pending, timed=dry_run)
            if dry_run:
                return plan
            self.tell("plan", plan)
            self.retry = config.retry_failed if reusable else None
            if reusable and self.here:
                self.reuse = Reuse(job.output, job.answers, retry=config.retry_failed)
                stack.callback(self.reuse.close)
            return self._rounds(pending, picked)

    def _is_reusable(self, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        """Whether rows may be taken over from the output that is there.

        Raises:
            OutputExistsError: it is of another run.
        """
        config = self.job.config
        batch = recorded.get("batch_size")
        if batch == min(config.batch_size, max(1, recorded.get("rows", 0))):
            # of a few images, which one batch had room for: that follows from the input
            wanted = {**wanted, "batch_size": batch}
        output.refuse_other(self.job.output, recorded, wanted, update=config.incremental)
        # other batches are rounded in another way
        same = batch == self.job.grid.batch_size
        return same and (config.incremental or config.retry_failed)

    def _recorded_engine(self, recorded: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What the fingerprint says of the engine, where that is known before it is made."""
        config = self.job.config
        if config.engine != AUTO:
            return choice.provenance(*self._found(config.engine))
        if config.restart:
            return None
        begun = parts.said(self.folder) if parts.fingerprint_of(self.folder) else None
        for said in (begun, recorded):
            if said is not None and isinstance(said.get("engine"), dict):
                known = said["engine"]
                try:
                    component, _ = self._found(f"{known['provider']}:{known['name']}")
                except UsageError:  # told when there is something left to run
                    return {k: known[k] for k in ("name", "provider", "version", "options")}
                return choice.provenance(component, known["options"])
        return None

    def _found(self, engine: str) -> tuple[Component, dict[str, Any]]:
        """An engine; whether it can run is for its place to say."""
        if self.executor.local:
            return choice.find(engine, self.job.device)
        return choice.named(engine)

    def _pick(self, engine: Mapping[str, Any] | None, *, timed: bool, stack: ExitStack) -> Picked:
        """The engine, which is made and kept where this process is to run it.

        Args:
            engine: what is known of it.
            timed: how long a batch takes is wanted, however few there are.
            stack: closes it.
        """
        batches = len(self.job.grid)
        if not self.executor.local:
            timed = timed or batches >= _WORTH_TIMING
            return self.executor.ask(partial(self._recipe().pick, engine, batches, timed))
        at_work = self.job.engine_job()
        if engine is None:
            chosen = choice.quickest(at_work, batches, self.tell)
        else:
            chosen = choice.remade(engine, at_work)
        if self.here:
            self.chosen = chosen
            stack.callback(chosen.engine.close)
            return chosen.picked
        try:
            return chosen.timed(at_work) if timed or batches >= _WORTH_TIMING else chosen.picked
        finally:
            chosen.engine.close()  # each process makes its own

    def _differences(self) -> str | None:
        """How the input differs from what the output was made from; reads the files of a folder."""
        units = self.job.plan.units
        hashes = in_order(self._content, units, _READERS)
        found = [(u.name, sha256, u.count) for u, sha256 in zip(units, hashes, strict=True)]
        return output.differences(self.job.output, found, retry=self.job.config.retry_failed)

    def _content(self, unit: Unit) -> str:
        return content_now(self.job.plan.catalogue, unit)

    def _counts(self) -> tuple[int, int]:
        with open_predictions(self.job.output) as done:
            return len(done), len(done.failures)

    def _complete(self) -> dict[str, Any]:
        counts = self._counts()
        made = output.fingerprint_of(self.job.output)
        if parts.fingerprint_of(self.folder) in (None, files.fingerprint(made)):
            self._tidy()  # a run may have been killed while it did that
        self._refuse_nothing(counts)
        self.tell("complete", {"output": str(self.job.output), "failed": counts[1]})
        return self._result(counts, fresh=0, engine=self._engine_of_output())

    def _engine_of_output(self) -> str:
        found = output.fingerprint_of(self.job.output) or {}
        return str(found.get("engine", {}).get("name", ""))

    def _pending(self, *, retry: bool = False, fresh: bool = False) -> list[int]:
        """The units that have no part yet; of a retry also those in which something failed.

        ``fresh`` means that what there is of parts is going to be discarded.
        """
        key = files.fingerprint(self.fingerprint)
        self.already_failed = 0
        if fresh:
            return list(range(len(self.job.plan.units)))
        pending = []
        for number, unit in enumerate(self.job.plan.units):
            found = parts.find(self.folder, number, fingerprint=key, count=unit.count)
            if found is None or (retry and found.failed):
                pending.append(number)
                continue
            content = self._content(unit)
            if found.sha256 == content:
                self.already_failed += found.failed
                continue
            if not self.job.config.incremental:
                output.refuse_changed_part(self.folder, unit.name, found.sha256, content)
            pending.append(number)
        return pending

    def _plan(self, picked: Picked, pending: list[int], *, timed: bool) -> dict[str, Any]:
        job = self.job
        batches = len(job.grid.numbers(pending))
        if (
            self.chosen is not None
            and job.config.rate is None
            and (timed or batches >= _WORTH_TIMING)
        ):
            picked = self.chosen.timed(job.engine_job())
        size = job.grid.batch_size
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
            "bytes_read": job.plan.stored_bytes(pending) if timed else None,
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
        job = self.job
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
                counts = self._merge(picked)
                break
            except (MissingPartError, FileNotFoundError):
                seconds = time.perf_counter() - started
                # another process of the same run has merged the parts, and tidied them away
                made = _identity(job.output) != self.before
                same = output.fingerprint_of(job.output) == output.plain(self.fingerprint)
                if made and same:
                    counts = self._counts()
                    break
                if last == _ROUNDS - 1:
                    raise
                pending = self._pending()
        if job.delivery is not None:
            job.delivery.finish()
        self._tidy()
        self._refuse_nothing(counts)
        return self._result(
            counts, fresh=job.plan.items - kept, engine=picked.name, seconds=seconds
        )

    def _stream(self, pending: list[int]) -> None:
        job = self.job
        self.folder.mkdir(parents=True, exist_ok=True)
        parts.say(self.folder, self.fingerprint)
        if job.config.restart:
            output.replace_at_the_end(self.folder)
        failures = Failures(job.most_failures, self.tell)
        failures.add_known(self.already_failed)
        with interrupts() as asked:
            lending = Lending(
                pending,
                stage=Units(
                    job,
                    self.folder,
                    files.fingerprint(self.fingerprint),
                    failures,
                    self.tell,
                    self._commit,
                ),
                worker=self._recipe(),
                asked=asked,
                places=job.config.device_names,
                here=partial(self._predict_here, failures, asked) if self.here else None,
            )
            try:
                self.executor.run(lending)
            except StoppedHere:
                key = files.fingerprint(self.fingerprint)
                # without a look at the images themselves: whoever stops this may not wait long
                self.stopped = True
                without = " without --restart" if job.config.restart else ""
                left = sum(
                    unit.count
                    for number, unit in enumerate(job.plan.units)
                    if not parts.find(self.folder, number, fingerprint=key, count=unit.count)
                )
                done = job.plan.items - left
                text = f"{done:,} of {job.plan.items:,} items are finished and kept"
                if not done:
                    text = "no part was finished yet"
                raise StoppedError(
                    f"stopped: {text}; the same command{without} goes on from there", asked.signal
                ) from None
            finally:
                self._leave_nothing()

    def _predict_here(self, failures: Failures, asked: Interrupt, pending: Sequence[int]) -> None:
        job = self.job
        assert self.pool is not None and self.chosen is not None
        stream = Stream(
            plan=job.plan,
            labels=job.labels,
            grid=job.grid,
            answers=job.answers,
            engine=self.chosen.engine,
            device=job.device,
            pool=self.pool,
            fingerprint=files.fingerprint(self.fingerprint),
            failures=failures,
            asked=asked,
            tell=self.tell,
            reuse=self.reuse,
        )
        with Writer(self._commit) as writer:
            stream.run(pending, writer.put)

    def _recipe(self) -> Recipe:
        """What workers are made by, as far as it is known."""
        job, config = self.job, self.job.config
        elsewhere = not self.executor.local  # in another folder
        return Recipe(
            plan=job.plan.absolute() if elsewhere else job.plan,
            model=job.folder.absolute(),
            config=config,
            output=job.output.absolute(),
            site=job.site,
            engine=self.fingerprint.get("engine"),
            fingerprint=files.fingerprint(self.fingerprint),
            folder=self.folder.absolute(),
            delivery=job.delivery,
            workers=config.workers if elsewhere else job.workers,
            retry=self.retry,
        )

    def _commit(self, part: Part) -> None:
        parts.commit(self.folder, part, again=True)
        if self.job.delivery is not None:
            self.job.delivery.commit(part)

    def _leave_nothing(self) -> None:
        """A run that finished no part leaves no folder."""
        if self.stopped and output.is_replacing(self.folder):
            return  # the same command, without --restart, goes on
        if self.folder.is_dir() and not any(self.folder.glob("part-*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _merge(self, picked: Picked) -> tuple[int, int]:
        job = self.job
        engine = dict(picked.provenance) | {"kind": "engine"}
        about = {
            "fingerprint": self.fingerprint,
            "model_card": job.card.to_json(),
            "configuration": self.fingerprint["configuration"],
            "components": [dict(job.card.backbone) | {"kind": "backbone"}, engine],
            "source": to_text(str(job.plan.path)),
        }
        made = (self.folder, job.output, job.entries, job.card.classes, about, job.card.attributes)
        key = files.fingerprint(self.fingerprint)
        if not job.config.no_merge:
            return merging.merge(*made, fingerprint=key)
        counts = publishing.publish(*made, fingerprint=key, replace=self.replacing)
        output.replaced(job.output)
        return counts

    def _tidy(self) -> None:
        if self.job.config.keep_parts:
            output.replaced(self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.job.delivery is not None:
            self.job.delivery.tidy(keep_parts=self.job.config.keep_parts)

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
