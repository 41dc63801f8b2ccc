"""Which engine runs: the one asked for, or the quickest of those that can, where timing pays."""

from __future__ import annotations

import json

import pytest

from fashionbatch.builtin.engines import Eager
from fashionbatch.errors import OutputExistsError, UsageError
from fashionbatch.models import choice
from fashionbatch.registry import Component
from fashionbatch.specs import EngineSpec
from fashionbatch.store.reader import open_predictions


class Quick(Eager):
    """Called quick."""

    @property
    def details(self):
        return dict(VERSION)


class Refusing(Eager):
    """Cannot run anything."""

    def __init__(self, job):
        raise ValueError("no such operator")


VERSION = {"quick": "1"}


@pytest.fixture
def engines(monkeypatch):
    """``engines(seconds)``: beside eager those engines, which take so long for a batch."""

    real, listed = choice.registry.find, choice.registry.components

    def use(seconds, **specs):
        options = {
            "quick": {"preparation": 1.0}, "slow": {"preparation": 2.0},
            "broken": {"factory": Refusing}, "absent": {"missing": lambda device: "not installed"},
            "elsewhere": {"devices": ("cuda",)},
        }  # fmt: skip
        known = [
            Component(kind="engine", provider="test", version="1", spec=EngineSpec(
                name=name, summary="", **{"factory": Quick, **options.get(name, {}), **specs}
            ))
            for name in seconds
        ]  # fmt: skip

        def find(kind, name):
            if kind != "engine":
                return real(kind, name)
            return next(c for c in known if c.spec.name == name.rpartition(":")[2])

        def components(kind):
            return known if kind == "engine" else listed(kind)

        monkeypatch.setattr(choice.registry, "components", components)
        monkeypatch.setattr(choice.registry, "find", find)
        made = {}
        create = choice.make

        def make(component, given, job):
            engine = create(component, given, job)
            made[id(engine)] = component.spec.name
            return engine

        monkeypatch.setattr(choice, "make", make)
        monkeypatch.setattr(choice, "timed", lambda engine, job: seconds[made[id(engine)]])

    return use


def test_long_job_takes_the_quickest(catalogue, predict, engines):
    """All that can run are timed; why the others were not taken is said."""
    engines({"eager": 9.0, "quick": 4.0, "slow": 5.0, "broken": 1.0, "absent": 1, "elsewhere": 1})
    events = []
    with open_predictions(predict(catalogue(40), tell=lambda e, v: events.append((e, v)))) as found:
        assert found.fingerprint["engine"] == {
            "name": "quick", "provider": "test", "version": "1", "options": {}, "quick": "1",
        }  # fmt: skip
    plan = dict(events)["plan"]
    assert plan["engine"] == "quick" and plan["seconds"] == 5 * 4.0
    assert plan["rates"] == {"eager": 0.89, "quick": 2.0, "slow": 1.6}
    assert {n: w.split(":")[-1].strip() for n, w in plan["left_out"].items()} == {
        "slow": "it is not quicker", "broken": "no such operator", "absent": "not installed",
        "elsewhere": "it runs on cuda, not on cpu",
    }  # fmt: skip


def test_short_job_does_not_wait(catalogue, predict, engines):
    """What takes longer to get ready than it could save is not tried."""
    engines({"eager": 0.1, "quick": 0.01})
    events = []
    predict(catalogue(40), tell=lambda e, v: events.append((e, v)))
    plan = dict(events)["plan"]
    assert plan["engine"] == "eager"
    assert plan["left_out"] == {"quick": "it takes 1 s to get ready, for 0 s of work"}


def test_a_few_batches_are_not_timed(catalogue, predict, engines):
    """Timing would take as long as the work."""
    engines({"eager": 99.0, "quick": 1.0})
    events = []
    predict(catalogue(8), tell=lambda e, v: events.append((e, v)))
    plan = dict(events)["plan"]
    assert (plan["engine"], plan["seconds"], plan["rates"]) == ("eager", None, {})


class Planned(Exception):
    """All that was wanted is known."""


@pytest.mark.parametrize(("count", "seconds"), [(199, None), (200, 200 * 4.0)])
def test_long_job_of_a_named_engine_has_an_end(catalogue, predict, engines, count, seconds):
    """From 200 batches on the plan says how long it takes: nothing else has timed the engine."""
    engines({"quick": 4.0})

    def tell(event, values):
        if event == "plan":
            plans.append(values)
            raise Planned

    plans = []
    with pytest.raises(Planned):
        predict(catalogue(count), engine="quick", batch_size=1, tell=tell)
    assert (plans[0]["batches"], plans[0]["seconds"]) == (count, seconds)


def test_the_engine_asked_for(catalogue, predict, engines):
    """It is taken, or the reason why not is said."""
    engines({"eager": 1.0, "quick": 1.0, "absent": 1.0, "broken": 1.0})
    with open_predictions(predict(catalogue(3), engine="quick")) as found:
        assert found.fingerprint["engine"]["name"] == "quick"
    folder = catalogue(3, name="b")
    with pytest.raises(UsageError, match="absent cannot run here: not installed"):
        predict(folder, "b.h5", engine="absent")
    with pytest.raises(UsageError, match="broken: no such operator"):
        predict(folder, "b.h5", engine="broken")


def test_auto_goes_on_as_begun(catalogue, predict, engines, monkeypatch, tmp_path):
    """A resumed run does not mix two engines, nor two versions of one."""
    from fashionbatch.store import merge

    engines({"eager": 9.0, "quick": 4.0})
    folder = catalogue(40)

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merge, "merge", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(folder)
    about = json.loads((tmp_path / "out.h5.parts" / "about.json").read_text())
    assert about["engine"]["name"] == "quick"
    engines({"eager": 1.0, "quick": 4.0})
    with monkeypatch.context() as patch:
        patch.setitem(VERSION, "quick", "2")
        with pytest.raises(OutputExistsError, match="other engine"):
            predict(folder)
    with pytest.raises(OutputExistsError, match="other engine"):
        predict(folder, engine="eager")
    with open_predictions(predict(folder)) as found:
        assert found.fingerprint["engine"]["name"] == "quick"
    with pytest.raises(OutputExistsError, match="other engine"):
        predict(folder, engine="eager")


def test_engine_that_is_gone(catalogue, predict, engines):
    """What it has finished is complete; what it has not is an error that names it."""
    engines({"eager": 9.0, "quick": 4.0})
    folder = catalogue(40)
    predict(folder)
    engines({"eager": 9.0, "quick": 4.0}, missing=lambda device: "gone")
    events = []
    predict(folder, tell=lambda e, v: events.append(e))
    assert "complete" in events
    (folder / "x.png").write_bytes((folder / "001.png").read_bytes())
    with pytest.raises(UsageError, match="quick cannot run here: gone"):
        predict(folder, incremental=True)


def test_dry_run_only_plans(catalogue, predict, run, tmp_path):
    """Items, shards, batches, bytes, time: nothing is written."""
    from fashionbatch import api

    folder = catalogue(20)
    before = sorted(tmp_path.iterdir())
    plan = api.predict(
        folder, model=run, output=tmp_path / "o.h5", batch_size=8, device="cpu", dry_run=True
    )
    assert sorted(tmp_path.iterdir()) == before
    assert (plan["items"], plan["kept"], plan["batches"], plan["batch_size"]) == (20, 0, 3, 8)
    assert plan["engine"] == "eager" and plan["seconds"] >= 0
    made = predict(folder, "o.h5")
    assert 0.3 < plan["bytes"] / made.stat().st_size < 3
