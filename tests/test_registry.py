"""Components by name: found, resolved, created; or refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fashionbatch import registry
from fashionbatch.errors import PluginError, UnknownNameError, UsageError
from fashionbatch.plugins import KINDS
from fashionbatch.registry import Component
from fashionbatch.specs import OptimizerSpec, ScheduleSpec, VisualizerSpec


def component(factory: object, requires: str = "") -> Component:
    spec = ScheduleSpec(name="x", factory=factory, summary="", requires=requires)  # type: ignore[arg-type]  # wrong ones too
    return Component(kind="schedule", spec=spec, provider="acme", version="1.0")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_built_ins_sorted_by_name(kind: str) -> None:
    """The built-in plugin provides at least one component of each kind."""
    names = [c.spec.name for c in registry.components(kind)]
    assert names == sorted(names)
    assert any(c.provider == "fashionbatch" for c in registry.components(kind))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"visualizer"}))
def test_every_built_in_factory_can_be_imported(kind: str) -> None:
    """No import string of ours points nowhere."""
    for c in registry.components(kind):
        assert callable(registry.resolve(c.spec.factory))
        for factory in getattr(c.spec, "weights", {}).values():
            assert callable(registry.resolve(factory))
        if kind == "source":
            assert callable(registry.resolve(c.spec.detect))  # type: ignore[attr-defined]  # a SourceSpec


def test_find_by_name_and_by_provider() -> None:
    """A plain name and provider:name find the same."""
    plain = registry.find("optimizer", "adam")
    assert plain == registry.find("optimizer", "fashionbatch:adam")
    assert isinstance(plain.spec, OptimizerSpec)
    assert plain.provenance["provider"] == "fashionbatch" and plain.provenance["name"] == "adam"


@pytest.mark.parametrize("name", ["resnet5O", "ResNet50", "resnet-50", "acme:resnet50"])
def test_unknown_name_is_refused(name: str) -> None:
    """Near misses are suggested, never taken."""
    with pytest.raises(UnknownNameError) as caught:
        registry.find("backbone", name)
    if ":" not in name:
        assert "resnet50" in str(caught.value)


def test_resolve_says_what_to_install() -> None:
    """A missing package is named with the spec's advice."""
    with pytest.raises(PluginError, match="pip install acme"):
        registry.resolve("acme_missing_package:Thing", requires="pip install acme")
    with pytest.raises(PluginError, match="nothing_such"):
        registry.resolve("fashionbatch.specs:nothing_such")
    assert registry.resolve("pathlib:Path.cwd")() == Path.cwd()
    assert registry.resolve(len) is len


def test_create_checks_options_before_calling() -> None:
    """An option that the factory does not take is named; the factory does not run."""
    called = []

    def make(epochs: int, *, drop: float = 1.0) -> float:
        called.append(epochs)
        if drop > 1:
            raise ValueError("drop is at most 1")
        return drop

    assert registry.create(component(make), 3, drop=0.5) == 0.5
    called.clear()
    with pytest.raises(UnknownNameError, match="did you mean 'drop'"):
        registry.create(component(make), 3, drap=0.5)
    with pytest.raises(UnknownNameError):  # already given by position
        registry.create(component(make), 3, epochs=0.5)
    assert not called
    with pytest.raises(UsageError, match="drop=2.*at most 1"):
        registry.create(component(make), 3, drop=2)


def test_create_keeps_a_bug_a_bug() -> None:
    """Without options a TypeError in the factory is not blamed on the user."""

    def broken(epochs: int) -> None:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        registry.create(component(broken), 1)


def test_schedules_take_their_options() -> None:
    """Built-in schedules through the registry: the paper's step decay halves every ten epochs."""
    step = registry.create(registry.find("schedule", "step"), 50)
    assert [step(e) for e in (0, 9, 10, 19.5, 20)] == [1, 1, 0.5, 0.5, 0.25]
    with pytest.raises(UsageError):
        registry.create(registry.find("schedule", "step"), 50, drop=0)


def lessened(epochs: int, *, drop: float = 0.5, every: int | None = None, on: bool = True) -> None:
    """A factory that says what it takes."""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"drop": "abc"}, "with drop=abc: it must be a number"),
        ({"every": "ten"}, "with every=ten: it must be a whole number"),
        ({"on": "yes"}, "with on=yes: it must be true or false"),
    ],
)
def test_text_where_a_number_is_wanted(options: dict[str, str], told: str) -> None:
    """One line says what it must be, not what Python could not do with it."""
    with pytest.raises(UsageError, match=told):
        registry.create(component(lessened), 3, **options)
    registry.create(component(lessened), 3, drop=1, every=2)


class _Base:
    def __init__(self, intensity: float = 0.4, target: str | None = None) -> None:
        self.intensity, self.target = intensity, target


class _Derived(_Base):
    def __init__(self, square: int = 12, **options: Any) -> None:
        super().__init__(**options)
        self.square = square


def test_options_that_are_handed_on() -> None:
    """A class that hands them on takes those of its base, and no others."""
    spec = VisualizerSpec(name="cover", factory=_Derived, summary="")
    component = Component(kind="visualizer", spec=spec, provider="p", version="1")
    made = registry.create(component, square=3, intensity=0.7)
    assert (made.square, made.intensity) == (3, 0.7)
    with pytest.raises(UnknownNameError, match="did you mean 'square'"):
        registry.create(component, sqare=3)
    with pytest.raises(UsageError, match="intensity=x: it must be a number"):
        registry.create(component, intensity="x")
