"""Options of a command from the fields of a job's configuration."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fashionbatch.address import Address


def with_options(config: type, run: Callable[..., None], example: str) -> Callable[..., None]:
    """A command that takes the parameters of ``run`` and the fields of ``config``.

    Args:
        config: a dataclass of :mod:`fashionbatch.config`.
        run: called as ``run(..., options)``; its last parameter gets the values of those fields
            that the user typed, so that a recipe may fill in the others.
        example: shown under the help.
    """
    own = list(inspect.signature(run, eval_str=True).parameters.values())[:-1]
    hints = typing.get_type_hints(config)
    # its own come first, then those that it shares with other commands
    mine = inspect.get_annotations(config)
    fields = sorted(
        (f for f in dataclasses.fields(config) if f.metadata), key=lambda f: f.name not in mine
    )
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *own, *(_parameter(f, hints[f.name]) for f in fields)]

    def command(context: typer.Context, **values: Any) -> None:
        options = {f.name: values.pop(f.name) for f in fields}
        run(
            **values,
            options={
                name: tuple(value) if isinstance(value, list) else value
                for name, value in options.items()
                if _was_typed(context, name)
            },
        )

    # typer reads the signature, which is made here so that no option is written down twice
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect looks at
        [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    )
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__ = run.__name__
    command.__doc__ = f"{inspect.getdoc(run)}\n\nExample: {example}"
    return command


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    meta = field.metadata
    default: Any = field.default
    if typing.get_origin(hint) is tuple:
        hint, default = list[str], []
    flag = "--" + field.name.replace("_", "-")
    flags = list(meta["flags"]) or [flag]
    if hint is bool:
        flags = [f"{flag}/--no-{field.name.replace('_', '-')}"] if default else [flag]
    metavar = _metavar(hint)
    if Address in typing.get_args(hint):
        hint = str | None  # a path would lose one of the slashes of an address
    text = meta["help"]
    if "choices" in meta and default is not None:
        text += f" ({', '.join(meta['choices'])})"
    shown = default is not None and default != [] and not isinstance(default, bool)
    option = typer.Option(*flags, help=text, show_default=shown, metavar=metavar)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[hint, option],
    )


def _metavar(hint: Any) -> str | None:
    kinds = typing.get_args(hint) or (hint,)
    for kind, name in (
        (Address, "PATH|URL"),
        (Path, "PATH"),
        (int, "N"),
        (float, "X"),
        (str, "TEXT"),
    ):
        if kind in kinds:
            return None if hint is bool else name
    return None


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on one line.")]
