"""Finds installed plugins and keeps each one's faults to itself.

Every entry point of the group ``fashionbatch`` is loaded into a plugin manager of its own, so an
import error, a ``SystemExit``, a misspelled hook or a generator that raises half-way breaks that
plugin alone. What went wrong is kept in its :class:`Plugin` record.

Environment:
    ``FASHIONBATCH_PLUGINS``: comma-separated names of the third-party plugins to load; empty loads
    none. Unset loads all. The built-in plugin is always loaded.
    ``FASHIONBATCH_STRICT=1``: a broken plugin is an error at once.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

import pluggy

from fashionbatch import hookspecs
from fashionbatch.errors import PluginError
from fashionbatch.specs import (
    BackboneSpec,
    EngineSpec,
    LoggerSpec,
    OptimizerSpec,
    RegularizerSpec,
    ScheduleSpec,
    SourceSpec,
    Spec,
    VisualizerSpec,
)

GROUP = hookspecs.PROJECT
#: what the built-in plugin's entry point names; others may call theirs what they like
BUILTIN = "fashionbatch.builtin.plugin"

#: kind of component -> (hook, type of its specs), in the order in which they are listed
KINDS: dict[str, tuple[str, type[Spec]]] = {
    "backbone": ("fashionbatch_backbones", BackboneSpec),
    "optimizer": ("fashionbatch_optimizers", OptimizerSpec),
    "regularizer": ("fashionbatch_regularizers", RegularizerSpec),
    "schedule": ("fashionbatch_schedules", ScheduleSpec),
    "logger": ("fashionbatch_loggers", LoggerSpec),
    "visualizer": ("fashionbatch_visualizers", VisualizerSpec),
    "source": ("fashionbatch_sources", SourceSpec),
    "engine": ("fashionbatch_engines", EngineSpec),
}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One entry point and what became of it.

    Attributes:
        name: of the entry point.
        distribution: the installed package it comes from, and its ``version``.
        target: what the entry point names, ``"package.module"``.
        status: ``"ok"``, ``"broken"`` or ``"disabled"``.
        error: why it is broken, one line.
        traceback: the same in full.
        components: ``(kind, spec)`` pairs; empty unless it is ok.
    """

    name: str
    distribution: str
    version: str
    target: str
    status: str = "ok"
    error: str = ""
    traceback: str = ""
    components: tuple[tuple[str, Spec], ...] = ()

    @property
    def label(self) -> str:
        """Such as ``fashionbatch-timm 1.2``."""
        return f"{self.distribution} {self.version}"


@functools.cache
def discover() -> tuple[Plugin, ...]:
    """All installed plugins, the built-in one first, then by name; loaded once per process.

    Raises:
        PluginError: with ``FASHIONBATCH_STRICT=1``, when one is broken.
    """
    allowed = os.environ.get("FASHIONBATCH_PLUGINS")
    names = None if allowed is None else {name.strip() for name in allowed.split(",")}
    entries = {(e.name, e.value): e for e in metadata.entry_points(group=GROUP)}.values()
    found = [
        _load(entry, enabled=names is None or entry.name in names or entry.value == BUILTIN)
        for entry in sorted(entries, key=lambda e: (e.value != BUILTIN, e.name, e.value))
    ]
    if os.environ.get("FASHIONBATCH_STRICT") == "1":
        for plugin in found:
            if plugin.status == "broken":
                raise PluginError(
                    f"plugin {plugin.name!r} ({plugin.label}) is broken: {plugin.error} "
                    "(FASHIONBATCH_STRICT=1 makes this an error)"
                )
    return tuple(found)


def _load(entry: metadata.EntryPoint, *, enabled: bool) -> Plugin:
    about: dict[str, Any] = {
        "name": entry.name,
        # damaged metadata has neither
        "distribution": (entry.dist and entry.dist.name) or "unknown",
        "version": (entry.dist and entry.dist.version) or "unknown",
        "target": entry.value,
    }
    if not enabled:
        return Plugin(**about, status="disabled")
    try:
        return Plugin(**about, components=tuple(_components(entry.load())))
    except (Exception, SystemExit) as error:  # whatever a stranger's module does on import
        kind = type(error).__name__
        reason = " ".join(str(error).split()) or "no message"
        return Plugin(
            **about, status="broken", error=f"{kind}: {reason}", traceback=traceback.format_exc()
        )


def _components(plugin: object) -> Iterable[tuple[str, Spec]]:
    """Calls the hooks that ``plugin`` implements; raises whatever is wrong with it."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    _refuse_unmarked(plugin)
    seen: set[tuple[str, str]] = set()
    for kind, (hook, spec_type) in KINDS.items():
        for specs in getattr(manager.hook, hook)():
            for spec in specs:
                if not isinstance(spec, spec_type):
                    raise TypeError(
                        f"{hook}() yields {spec_type.__name__}, not {type(spec).__name__}"
                    )
                if (kind, spec.name) in seen:
                    raise ValueError(f"{hook}() yields {spec.name!r} twice")
                seen.add((kind, spec.name))
                yield kind, spec


def _refuse_unmarked(plugin: object) -> None:
    """A hook without its marker would be ignored without a word."""
    if not isinstance(plugin, ModuleType):
        return
    marker = hookspecs.hookimpl.project_name + "_impl"
    for name, value in vars(plugin).items():
        if name.startswith("fashionbatch_") and callable(value) and not hasattr(value, marker):
            raise TypeError(f"{name}() is not marked with @fashionbatch.hookimpl")
