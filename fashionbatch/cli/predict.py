"""``fashionbatch predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Teller, say, show_json, warn_of_broken_plugins
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import PredictConfig
from fashionbatch.errors import counted


class PredictTeller(Teller):
    """Shows a prediction."""

    def on_start(self, values: dict[str, Any]) -> None:
        """It begins."""
        say(f"{values['items']} items with {values['model']} -> {values['output']}")
        self.start_bar(values["items"])

    def on_resumed(self, values: dict[str, Any]) -> None:
        """Some of it was done before."""
        say(
            f"{values['items']} of {values['of']} items were finished by an earlier run "
            "(--no-resume discards them)"
        )
        if self.bar is not None:
            self.bar.total -= values["items"]

    def on_complete(self, values: dict[str, Any]) -> None:
        """All of it was done before."""
        failed = values["failed"]
        more = (
            f"; {counted(failed, 'item')} failed in it, and --no-resume tries again"
            if failed
            else ": nothing to do (--no-resume starts again)"
        )
        say(f"{values['output']} is complete already{more}")


def predict(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Folder of images, image, or folder of shards.")
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Predict a catalogue into one HDF5 file."""
    warn_of_broken_plugins()
    with PredictTeller("predict") as tell:
        result = api.predict(source, tell=tell, **options)
    if json:
        show_json(result)
    say(
        f"{result['predicted']} of {result['items']} predicted"
        + (f", {result['failed']} failed (listed in the file)" if result["failed"] else "")
        + f", {result['images_per_second']:.1f} img/s: {result['output']}"
    )
    if result["failed"]:
        raise typer.Exit(3)


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch predict catalog/ --model runs/photos-resnet50-1"
    app.command("predict")(with_options(PredictConfig, predict, example))
