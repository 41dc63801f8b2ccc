"""Checks of an executor: everything is done once, whatever becomes of its workers."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from fashionbatch.errors import FashionbatchError
from fashionbatch.execution import trial
from fashionbatch.execution.executor import Executor
from fashionbatch.execution.lease import Lease
from fashionbatch.execution.lending import DEATHS, Lending
from fashionbatch.execution.worker import StoppedHere
from fashionbatch.interrupt import Interrupt
from fashionbatch.specs import ExecutorSpec
from fashionbatch.testing.parts import create, want

_TASKS = 12
#: kills its worker, as a driver's crash does
_DEADLY = 7


class _Stage:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.squares: dict[int, int] = {}
        self.sent: dict[int, int | None] = {}
        self.done: Counter[int] = Counter()
        self.given_up: dict[int, str] = {}

    def hear(self, lease: Lease, event: str, values: dict[str, Any]) -> None:
        if event == "square":
            self.done[values["of"]] += 1
            lease.told[str(values["of"])] += 1
            self.squares[values["of"]] = values["is"]
            self.sent[values["of"]] = values["sent"]

    def unfinished(self, lease: Lease) -> Sequence[int]:
        for task in map(int, lease.told):
            self.done[task] -= lease.told[str(task)]
        return lease.tasks

    def give_up(self, task: int, reason: str) -> None:
        self.given_up[task] = reason


def check_executor(spec: ExecutorSpec, *, deaths: bool = True, **options: Any) -> None:
    """Has it do some small tasks: all once, in its workers, with those that die and that refuse.

    Args:
        spec: of the executor.
        deaths: kill its workers; not for one whose workers are this process.
        options: of its factory.

    Raises:
        AssertionError: what it does not do, in one line.
    """
    made = create("executor", spec, **options)
    want(
        isinstance(made, Executor),
        spec,
        f"the factory gives {type(made).__name__}, not a fashionbatch.Executor",
    )
    try:
        _check_questions(spec, made)
        _check_tasks(spec, made, None)
        if deaths:
            _check_tasks(spec, made, _DEADLY)
        _check_errors(spec, made)
        _check_stop(spec, made)
    finally:
        made.close()


def _lending(
    stage: _Stage,
    asked: Interrupt | None = None,
    *,
    deadly: int | None = None,
    wrong: int | None = None,
) -> Lending:
    return Lending(
        range(_TASKS),
        stage=stage,
        worker=partial(trial.squares, deadly=deadly, wrong=wrong),
        asked=asked or Interrupt(),
        places=("", ""),
        most=3,
        pack=trial.pack,
    )


def _check_questions(spec: ExecutorSpec, made: Executor) -> None:
    want(
        isinstance(made.ask(trial.question), int),
        spec,
        "ask() does not give what the function does",
    )
    try:
        made.ask(trial.mistake)
    except FashionbatchError as error:
        want(trial.REASON in str(error), spec, f"ask() hides why: {error}")
    else:
        want(False, spec, "ask() hides an error of the function")


def _check_tasks(spec: ExecutorSpec, made: Executor, deadly: int | None) -> None:
    stage = _Stage()
    lending = _lending(stage, deadly=deadly)
    made.run(lending)
    want(lending.over, spec, "run() returns before all leases are finished or lost")
    right = [task for task in range(_TASKS) if task != deadly]
    # not zero counts: what a lost lease told is done again
    found = sorted(task for task, count in stage.done.items() if count)
    want(found == right, spec, f"of {_TASKS} tasks it has {found} done")
    twice = [task for task, count in stage.done.items() if count > 1]
    want(not twice, spec, f"it has {twice} done twice")
    wrong = [task for task in right if stage.squares[task] != task * task]
    want(not wrong, spec, f"what the worker tells of {wrong} does not arrive")
    lacking = [task for task in right if stage.sent[task] != task]
    want(
        not lacking,
        spec,
        f"of the leases with {lacking} its workers get the tasks only, and not the parcel",
    )
    gone = list(stage.given_up)
    want(
        gone == ([] if deadly is None else [deadly]),
        spec,
        f"tasks that cost {DEATHS} workers are given up: {deadly}, and it loses {gone}",
    )


def _check_errors(spec: ExecutorSpec, made: Executor) -> None:
    try:
        made.run(_lending(_Stage(), wrong=3))
    except FashionbatchError as error:
        want(trial.REASON in str(error), spec, f"it hides why a worker refuses: {error}")
    else:
        want(False, spec, "it goes on where a worker refuses")


def _check_stop(spec: ExecutorSpec, made: Executor) -> None:
    asked = Interrupt()
    asked.signal = signal.SIGTERM
    try:
        made.run(_lending(_Stage(), asked))
    except StoppedHere:
        return
    want(False, spec, "it does not raise StoppedHere where somebody asked for an end")
