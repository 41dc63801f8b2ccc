"""The engine of a run: the one it began with, or the one that is picked where it is to run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from fashionbatch.errors import UsageError
from fashionbatch.execution.executor import Executor
from fashionbatch.inference.job import Job, Tell
from fashionbatch.inference.worker import Recipe
from fashionbatch.models import choice
from fashionbatch.models.choice import AUTO, Chosen, Picked
from fashionbatch.registry import Component
from fashionbatch.store import part as parts

#: batches of a run that is worth some to tell how long it is going to take
_WORTH_TIMING = 200


class EngineOfRun:
    """Finds the engine of a run.

    Args:
        job: of the run.
        executor: has workers run it.
        tell: gets ``("trying", {"engine", "preparation"})``.
        here: this process runs it.
        timed: how long a batch takes is wanted, however few there are.

    Attributes:
        known: what the fingerprint says of it, where that is known before it is made.
        chosen: the engine itself, in the process that runs it.
    """

    def __init__(
        self, job: Job, executor: Executor, tell: Tell, *, here: bool, timed: bool
    ) -> None:
        self.job, self.executor, self.tell = job, executor, tell
        self.here, self.timed = here, timed
        self.known: dict[str, Any] | None = None
        self.chosen: Chosen | None = None

    def look(self, folder: Path, recorded: Mapping[str, Any] | None) -> None:
        """Looks for the engine that is asked for, or that an earlier run had.

        Args:
            folder: of parts.
            recorded: what the file at the output depends on.

        Raises:
            UsageError: there is none of that name, or it cannot run here.
        """
        config = self.job.config
        if config.engine != AUTO:
            self.known = choice.provenance(*self._found(config.engine))
            return
        if config.restart:
            return
        begun = parts.said(folder) if parts.fingerprint_of(folder) else None
        for said in (begun, recorded):
            if said is not None and isinstance(said.get("engine"), dict):
                known = said["engine"]
                try:
                    component, _ = self._found(f"{known['provider']}:{known['name']}")
                except UsageError:  # told when there is something left to run
                    self.known = {k: known[k] for k in ("name", "provider", "version", "options")}
                else:
                    self.known = choice.provenance(component, known["options"])
                return

    def _found(self, engine: str) -> tuple[Component, dict[str, Any]]:
        """An engine; whether it can run is for its place to say."""
        if self.executor.local:
            return choice.find(engine, self.job.device)
        return choice.named(engine)

    def pick(self, recipe: Recipe, stack: ExitStack) -> Picked:
        """Takes the known one, or the quickest; makes it and keeps it where it runs here.

        Args:
            recipe: of workers elsewhere, which are asked.
            stack: closes it.

        Raises:
            UsageError: it cannot run.
        """
        batches = len(self.job.grid)
        timed = self._pays(batches)
        if not self.executor.local:
            return self.executor.ask(partial(recipe.pick, self.known, batches, timed))
        at_work = self.job.engine_job()
        if self.known is None:
            chosen = choice.quickest(at_work, batches, self.tell)
        else:
            chosen = choice.remade(self.known, at_work)
        if self.here:
            self.chosen = chosen
            stack.callback(chosen.engine.close)
            return chosen.picked
        try:
            return chosen.timed(at_work) if timed else chosen.picked
        finally:
            chosen.engine.close()  # each process makes its own

    def again(self, picked: Picked, batches: int) -> Picked:
        """With the time of a batch, if that is worth taking for those that are left."""
        if self.chosen is None or not self._pays(batches):
            return picked
        return self.chosen.timed(self.job.engine_job())

    def _pays(self, batches: int) -> bool:
        if self.job.config.rate is not None:
            return False
        return self.timed or batches >= _WORTH_TIMING
