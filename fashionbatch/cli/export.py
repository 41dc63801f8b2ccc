"""``fashionbatch export``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Teller, say, show_json
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import ExportConfig
from fashionbatch.errors import counted


class _Teller(Teller):
    def on_start(self, values: dict[str, Any]) -> None:
        self.start_bar(values["items"])


def export(
    predictions: Annotated[
        str, typer.Argument(metavar="PREDICTIONS", help="Prediction file (HDF5).")
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Write a prediction file as CSV, Parquet or NPZ.

    A table has a row for each item, also for those that failed (status, stage, reason). CSV is safe
    to open: in texts a backslash and control characters are written as \\\\ and \\x1b, and an
    apostrophe stands in front of what a spreadsheet would take for a formula.
    """
    with _Teller("export") as tell:
        result = api.export(predictions, tell=tell, **options)
    if json:
        show_json(result)
    failed = f", {result['failed']} failed" if result["failed"] else ""
    say(f"{counted(result['predicted'], 'prediction')}{failed}: {result['output']}")


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch export predictions/catalog.h5 --to parquet --features"
    app.command("export")(with_options(ExportConfig, export, example))
