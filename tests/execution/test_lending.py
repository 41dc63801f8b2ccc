"""Leases: everything is lent once, and again where a worker is lost."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.errors import ExecutionError, FashionbatchError
from fashionbatch.execution.lending import DEATHS, Lending
from fashionbatch.interrupt import Interrupt


class Stage:
    def __init__(self):
        self.heard, self.given_up, self.finished = [], [], set()

    def hear(self, lease, event, values):
        self.heard.append((tuple(lease.tasks), event))

    def unfinished(self, lease):
        return [task for task in lease.tasks if task not in self.finished]

    def give_up(self, task, reason):
        self.given_up.append((task, reason))


def lending(count, stage, **options):
    return Lending(range(count), stage=stage, worker=None, asked=Interrupt(), **options)


@given(
    count=st.integers(0, 200),
    workers=st.integers(1, 9),
    most=st.integers(1, 16),
    fates=st.lists(st.booleans(), max_size=60),
)
def test_every_task_is_finished_or_given_up_once(count, workers, most, fates):
    """Whatever becomes of the workers, and in whatever order."""
    stage = Stage()
    lent = lending(count, stage, most=most)
    done, fates, out = [], list(fates), []
    while not lent.over:
        while len(out) < workers and (lease := lent.take(workers)) is not None:
            assert 1 <= len(lease.tasks) <= most
            out.append(lease)
        lease = out.pop(len(out) // 2)
        if fates and fates.pop():
            lent.lose(lease, "exit code -9")
        else:
            done += lease.tasks
            lent.finish(lease)
    assert sorted([*done, *(task for task, _ in stage.given_up)]) == list(range(count))


def test_one_that_kills_its_workers_is_given_up_alone():
    """The others of its lease are done: behind the first death they are lent one by one."""
    stage = Stage()
    lent = lending(6, stage, most=6)
    deaths, leases = 0, []
    while (lease := lent.take(0)) is not None:
        leases.append(list(lease.tasks))
        if 4 in lease.tasks:
            deaths += 1
            lent.lose(lease, "exit code -11")
        else:
            lent.finish(lease)
    assert deaths == DEATHS
    assert stage.given_up == [(4, f"its worker died {DEATHS} times (exit code -11)")]
    assert lent.over


def test_what_was_finished_of_a_lost_lease_is_not_lent_again():
    """A stage knows by what lies on the disk."""
    stage = Stage()
    lent = lending(1, stage)
    lease = lent.take(1)
    stage.finished.add(0)
    assert not lent.over
    lent.lose(lease, "gone")
    assert lent.over


def test_what_goes_with_a_lease_is_made_when_it_is_sent():
    """And passed on as it is by who has it: whoever lends to many workers keeps nothing of it."""
    made = []

    def pack(tasks):
        made.append(list(tasks))
        return {task: str(task) for task in tasks}

    lease = lending(3, Stage(), most=3, pack=pack).take(1)
    assert not made
    there = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(lease))))
    assert (there.tasks, there.parcel) == ([0], {0: "0"}) and made == [[0]]
    assert lending(1, Stage()).take(1).parcel is None


def test_workers_that_never_become_ready_end_the_work():
    """As many as a task may cost; one that does become ready begins a new count."""
    lent = lending(3, Stage())
    lent.unready("cuda:0", "exit code 1")
    lent.ready("cuda:0")
    for _ in range(DEATHS - 1):
        lent.unready("cuda:0", "exit code 1")
    with pytest.raises(ExecutionError, match=r"cuda:0 died 3 times before it was ready .exit code"):
        lent.unready("cuda:0", "exit code 1")


def test_errors_of_workers():
    """A line for users, or a traceback."""
    lent = lending(3, Stage())
    with pytest.raises(FashionbatchError, match="^no such device$"):
        lent.hear(None, "error", {"text": "no such device"})
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        lent.hear(None, "bug", {"text": "ZeroDivisionError"})
