"""From a component's name to the component: look up, resolve, create."""

from __future__ import annotations

import importlib
import inspect
import typing
from dataclasses import dataclass
from typing import Any

from fashionbatch import plugins
from fashionbatch.errors import PluginError, UnknownNameError, UsageError
from fashionbatch.specs import Factory, Spec


@dataclass(frozen=True, kw_only=True)
class Component:
    """A spec and who provides it.

    Attributes:
        kind: a key of :data:`fashionbatch.plugins.KINDS`.
        spec: what the plugin handed over.
        provider: the distribution it comes from, and its ``version``.
    """

    kind: str
    spec: Spec
    provider: str
    version: str

    @property
    def provenance(self) -> dict[str, str]:
        """What results record about it: ``{"name", "provider", "version"}``."""
        return {"name": self.spec.name, "provider": self.provider, "version": self.version}


def components(kind: str) -> list[Component]:
    """Every installed component of a kind, sorted by name, then provider."""
    found = [
        Component(kind=kind, spec=spec, provider=plugin.distribution, version=plugin.version)
        for plugin in plugins.discover()
        for spec_kind, spec in plugin.components
        if spec_kind == kind
    ]
    return sorted(found, key=lambda c: (c.spec.name, c.provider))


def find(kind: str, name: str) -> Component:
    """The component called ``name``, or ``provider:name`` where two providers share a name.

    A built-in goes before another package's of the same name, so that installing a package changes
    nothing that was there before.

    Raises:
        UnknownNameError: there is none; names the nearest, and the broken plugins if any.
        UsageError: several other packages have one of that name.
    """
    provider, _, bare = name.rpartition(":")
    known = components(kind)
    matches = [c for c in known if c.spec.name == bare and provider in ("", c.provider)]
    own = [c for c in matches if c.provider == plugins.GROUP]
    if len(own or matches) == 1:
        return (own or matches)[0]
    if matches:
        choices = " or ".join(f"{c.provider}:{bare}" for c in matches)
        raise UsageError(f"several packages provide the {kind} {bare!r}: write {choices}")
    broken = [p for p in plugins.discover() if p.status == "broken"]
    hint = "; ".join(f"plugin {p.name} of {p.label} is broken: {p.error}" for p in broken)
    if provider and not any(p.distribution == provider for p in plugins.discover()):
        hint = f"the package {provider} is not installed: pip install {provider}"
    if not hint and kind == "backbone":
        hint = "`fashionbatch backbones` lists them"
    raise UnknownNameError(kind, name, [c.spec.name for c in known], hint)


def resolve(factory: Factory, *, requires: str = "") -> Any:
    """The object behind a factory: itself, or what ``"package.module:attribute"`` names.

    Raises:
        PluginError: it cannot be imported; says what to install where the spec does.
    """
    if not isinstance(factory, str):
        return factory
    module_name, _, attributes = factory.partition(":")
    advice = f": {requires}" if requires else ""
    try:
        target: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            target = getattr(target, attribute)
    except (ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise PluginError(f"{factory} cannot be imported ({reason}){advice}") from error
    return target


def create(component: Component, *args: Any, **options: Any) -> Any:
    """Calls the component's factory.

    Raises:
        UsageError: the factory takes no such option, or the value cannot be used.
        PluginError: the factory cannot be imported.
    """
    spec = component.spec
    factory = resolve(spec.factory, requires=spec.requires)
    _check_options(component, factory, args, options)
    try:
        return factory(*args, **options)
    except (TypeError, ValueError) as error:
        if not options:
            raise
        given = ", ".join(f"{k}={v}" for k, v in options.items())
        raise UsageError(f"{component.kind} {spec.name!r} with {given}: {error}") from error


def _check_options(
    component: Component, factory: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    taken = _parameters(factory)
    if taken is None:
        return
    takes = list(taken)[len(args) :]
    where = f"{component.kind} {component.spec.name!r}"
    hints = taken
    for option, value in options.items():
        if option not in takes:
            raise UnknownNameError(f"option of {where}", option, takes)
        wanted = _wanted(value, hints.get(option))
        if wanted:
            raise UsageError(f"{where} with {option}={value}: it must be {wanted}")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _parameters(factory: Any) -> dict[str, Any] | None:
    """Names of a factory's parameters, in order, with their types as far as it says them.

    A class that hands ``**options`` on takes those of the class that it is derived from, too.
    ``None`` where the factory takes any, or does not say what it takes.
    """
    found: dict[str, Any] = {}
    callables = [factory]
    if inspect.isclass(factory):
        callables = [vars(c)["__init__"] for c in factory.__mro__ if "__init__" in vars(c)]
    for each in callables:
        try:
            parameters = list(inspect.signature(each).parameters.values())
        except (TypeError, ValueError):  # some C callables have none: they check for themselves
            return None
        if inspect.isclass(factory):
            parameters = parameters[1:]
        hints = _hints(each)
        for p in parameters:
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
                found.setdefault(p.name, hints.get(p.name))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found
    return None


def _hints(function: Any) -> dict[str, Any]:
    """Types of a function's parameters, as far as it says them."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations of another package may name what is not there
        return {}


def _wanted(value: Any, hint: Any) -> str | None:
    """What a text ought to be, where a factory says that it takes none."""
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    if not isinstance(value, str) or not kinds or not all(kind in _WORDS for kind in kinds):
        return None
    return " or ".join(_WORDS[kind] for kind in kinds)
