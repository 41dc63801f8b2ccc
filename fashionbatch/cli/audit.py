"""``fashionbatch audit``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Teller, say, show_json, show_table, warn
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import AuditConfig
from fashionbatch.errors import counted

#: of a long list that many are shown; the tables have all
_SHOWN = 15


class _Teller(Teller):
    def on_start(self, values: dict[str, Any]) -> None:
        self.start_bar(values["items"])


def audit(
    predictions: Annotated[
        str, typer.Argument(metavar="PREDICTIONS", help="Prediction file (HDF5) with features.")
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Find items that seem to be mislabelled.

    Each item is judged by a classifier on the stored features that was trained on other items only.
    Besides labels that the images contradict: twins with different labels, and outliers.
    """
    with _Teller("audit") as tell:
        result = api.audit(predictions, tell=tell, **options)
    if json:
        show_json(result)
    else:
        _show(result)
    if result["scarce"]:
        names = ", ".join(f"{c['class']} ({c['items']})" for c in result["scarce"])
        warn(f"of these classes there are too few items to learn from: {names}")
    for failure in result["failed"]:
        warn(f"{failure['name']}: {failure['reason']}")
    for reason in (result["no_pairs"], result["no_sheets"]):
        if reason:
            say(f"Note: {reason}")
    for path in result["files"]:
        say(path)
    if result["failed"]:
        raise typer.Exit(3)


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch audit predictions/photos.h5 -o audit/photos"
    app.command("audit")(with_options(AuditConfig, audit, example))


def _show(result: dict[str, Any]) -> None:
    suspects, twins = result["suspects"], result["twins"]
    share = len(suspects) / result["items"]
    show_table(
        f"{result['predictions']}: {counted(len(suspects), 'label')} of {result['items']:,} "
        f"({share:.1%}) doubtful",
        ["rank", "name", "label", "seems", "probability"],
        [
            [rank, s["name"], s["label"], s["suggested"], f"{s['suggested_probability']:.3f}"]
            for rank, s in enumerate(suspects[:_SHOWN], 1)
        ],
    )
    if len(suspects) > _SHOWN:
        say(f"{len(suspects) - _SHOWN:,} more are in the table")
    if twins:
        print()
        show_table(
            f"{counted(len(twins), 'pair')} of twins with different labels",
            ["name", "label", "twin", "its label", "similarity"],
            [
                [t["name"], t["label"], t["twin"], t["twin_label"], f"{t['similarity']:.4f}"]
                for t in twins[:_SHOWN]
            ],
        )
