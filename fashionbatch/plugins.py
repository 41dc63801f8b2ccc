"""Finds installed plugins and keeps each one's faults to itself.

Every entry point of the group ``fashionbatch`` is loaded into a plugin manager of its own, so an
import error, a ``SystemExit``, a misspelled hook or a generator that raises half-way breaks that
plugin alone. What went wrong is kept in its :class:`Plugin` record.

One that is switched off (see :mod:`fashionbatch.switches`) is not even imported; the built-in
plugin is always loaded. Commands of other packages (group ``fashionbatch.commands``) are known by
name, and imported when they are called.

Environment:
    ``FASHIONBATCH_STRICT=1``: a broken plugin is an error at once.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

import pluggy

from fashionbatch import __version__, hookspecs, switches
from fashionbatch.errors import PluginError, UnknownNameError, UsageError
from fashionbatch.specs import (
    BackboneSpec,
    EngineSpec,
    ExecutorSpec,
    LoggerSpec,
    OptimizerSpec,
    RegularizerSpec,
    ScheduleSpec,
    SourceSpec,
    Spec,
    VisualizerSpec,
)

GROUP = hookspecs.PROJECT
COMMANDS = f"{GROUP}.commands"
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
    "executor": ("fashionbatch_executors", ExecutorSpec),
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
        disabled: why it was not loaded, one line.
        traceback: the same in full.
        deprecated: what it uses that is going to be removed, and what to do; a line each.
        components: ``(kind, spec)`` pairs; empty unless it is ok.
    """

    name: str
    distribution: str
    version: str
    target: str
    status: str = "ok"
    error: str = ""
    disabled: str = ""
    traceback: str = ""
    deprecated: tuple[str, ...] = ()
    components: tuple[tuple[str, Spec], ...] = ()

    @property
    def label(self) -> str:
        """Such as ``fashionbatch-timm 1.2``."""
        return f"{self.distribution} {self.version}"


@functools.cache
def discover() -> tuple[Plugin, ...]:
    """All installed plugins, the built-in one first, then by name; loaded once per process.

    Warns (``DeprecationWarning``) of each that uses what is going to be removed.

    Raises:
        PluginError: with ``FASHIONBATCH_STRICT=1``, when one is broken.
    """
    found = [
        _load(entry, disabled="" if entry.value == BUILTIN else switches.reason(entry.name))
        for entry in _entries(GROUP)
    ]
    for plugin in found:
        for text in plugin.deprecated:
            warnings.warn(
                f"plugin {plugin.name!r} ({plugin.label}): {text}", DeprecationWarning, stacklevel=2
            )
    if os.environ.get("FASHIONBATCH_STRICT") == "1":
        for plugin in found:
            if plugin.status == "broken":
                raise PluginError(
                    f"plugin {plugin.name!r} ({plugin.label}) is broken: {plugin.error} "
                    "(FASHIONBATCH_STRICT=1 makes this an error)"
                )
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of another package.

    Attributes:
        name: what users type.
        distribution: the installed package it comes from, and its ``version``.
        target: ``"package.module:attribute"`` of a ``typer.Typer`` or a function.
    """

    name: str
    distribution: str
    version: str
    target: str


def commands() -> tuple[Command, ...]:
    """Those of all installed packages, by name; of one whose plugins are all switched off, none."""
    theirs = _entries(COMMANDS)
    if not theirs:  # nearly always, and every --help asks
        return ()
    off: dict[str, bool] = {}
    for entry in _entries(GROUP):
        package, _ = _distribution(entry)
        off[package] = off.get(package, True) and bool(switches.reason(entry.name))
    found = []
    for entry in theirs:
        package, version = _distribution(entry)
        if not off.get(package, False):
            found.append(
                Command(name=entry.name, distribution=package, version=version, target=entry.value)
            )
    return tuple(found)


def switch(name: str, *, on: bool) -> None:
    """Loads a plugin from now on, or does not; whether it can be loaded does not matter.

    Raises:
        UnknownNameError: none of that name is installed.
        UsageError: it is the built-in one.
    """
    known = {entry.name: entry for entry in _entries(GROUP)}
    if name not in known:
        raise UnknownNameError("plugin", name, known)
    if known[name].value == BUILTIN:
        raise UsageError(f"{name!r} is part of fashionbatch: it cannot be switched off")
    switches.switch(name, on=on)
    discover.cache_clear()


def _entries(group: str) -> list[metadata.EntryPoint]:
    """The built-in one first, then by name; one that is found twice on the path, once."""
    entries = {(e.name, e.value): e for e in metadata.entry_points(group=group)}.values()
    return sorted(entries, key=lambda e: (e.value != BUILTIN, e.name, e.value))


def _distribution(entry: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version; damaged metadata has neither."""
    name = (entry.dist and entry.dist.name) or "unknown"
    return name, (entry.dist and entry.dist.version) or "unknown"


def _load(entry: metadata.EntryPoint, *, disabled: str) -> Plugin:
    package, version = _distribution(entry)
    about: dict[str, Any] = {
        "name": entry.name,
        "distribution": package,
        "version": version,
        "target": entry.value,
    }
    if disabled:
        return Plugin(**about, status="disabled", disabled=disabled)
    try:
        manager, deprecated = _managed(entry.load())
        return Plugin(**about, deprecated=deprecated, components=tuple(_components(manager)))
    except (Exception, SystemExit) as error:  # whatever a stranger's module does on import
        return Plugin(
            **about, status="broken", error=_cause(error), traceback=traceback.format_exc()
        )


#: what a plugin meets that was written for a later version than this one
_NEWER = re.compile(
    r"(\w*Spec|Preprocessing)\.__init__\(\) got an unexpected keyword argument"
    r"|^module 'fashionbatch' has no attribute "
)
#: pluggy's words
_UNKNOWN_HOOK = re.compile(r"unknown hook '(\w+)'")


def _cause(error: BaseException) -> str:
    """In one line."""
    reason = " ".join(str(error).split()) or "no message"
    unknown = _UNKNOWN_HOOK.match(reason)
    if unknown:
        near = difflib.get_close_matches(unknown[1], [hook for hook, _ in KINDS.values()], n=1)
        meant = f": did you mean {near[0]!r}?" if near else ""
        return f"unknown hook {unknown[1]!r}{meant} (or of a newer fashionbatch than {__version__})"
    newer = f"; misspelled, or of a newer fashionbatch than {__version__}"
    return f"{type(error).__name__}: {reason}{newer if _NEWER.search(reason) else ''}"


def _managed(plugin: object) -> tuple[pluggy.PluginManager, tuple[str, ...]]:
    """A manager of this plugin alone, and which hooks it implements that will be removed."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        manager.register(plugin)
    manager.check_pending()
    _refuse_unmarked(plugin)
    return manager, tuple(str(warning.message) for warning in told)


def _components(manager: pluggy.PluginManager) -> Iterable[tuple[str, Spec]]:
    """Calls the hooks that a plugin implements; raises whatever is wrong with them."""
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
