"""What is promised to plugins that are already written: hooks and specs stay as they were."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch import hookspecs, plugins, registry, specs
from fashionbatch.cli import app

#: what 0.1 published: fields, those without a default marked with *. Add versions, change nothing.
PUBLISHED = {
    "0.1": {
        "hooks": "backbones optimizers regularizers schedules loggers visualizers sources engines "
        "executors",
        "Preprocessing": "size resize crop_mode interpolation mean std",
        "HeadSpec": "hidden dropout",
        "Spec": "name* factory* summary* requires",
        "BackboneSpec": "preprocessing* blocks* cam_layer* cam_layout head weights "
        "inputs parameters shown_layers",
        "OptimizerSpec": "options",
        "RegularizerSpec": "needs_landmarks",
        "ScheduleSpec": "",
        "LoggerSpec": "",
        "VisualizerSpec": "needs_images needs_predictions needs_model",
        "EngineSpec": "devices missing preparation automatic",
        "ExecutorSpec": "",
        "SourceSpec": "detect* generic addresses",
    },
}
HOOKS = [name for name in vars(hookspecs) if name.startswith("fashionbatch_")]
SPECS = [
    value for value in vars(specs).values()
    if inspect.isclass(value) and value.__module__ == specs.__name__
]  # fmt: skip
ADDED = re.compile(r"\.\. versionadded:: (\d+\.\d+)$", re.M)
NOW = tuple(map(int, fashionbatch.__version__.split(".")[:2]))


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def own_fields(spec: type) -> dict[str, bool]:
    """Its own fields, and whether each must be given."""
    return {
        field.name: field.default is field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(spec)
        if field.name in inspect.get_annotations(spec)
    }


def added_to(spec: type) -> dict[str, str]:
    """From each field that its docstring has, to the version that this says."""
    _, _, attributes = (inspect.getdoc(spec) or "").partition("Attributes:\n")
    entries = re.split(r"^    (?=\w+: )", attributes, flags=re.M)[1:]
    found = {}
    for entry in entries:
        version = ADDED.search(entry)
        assert version, f"{spec.__name__}: {entry}"
        found[entry.partition(":")[0]] = version[1]
    return found


def test_each_hook_and_field_says_since_when() -> None:
    """By ``versionadded``, a version that there has been, or this one."""
    said = {}
    for hook in HOOKS:
        found = ADDED.findall(inspect.getdoc(getattr(hookspecs, hook)) or "")
        assert len(found) == 1, hook
        said[hook] = found[0]
    for spec in SPECS:
        found = added_to(spec)
        assert list(found) == list(own_fields(spec)), spec
        said |= {f"{spec.__name__}.{name}": version for name, version in found.items()}
    assert all(numbers(version) <= NOW for version in said.values())
    for version, names in PUBLISHED.items():
        for owner, listed in names.items():
            for name in listed.replace("*", "").split():
                key = f"fashionbatch_{name}" if owner == "hooks" else f"{owner}.{name}"
                assert said.pop(key) == version, key
    # what is left is new: with a version of its own, that has to be added to PUBLISHED
    assert said == {}


def test_what_was_published_stays() -> None:
    """No field of a version has become required, and none that was added later is."""
    required = {
        f"{s.__name__}.{name}" for s in SPECS for name, must in own_fields(s).items() if must
    }
    assert required == {
        f"{owner}.{name[:-1]}"
        for owner, listed in PUBLISHED["0.1"].items()
        for name in listed.split()
        if name.endswith("*")
    }


Install = Callable[[str], plugins.Plugin]
OPTIMIZER = """
import fashionbatch

@fashionbatch.hookimpl
def fashionbatch_optimizers():
    yield fashionbatch.OptimizerSpec(name="old", factory="torch.optim:SGD", summary="as it was"{})
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_plugins: None) -> Install:
    """``install(code)``: a distribution ``acme 1.2`` with that plugin, and what became of it."""

    def make(code: str) -> plugins.Plugin:
        module = f"acme_{abs(hash(str(tmp_path)))}"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / "acme-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[fashionbatch]\nacme = {module}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        plugins.discover.cache_clear()
        return next(p for p in plugins.discover() if p.name == "acme")

    return make


def test_an_old_spec_on_a_new_host(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that its author did not know has its default."""
    newer = dataclasses.make_dataclass(
        "OptimizerSpec", [("fused", bool, False)], bases=(specs.OptimizerSpec,),
        frozen=True, kw_only=True,
    )  # fmt: skip
    monkeypatch.setattr(specs, "OptimizerSpec", newer)
    monkeypatch.setitem(plugins.KINDS, "optimizer", ("fashionbatch_optimizers", newer))
    assert install(OPTIMIZER.format("")).status == "ok"
    spec: Any = registry.find("optimizer", "old").spec
    assert (spec.fused, spec.options) == (False, ("weight_decay",))


@pytest.mark.parametrize(
    "code",
    [
        OPTIMIZER.format(", fused=True"),
        OPTIMIZER.format("") + "\n@fashionbatch.hookimpl\ndef fashionbatch_samplers(): yield\n",
        OPTIMIZER.replace("OptimizerSpec", "SamplerSpec").format(""),
        OPTIMIZER.format(", options=fashionbatch.Preprocessing(gamma=2.2)"),
    ],
    ids=["field", "hook", "spec", "value"],
)
def test_a_new_plugin_on_an_old_host(install: Install, code: str) -> None:
    """It is broken alone, and its cause says that fashionbatch may be too old."""
    found = install(code)
    assert found.status == "broken"
    assert f"of a newer fashionbatch than {fashionbatch.__version__}" in found.error
    assert registry.find("optimizer", "adam").provider == "fashionbatch"


def test_a_hook_that_is_going_to_be_removed(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It works on, and a warning names package, version and what to do, once; lists show it."""
    marked = hookspecs.hookspec(warn_on_impl=DeprecationWarning("removed in 0.3: do that"))
    # the marker goes onto a copy, as it stays with the function
    copied = type(HOOK := hookspecs.fashionbatch_optimizers)(HOOK.__code__, HOOK.__globals__)
    copied.__name__ = HOOK.__name__
    monkeypatch.setattr(hookspecs, "fashionbatch_optimizers", marked(copied))
    monkeypatch.setenv("FASHIONBATCH_PLUGINS", "acme")
    with pytest.warns(DeprecationWarning, match="acme") as told:
        found = install(OPTIMIZER.format(""))
    mine = [str(w.message) for w in told if "acme" in str(w.message)]
    assert mine == ["plugin 'acme' (acme 1.2): removed in 0.3: do that"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugins.discover()
    assert (found.status, found.deprecated) == ("ok", ("removed in 0.3: do that",))
    assert registry.find("optimizer", "old").provider == "acme"
    with pytest.raises(SystemExit):
        app.main(["plugins", "list", "--json"])
    listed = {p["name"]: p["deprecated"] for p in json.loads(capsys.readouterr().out)}
    assert listed["acme"] == ["removed in 0.3: do that"]
