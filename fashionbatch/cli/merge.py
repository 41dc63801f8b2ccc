"""``fashionbatch merge``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Teller, say, show_json
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import MergeConfig
from fashionbatch.errors import counted


class _Teller(Teller):
    def on_start(self, values: dict[str, Any]) -> None:
        self.start_bar(values["items"])


def merge(
    predictions: Annotated[
        list[str], typer.Argument(metavar="PREDICTIONS...", help="Prediction files (HDF5).")
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Make one prediction file of several, such as of several machines.

    They must be of the same model, configuration and engine. Rows follow each other in the order of
    the files.
    """
    with _Teller("merge") as tell:
        result = api.merge(predictions, tell=tell, **options)
    if json:
        show_json(result)
    failed = f", {result['failed']} failed" if result["failed"] else ""
    twice = f", {counted(result['duplicates'], 'duplicate')} left out" * bool(result["duplicates"])
    say(f"{counted(result['predicted'], 'prediction')}{failed}{twice}: {result['output']}")


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch merge one.h5 two.h5 -o predictions/catalog.h5"
    app.command("merge")(with_options(MergeConfig, merge, example))
