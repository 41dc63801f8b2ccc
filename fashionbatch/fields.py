"""What configurations of jobs are made of: fields that know their option and their limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from fashionbatch.address import Address, located
from fashionbatch.errors import UnknownNameError, UsageError

C = TypeVar("C")


def option(default: Any, help: str, *flags: str, **limits: Any) -> Any:
    """A field that the command line shows as an option.

    Args:
        default: the value without the option.
        help: one line for ``--help``.
        flags: names on the command line; by default ``--field-name``.
        limits: ``min`` and ``max`` of a number, inclusive; ``above``, exclusive; ``choices`` of a
            string.
    """
    metadata = {"help": help, "flags": flags, **limits}
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def make(kind: type[C], options: Mapping[str, Any]) -> C:
    """A configuration from keyword arguments.

    Where it has a path or a location a string will do, and where it has a tuple a list, or a single
    string.

    Raises:
        UnknownNameError: an option that there is not.
        UsageError: an address of a kind that is not read.
    """
    types = {f.name: str(f.type) for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # only dataclasses come here
    for name in options:
        if name not in types:
            raise UnknownNameError("option", name, types)
    return kind(**{name: _taken(value, types[name]) for name, value in options.items()})


def _taken(value: Any, annotation: str) -> Any:
    if annotation.startswith("Path") and isinstance(value, str):
        return Path(value)
    if annotation.startswith("Location") and isinstance(value, str | Path):
        return located(value)
    if annotation.startswith("tuple") and isinstance(value, list | str):
        return (value,) if isinstance(value, str) else tuple(value)
    return value


class Checked:
    """Checks every field's limits and choices on construction."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value, meta = getattr(self, f.name), f.metadata
            flag = next(iter(meta.get("flags", ())), "--" + f.name.replace("_", "-"))
            if value is None:
                continue
            _check_type(flag, value, str(f.type))
            low, high, above = (meta.get(name) for name in ("min", "max", "above"))
            number = any(limit is not None for limit in (low, high, above))
            if number and not (isinstance(value, int | float) and math.isfinite(value)):
                raise UsageError(f"{flag} {value}: it must be a finite number")
            if above is not None and not value > above:
                raise UsageError(f"{flag} {value}: it must be above {above}")
            if (low is not None and not value >= low) or (high is not None and not value <= high):
                limits = f"at least {low}" if high is None else f"from {low} to {high}"
                raise UsageError(f"{flag} {value}: it must be {limits}")
            if "choices" in meta and value not in meta["choices"]:
                raise UsageError(f"{flag} {value}: it must be one of {', '.join(meta['choices'])}")

    def to_json(self) -> dict[str, Any]:
        """Every field as a plain value; paths and addresses become strings."""
        return {
            f.name: _plain(getattr(self, f.name))
            for f in dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        }

    def chosen(self) -> dict[str, Any]:
        """The fields that differ from their defaults, paths and speed aside: what was asked for."""
        default = {f.name: f.default for f in dataclasses.fields(self)}  # type: ignore[arg-type]  # every subclass is a dataclass
        aside = (
            "output", "root", "class_names", "workers", "exist_ok", "append", "executor", "address",
            "executor_kwargs",
        )  # fmt: skip
        return {
            name: value
            for name, value in self.to_json().items()
            if name not in aside and value not in (default[name], [])
        }


_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Path": (Path,),
    "Location": (Path, Address),
    "tuple": (tuple,),
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "Path": "a path",
    "Location": "a path or an address",
}


def _check_type(flag: str, value: Any, annotation: str) -> None:
    """Refuses from Python what the command line could not give."""
    name = annotation.split("[")[0].split(" ")[0]
    wrong_bool = isinstance(value, bool) and name != "bool"
    if wrong_bool or not isinstance(value, _TYPES[name]):
        raise UsageError(f"{flag} {value!r}: it must be {_WORDS.get(name, f'a {name}')}")


def _plain(value: Any) -> Any:
    if isinstance(value, Path | Address):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value
