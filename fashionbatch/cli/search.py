"""``fashionbatch search``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import (
    Teller,
    say,
    show_json,
    show_table,
    warn,
    warn_of_plugins,
)
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import SearchConfig


class _Teller(Teller):
    def on_start(self, values: dict[str, Any]) -> None:
        self.start_bar(values["items"])


def search(
    predictions: Annotated[
        str, typer.Argument(metavar="PREDICTIONS", help="Prediction file (HDF5) with features.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="Image files, their URLs, or names of rows of the file."
        ),
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Find the images of a prediction file that are most like an image.

    Compares with every row, by the cosine of the features.
    """
    warn_of_plugins()
    with _Teller("search") as tell:
        result = api.search(predictions, images, tell=tell, **options)
    if json:
        show_json(result)
    else:
        for number, query in enumerate(result["queries"]):
            if number:
                print()
            _show(query)
    for failure in result["failed"]:
        warn(f"{failure['name']}: {failure['reason']}")
    if result["no_sheet"]:
        say(f"No contact sheet: {result['no_sheet']}")
    for query in result["queries"]:
        if query["sheet"]:
            say(query["sheet"])
    if result["failed"]:
        raise typer.Exit(3)


def _show(query: dict[str, Any]) -> None:
    classified = any(n["class"] is not None for n in query["neighbours"])
    show_table(
        query["name"],
        ["rank", "similarity", "name", *(["class", "probability"] if classified else [])],
        [
            [
                n["rank"],
                f"{n['similarity']:.4f}",
                n["name"],
                *([n["class"], f"{n['probability']:.3f}"] if classified else []),
            ]
            for n in query["neighbours"]
        ],
    )


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch search predictions/catalog.h5 photo.jpg -k 10"
    app.command("search")(with_options(SearchConfig, search, example))
