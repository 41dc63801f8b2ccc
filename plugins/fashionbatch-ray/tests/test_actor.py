"""What an actor does, without a cluster."""

from __future__ import annotations

import os
import signal
from itertools import chain
from typing import Any

import fashionbatch
import pytest
from fashionbatch.errors import ExecutionError
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle

from fashionbatch_ray.actor import Actor, answered, summed
from fashionbatch_ray.loading import loaded

COUNTS = st.dictionaries(st.sampled_from(["items", "reused"]), st.integers(-9, 9), min_size=1)
OTHERS = st.tuples(st.sampled_from(["failed", "warn"]), st.fixed_dictionaries({}))


class Echo(fashionbatch.Worker):
    """Tells what it is given; 13 kills it."""

    def do(self, lease: fashionbatch.Lease, tell: Any, asked: Any) -> None:
        for task in lease.tasks:
            if task == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            tell("progress", {"items": task})


def make(place: str) -> Echo:
    return Echo()


def test_does_leases_and_says_how_its_worker_ended() -> None:
    actor = Actor()
    prepared = actor.prepare(fashionbatch.__version__, cloudpickle.dumps(make), "cpu")
    assert [event for event, _ in chain(*prepared)] == ["process"]
    did, died = (list(chain(*actor.do(fashionbatch.Lease(t)))) for t in ([1, 2, 5], [3, 13]))
    assert did == [("progress", {"items": 8})]
    assert died[-1] == ("dead", {"why": "exit code -9"})


def test_another_version_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ExecutionError, match=r"planned with 9\.9: install the same version"):
        loaded("9.9", b"no pickle")
    said, text = answered("9.9", b"no pickle")
    assert said == "error"
    assert "9.9" in text
    told = dict(chain(*Actor().prepare("9.9", b"no pickle", "")))
    assert "9.9" in told["error"]["text"]


def test_missing_package_is_named() -> None:
    # as pickle writes the function of a package that is not installed here
    pickled = b"cnot_installed_here.module\nfunction\n."
    with pytest.raises(ExecutionError, match="the package not_installed_here is missing"):
        loaded(fashionbatch.__version__, pickled)


@given(st.lists(st.tuples(st.just("progress"), COUNTS) | OTHERS))
def test_counts_are_added_up_and_nothing_else(events: list[Any]) -> None:
    found = summed(events)
    for name in ("items", "reused"):
        totals = [
            sum(v.get(name, 0) for e, v in each if e == "progress") for each in (events, found)
        ]
        assert totals[0] == totals[1]
    assert [e for e in found if e[0] != "progress"] == [e for e in events if e[0] != "progress"]
    assert sum(event == "progress" for event, _ in found) <= 1
