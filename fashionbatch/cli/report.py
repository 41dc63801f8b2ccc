"""``fashionbatch report``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Teller, say, show_json, warn_of_plugins
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import ReportConfig


class _Teller(Teller):
    def on_start(self, values: dict[str, Any]) -> None:
        """Of the prediction of a run's validation images."""
        self.start_bar(values["items"], "predict")

    def on_stage(self, values: dict[str, Any]) -> None:
        self.start_bar(values["items"], values["name"])


def report(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTIONS|RUN",
            help="Prediction file (HDF5), or a run, or the URL of either.",
        ),
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Make one HTML file that shows what a model answered.

    It needs no network and can be sent to people who do not know the code: figures, curves,
    confusions, photographs, what the model looked at, labels that seem to be wrong, failures. Of a
    run, its validation images are predicted first.
    """
    warn_of_plugins()
    with _Teller("report") as tell:
        result = api.report(source, tell=tell, **options)
    if json:
        show_json(result)
    for note in result["notes"]:
        say(f"Note: {note}")
    say(
        f"{result['output']}: {result['items']:,} items, {result['thumbnails']:,} pictures, "
        f"{result['heatmaps']:,} heat maps, {result['bytes'] / 1e6:.1f} MB"
    )


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch report predictions/photos-val.h5 -o report.html"
    app.command("report")(with_options(ReportConfig, report, example))
