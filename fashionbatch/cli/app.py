"""The command ``fashionbatch``: its subcommands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from fashionbatch import __version__
from fashionbatch.cli import (
    audit,
    backbones,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    features,
    inspect,
    merge,
    plugins,
    predict,
    recipes,
    report,
    search,
    shard,
    train,
    verify,
)
from fashionbatch.cli.console import error
from fashionbatch.cli.foreign import Commands
from fashionbatch.errors import FashionbatchError, StoppedError

app = typer.Typer(
    name="fashionbatch",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Classify whole catalogues of fashion photographs.\n\n"
    "shard packs photographs, train finetunes a network on them, predict classifies a catalogue.",
)
for module in (
    demo,
    shard,
    inspect,
    verify,
    train,
    predict,
    evaluate,
    audit,
    report,
    export,
    merge,
    search,
    explain,
    doctor,
):
    module.add_to(app)
app.add_typer(backbones.app, name="backbones")
app.add_typer(recipes.app, name="recipes")
app.add_typer(features.app, name="features")
app.add_typer(plugins.app, name="plugins")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fashionbatch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits: 0 done, 1 failed, 2 misuse, 3 done with recorded failures."""
    try:
        app(arguments)
    except FashionbatchError as failure:
        if os.environ.get("FASHIONBATCH_DEBUG") == "1":
            raise
        if not (isinstance(failure, StoppedError) and os.environ.get("RANK", "0") != "0"):
            error(str(failure))  # of several processes that stop, the first one says so
        sys.exit(failure.exit_code)
    except OSError as failure:
        # the machine's, not ours: no space, no permission, a file where a folder should be
        if os.environ.get("FASHIONBATCH_DEBUG") == "1" or failure.strerror is None:
            raise
        where = f"{os.fsdecode(failure.filename)}: " if failure.filename is not None else ""
        error(f"{where}{failure.strerror}: mend that and run the command again")
        sys.exit(FashionbatchError.exit_code)
