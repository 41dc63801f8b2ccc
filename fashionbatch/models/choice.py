"""Which engine runs the network: the one asked for, or the quickest for this very job."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch

from fashionbatch import registry
from fashionbatch.errors import UsageError
from fashionbatch.models.engine import Engine, EngineJob
from fashionbatch.parse import parse_choice
from fashionbatch.registry import Component
from fashionbatch.specs import EngineSpec

AUTO = "auto"
#: what is always there, and what the others are measured against
PLAIN = "eager"
#: the share of the remaining time that a faster engine may save, for its preparation to be tried
_SAVES = 0.5
#: a new engine must be quicker by that much: below, the figures are noise
_QUICKER = 0.97
_TIMED = 3  # batches, and one to warm up


@dataclass(frozen=True, kw_only=True)
class Picked:
    """Which engine was taken, and why; can travel between processes.

    Attributes:
        provenance: its name, and the package and version that it comes from.
        fingerprint: all of the engine that numbers depend on, as JSON values.
        seconds: of a batch, by engine, as far as they were timed.
        left_out: why the others were not taken, by name.
    """

    provenance: Mapping[str, str]
    fingerprint: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the engine."""
        return self.provenance["name"]

    def figures(self, batch_size: int) -> dict[str, Any]:
        """``{"engine", "rates", "left_out"}`` for people; rates in images per second."""
        return {
            "engine": self.name,
            "rates": {name: round(batch_size / each, 2) for name, each in self.seconds.items()},
            "left_out": dict(self.left_out),
        }


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An engine that is ready.

    Attributes:
        engine: answers batches.
        picked: what it is, and why it was taken.
    """

    engine: Engine
    picked: Picked

    @classmethod
    def of(
        cls, engine: Engine, component: Component, options: Mapping[str, Any], **why: Any
    ) -> Self:
        """With what there is to say of it.

        Args:
            engine: answers batches.
            component: that it comes from.
            options: that it was given.
            why: ``seconds`` and ``left_out`` of :class:`Picked`.
        """
        said = {**provenance(component, options), **engine.details}
        return cls(
            engine=engine,
            picked=Picked(provenance=component.provenance, fingerprint=said, **why),
        )

    def timed(self, job: EngineJob) -> Picked:
        """With the time of a batch, which is taken where it is not known."""
        name, seconds = self.picked.name, dict(self.picked.seconds)
        if name not in seconds:
            seconds[name] = timed(self.engine, job)
        return replace(self.picked, seconds=seconds)


def provenance(component: Component, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's fingerprint says of its engine before that is made."""
    return {**component.provenance, "options": dict(options)}


def named(wanted: str) -> tuple[Component, dict[str, Any]]:
    """The engine that is asked for, and its options.

    Raises:
        UsageError: there is none of that name.
    """
    name, options = parse_choice(wanted)
    return registry.find("engine", name), options


def find(wanted: str, device: torch.device) -> tuple[Component, dict[str, Any]]:
    """The engine that is asked for, and its options.

    Raises:
        UsageError: there is none of that name, or it cannot run here.
    """
    component, options = named(wanted)
    reason = missing(component, device)
    if reason is not None:
        raise UsageError(f"--engine {component.spec.name} cannot run here: {reason}")
    return component, options


def missing(component: Component, device: torch.device) -> str | None:
    """Why an engine cannot run on this machine, or ``None``."""
    spec = component.spec
    assert isinstance(spec, EngineSpec)
    if device.type not in spec.devices:
        return f"it runs on {' and '.join(spec.devices)}, not on {device.type}"
    if spec.missing is None:
        return None
    reason: str | None = registry.resolve(spec.missing, requires=spec.requires)(device.type)
    return reason


def make(component: Component, options: Mapping[str, Any], job: EngineJob) -> Engine:
    """The engine, ready for its first batch.

    Raises:
        UsageError: it cannot run this network.
    """
    try:
        engine: Engine = registry.create(component, job, **options)
    except ValueError as error:
        raise UsageError(f"--engine {component.spec.name}: {error}") from error
    return engine


def remade(said: Mapping[str, Any], job: EngineJob) -> Chosen:
    """The engine that an earlier run has written down.

    Args:
        said: as of :attr:`Chosen.fingerprint` or :func:`provenance`.
        job: what is to be run.

    Raises:
        UsageError: it is not installed any more, or cannot run here.
    """
    component, _ = find(f"{said['provider']}:{said['name']}", job.device)
    options = said["options"]
    return Chosen.of(make(component, options, job), component, options)


def quickest(job: EngineJob, batches: int, tell: Callable[[str, dict[str, Any]], None]) -> Chosen:
    """Times the installed engines on batches of this job, as far as that can pay.

    Args:
        job: what is to be run.
        batches: that are left to do.
        tell: gets ``("trying", {"engine", "preparation"})`` before each takes its time.

    Returns:
        the engine with the shortest time for all that is left, its preparation included.
    """
    component = registry.find("engine", PLAIN)
    if batches > _TIMED:
        tell("trying", {"engine": PLAIN, "preparation": 0.0})
    taken = make(component, {}, job)
    seconds = {PLAIN: timed(taken, job)} if batches > _TIMED else {}
    left_out: dict[str, str] = {}
    # the quickest to prepare first: what it saves is not there to be saved by the next
    for other in sorted(registry.components("engine"), key=_preparation):
        name = other.spec.name
        if name == PLAIN or not _spec(other).automatic:
            continue
        reason = missing(other, job.device)
        left = batches * min(seconds.values(), default=0.0)
        if reason is None and left * _SAVES < _preparation(other):
            reason = f"it takes {_preparation(other):.0f} s to get ready, for {left:.0f} s of work"
        if reason is None:
            tell("trying", {"engine": name, "preparation": _preparation(other)})
            try:
                engine = make(other, {}, job)
                seconds[name] = timed(engine, job)
            except Exception as error:  # whatever it is, the job can be done without this engine
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if reason is not None:
            left_out[name] = reason
            continue
        if seconds[name] < seconds[component.spec.name] * _QUICKER:
            taken.close()
            taken, component = engine, other
        else:
            engine.close()
            left_out[name] = "it is not quicker"
    return Chosen.of(taken, component, {}, seconds=seconds, left_out=left_out)


def timed(engine: Engine, job: EngineJob) -> float:
    """Seconds of a batch, as a rule."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, job.shape, dtype=torch.uint8, generator=generator)
    images = images.to(memory_format=torch.channels_last)
    seconds = []
    for number in range(_TIMED + 1):
        began = time.perf_counter()
        for answer in engine.run(images):
            answer.cpu()
        if number:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _preparation(component: Component) -> float:
    return _spec(component).preparation


def _spec(component: Component) -> EngineSpec:
    assert isinstance(component.spec, EngineSpec)
    return component.spec
