"""Recipes: named sets of training options in TOML, and what goes before what.

A recipe is a flat table of the fields of :class:`fashionbatch.config.TrainConfig`, with a
``summary`` and a ``source`` (where it comes from). Those of the package lie in ``recipes/``.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fashionbatch.address import located
from fashionbatch.config import TrainConfig
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.fields import make

#: which run, not how to train
_OF_ONE_RUN = ("output", "name", "exist_ok", "resume", "recipe")
#: every run's own config.toml has these, so that it is told from a recipe
_IN_EVERY_RUN = {"output", "exist_ok", "resume"}
_ABOUT = ("summary", "source", "requires")
#: in a run's folder: what it was trained with, which is a recipe, too
CONFIG = "config.toml"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        name: of the package's recipe, or the path of a file.
        text: the TOML.
        summary: one line.
        source: where it comes from.
        requires: what to install when its backbone is not there, as in a spec.
        options: fields of ``TrainConfig``.
    """

    name: str
    text: str
    summary: str = ""
    source: str = ""
    requires: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """``{"name", "summary", "source", "options"}`` as plain JSON values."""
        plain = make(TrainConfig, self.options).to_json()
        options = {name: plain[name] for name in self.options}
        about = {"name": self.name, "summary": self.summary, "source": self.source}
        return {**about, "options": options}


def names() -> list[str]:
    """The recipes of the package."""
    folder = resources.files("fashionbatch") / "recipes"
    files = [Path(file.name) for file in folder.iterdir()]
    return sorted(file.stem for file in files if file.suffix == ".toml")


def load(name: str) -> Recipe:
    """Reads a recipe of the package, a user's file, or a run's ``config.toml``.

    Of a run's file, output, name, exist_ok, resume and recipe are passed over.

    Raises:
        UnknownNameError: there is no such recipe.
        UsageError: it cannot be read, or names what cannot work.
    """
    known = names()
    try:
        if name in known:
            text = (resources.files("fashionbatch") / "recipes" / f"{name}.toml").read_text("utf-8")
        elif Path(name).suffix == ".toml" or len(Path(name).parts) > 1:
            text = Path(name).read_text("utf-8")
        else:
            raise UnknownNameError("recipe", name, known, "or name a TOML file")
        values = tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--recipe {name} cannot be read ({reason}): name a TOML file") from error
    about = {key: values.pop(key) for key in _ABOUT if key in values}
    if values.keys() >= _IN_EVERY_RUN:
        values = {k: v for k, v in values.items() if k not in _OF_ONE_RUN}
    for key in _OF_ONE_RUN:
        if key in values:
            raise UsageError(
                f"--recipe {name} names {key}, which is of one run: take it out and give it as "
                f"--{key.replace('_', '-')}"
            )
    try:
        options = {key: _from_toml(key, value) for key, value in values.items()}
        make(TrainConfig, options)
    except UsageError as error:
        raise UsageError(f"--recipe {name}: {error}") from error
    for key, value in about.items():
        if not isinstance(value, str):
            raise UsageError(f"--recipe {name}: {key} is text in quotes, not {value!r}")
    return Recipe(name=name, text=text, options=options, **about)


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Reads ``["epochs=3", "regularizer=ema", ...]`` as the fields' own types.

    A field of several values takes one with each pair; nothing behind ``=`` is the default.

    Raises:
        UnknownNameError: a field that there is not.
        UsageError: a value that is not of the field's type.

    Example:
        >>> overrides(["epochs=3", "patience="])
        {'epochs': 3, 'patience': None}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        key = key.replace("-", "_")
        if not equals or not key:
            raise UsageError(f"--set {pair}: write option=value, such as epochs=3")
        kind = _kind(key, f"--set {pair}")
        if key == "recipe":
            raise UsageError(f"--set {pair}: write --recipe {text}")
        if not text:
            found[key] = () if kind is tuple else _fields()[key].default
        elif kind is tuple:
            found[key] = (*found.get(key, ()), text)
        else:
            found[key] = _from_text(kind, text, f"--set {pair}")
    return found


def resolve(options: Mapping[str, Any], pairs: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a training: defaults < recipe < options < pairs.

    Args:
        options: what was asked for, as fields of ``TrainConfig``; ``recipe`` names one. To
            ``resume`` a run without a recipe, the defaults are what it was begun with.
        pairs: of ``--set``, see :func:`overrides`.

    Raises:
        UsageError: what cannot work, in one line.
    """
    name = options.get("recipe")
    recipe = _begun(options) if name is None else load(name).options
    return make(TrainConfig, {**recipe, **options, **overrides(pairs)})


def _begun(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run that is to go on was begun with; nothing where that is not there."""
    if not options.get("resume") or not isinstance(options.get("name"), str):
        return {}
    path = (
        Path(options.get("output") or str(_fields()["output"].default)) / options["name"] / CONFIG
    )
    if not path.is_file():
        return {}
    recipe = load(str(path))
    named = tomllib.loads(recipe.text).get("recipe")
    return {**recipe.options, **({"recipe": named} if named else {})}


def _fields() -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(TrainConfig)}


def _kind(key: str, where: str) -> type:
    known = _fields()
    if key not in known:
        hint = f"{where}; `fashionbatch train --help` has all"
        raise UnknownNameError("option", key, known, hint)
    hint = typing.get_type_hints(TrainConfig)[key]
    if typing.get_origin(hint) is tuple:
        return tuple
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    found: type = kinds[0]
    return found


def _from_text(kind: type, text: str, where: str) -> Any:
    if kind is Path:
        return located(text)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{where}: it is true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        word = "a whole number" if kind is int else "a number"
        raise UsageError(f"{where}: it is {word}") from None


def _from_toml(key: str, value: Any) -> Any:
    kind = _kind(key, "a recipe is a flat table of the options of train")
    if kind is tuple:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise UsageError(f'{key} is a list of texts, such as ["a", "b"]')
        return tuple(value)
    return value
