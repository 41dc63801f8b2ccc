"""``fashionbatch predict``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import safe, say, show_json, warn_of_plugins
from fashionbatch.cli.engines import EngineTeller, engine_lines
from fashionbatch.cli.options import Json, with_options
from fashionbatch.cli.values import duration, size
from fashionbatch.config import PredictConfig
from fashionbatch.errors import counted


class PredictTeller(EngineTeller):
    """Shows a prediction."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self.reused = 0

    def on_progress(self, values: dict[str, Any]) -> None:
        """So many more items are done, or taken over."""
        self.reused += values.get("reused", 0)
        super().on_progress(values)

    def on_start(self, values: dict[str, Any]) -> None:
        """It begins."""
        say(f"{counted(values['items'], 'item')} with {values['model']} -> {values['output']}")

    def on_plan(self, values: dict[str, Any]) -> None:
        """What is going to happen."""
        for line in plan_lines(values):
            say(line)
        self.start_bar(values["items"] - values["kept"])

    def on_resumed(self, values: dict[str, Any]) -> None:
        """Some of it was done before."""
        say(
            f"{values['items']:,} of {values['of']:,} items were finished by an earlier run "
            "(--restart discards them)"
        )

    def on_complete(self, values: dict[str, Any]) -> None:
        """All of it was done before."""
        failed = values["failed"]
        more = (
            f"; {counted(failed, 'item')} failed in it, and --retry-failed tries those again"
            if failed
            else ": nothing to do (--restart starts again)"
        )
        say(f"{values['output']} is complete already{more}")


def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Folder of images, image, folder of shards; or address of shards."
        ),
    ],
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is going to be done; stop.")
    ] = False,
    options: Any = None,
) -> None:
    """Predict a catalogue into one HDF5 file.

    Type the same command again after a stop: it goes on with what is missing.
    """
    warn_of_plugins()
    with PredictTeller("predict") as tell:
        result = api.predict(source, tell=tell, dry_run=dry_run, **options)
    if dry_run:
        show_dry_run(result, json=json)
        return
    if json:
        show_json(result)
    if tell.reused:
        say(f"{counted(tell.reused, 'item')} taken over from the file that was there")
    say(
        f"{result['predicted']} of {result['items']} predicted"
        + (f", {result['failed']} failed (listed in the file)" if result["failed"] else "")
        + (f", {rate:.1f} img/s" if (rate := result["images_per_second"]) else "")
        + f": {result['output']}"
    )
    if result["failed"]:
        raise typer.Exit(3)


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The plan of a run, a line for each thing to know."""
    left = plan["items"] - plan["kept"]
    lines = [
        f"{counted(left, 'item')} in {counted(plan['batches'], 'batch', 'batches')} of "
        f"{plan['batch_size']}, {counted(plan['shards'], 'shard')} in all; about "
        f"{size(plan['bytes'])} of output",
    ]
    if plan["bytes_read"] is not None:
        lines[0] += f", {size(plan['bytes_read'])} to read"
    if plan["parallel"] > 1:
        each = counted(plan["shards_each"], "shard")
        lines.append(f"{counted(plan['parallel'], 'worker')}, up to {each} for each")
    lines += engine_lines(plan)
    if plan["seconds"] is not None:
        lines.append(f"it is going to take about {duration(plan['seconds'])}")
    return lines


def show_dry_run(result: dict[str, Any], *, json: bool) -> None:
    """The plan and nothing else."""
    if json:
        show_json(result)
    elif "batches" in result:
        for line in plan_lines(result):
            print(safe(line))


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch predict catalog/ --model runs/photos-resnet50-1"
    app.command("predict")(with_options(PredictConfig, predict, example))
