"""``fashionbatch doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fashionbatch import api
from fashionbatch.cli.console import show_json, show_table
from fashionbatch.cli.options import Json
from fashionbatch.errors import counted

_MARKS = {"ok": "ok", "note": "note", "broken": "BROKEN"}


def doctor(
    folder: Annotated[Path, typer.Argument(help="Where results are going to be written.")] = Path(),
    json: Json = False,
) -> None:
    """Find out whether this machine and this installation can do the work.

    Example: fashionbatch doctor
    """
    found = api.doctor(folder)
    broken = sum(each["state"] == "broken" for each in found)
    if json:
        show_json({"findings": found, "broken": broken})
    else:
        title = f"{counted(broken, 'thing')} broken" if broken else "All that is needed works"
        rows: list[list[object]] = [
            [_MARKS[each["state"]], each["about"], each["text"]] for each in found
        ]
        show_table(title, ["", "about", "found"], rows)
    if broken:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)
