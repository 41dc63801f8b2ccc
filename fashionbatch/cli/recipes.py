"""``fashionbatch recipes``."""

from __future__ import annotations

import typer

from fashionbatch import recipe as recipes
from fashionbatch.cli.console import show_json, show_table
from fashionbatch.cli.options import Json

app = typer.Typer(invoke_without_command=True)


@app.callback()
def list_recipes(context: typer.Context, json: Json = False) -> None:
    """List the recipes of train, or show one.

    Example: fashionbatch recipes show table1-3
    """
    if context.invoked_subcommand is not None:
        return
    found = [recipes.load(name) for name in recipes.names()]
    if json:
        show_json([recipe.to_json() for recipe in found])
        return
    show_table(
        f"{len(found)} recipes for `fashionbatch train --recipe NAME`",
        ["name", "summary"],
        [[r.name, r.summary] for r in found],
    )


@app.command("show")
def show(name: str, json: Json = False) -> None:
    """Show a recipe as TOML, to train with or to copy and change.

    Example: fashionbatch recipes show table1-3 > mine.toml
    """
    recipe = recipes.load(name)
    if json:
        show_json(recipe.to_json())
        return
    typer.echo(recipe.text, nl=False)
