"""``fashionbatch features``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fashionbatch import folders
from fashionbatch.cli.console import safe, show_json, show_table
from fashionbatch.cli.options import Json
from fashionbatch.cli.values import provider, size
from fashionbatch.training.activations import kept as keeping
from fashionbatch.training.activations.kept import Kept

app = typer.Typer(invoke_without_command=True)

Runs = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the runs, as of train.")
]


@app.callback()
def list_features(context: typer.Context, output: Runs = folders.RUNS, json: Json = False) -> None:
    """List what trainings have computed once and kept, or clear it.

    Example: fashionbatch features clear
    """
    if context.invoked_subcommand is not None:
        return
    folder = output / keeping.FOLDER
    found = keeping.kept(folder)
    if json:
        show_json([{**each._asdict(), "path": str(each.path)} for each in found])
        return
    show_table(
        f"{size(sum(each.bytes for each in found))} in {folder}",
        ["network", "computed up to", "size", "in use", "folder"],
        [
            [*_words(each), size(each.bytes), "yes" if each.used else "no", each.path.name]
            for each in found
        ],
    )


@app.command("clear")
def clear(output: Runs = folders.RUNS, json: Json = False) -> None:
    """Remove all of it that no running training uses; it is computed again where it is needed.

    Example: fashionbatch features clear -o runs
    """
    folder = output / keeping.FOLDER
    done = keeping.clear(folder)
    if json:
        show_json(vars(done))
        return
    left = f"; {done.used:,} in use by running trainings stay" if done.used else ""
    typer.echo(safe(f"{size(done.bytes)} removed from {folder}{left}"))


def _words(each: Kept) -> tuple[str, str]:
    """The network, and where it was cut."""
    try:
        crossing = ", ".join(
            f"{name} {' x '.join(map(str, shape))}" for name, shape in each.about["crossing"]
        )
        return provider(each.about["backbone"]), crossing
    except (KeyError, TypeError, ValueError):
        return "unknown", "unknown"
