"""``fashionbatch explain``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Teller, say, show_json, warn, warn_of_plugins
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import ExplainConfig


class _Teller(Teller):
    def on_start(self, values: dict[str, Any]) -> None:
        say(f"Explaining {values['of']}")

    def on_picture(self, values: dict[str, Any]) -> None:
        """What the picture shows."""
        if values["about"]:
            told = "; ".join(f"{key}: {text}" for key, text in values["about"].items())
            say(f"{values['name']}: {told}")


def explain(
    visualizer: Annotated[
        str, typer.Argument(metavar="VISUALIZER", help="NAME[:k=v,...], such as grad-cam.")
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES...]", help="Images, folders, data sets, or URLs; some need none."
        ),
    ] = None,
    json: Json = False,
    options: Any = None,
) -> None:
    """Draw why a model answers as it does."""
    warn_of_plugins()
    with _Teller("explain") as tell:
        result = api.explain(visualizer, images or (), tell=tell, **options)
    for failure in result["failed"]:
        warn(f"{failure['name']}: {failure['reason']}")
    if json:
        show_json({**result, "failed": len(result["failed"])})
    count = result["pictures"]
    say(f"{count} {'picture' if count == 1 else 'pictures'} in {result['output']}")
    if result["failed"]:
        raise typer.Exit(3)


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch explain grad-cam photo.jpg --model runs/photos-resnet50-1 -o why/"
    app.command("explain")(with_options(ExplainConfig, explain, example))
