"""``fashionbatch train``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import (
    Teller,
    say,
    show_json,
    show_table,
    warn_of_broken_plugins,
)
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import TrainConfig


class TrainTeller(Teller):
    """Shows a training: its plan, a bar per epoch, a line per epoch."""

    def on_plan(self, values: dict[str, Any]) -> None:
        """What is going to happen."""
        plan = values["plan"]
        items = ", ".join(f"{count} {split}" for split, count in plan["items"].items())
        say(
            f"Data {plan['data']}: {items}, {plan['classes']} classes. "
            f"{plan['backbone']['name']} ({plan['weights']} weights) on {plan['device']}, "
            f"{plan['trainable_parameters']:,} of {plan['parameters']:,} parameters trained."
        )
        self.epochs, self.epoch = values["config"]["epochs"], 1

    def on_features(self, values: dict[str, Any]) -> None:
        """Features of the frozen base are being computed."""
        if self.bar is None:
            self.start_bar(values["of"], "features")
        if self.bar is not None:
            self.bar.advance(values["done"] - self.bar.done)

    def on_reused(self, values: dict[str, Any]) -> None:
        """Features of an earlier run are used."""
        say(f"Features reused from {values['path']}")

    def on_step(self, values: dict[str, Any]) -> None:
        """A step of an epoch is done."""
        if values["step"] == 1:
            self.start_bar(values["of"], f"epoch {self.epoch}/{self.epochs}")
            if self.bar is not None:
                self.bar.unit = "step"
        if self.bar is not None:
            self.bar.advance(1)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done."""
        self.close()
        say(
            f"epoch {row['epoch']}/{self.epochs}: train loss {row['train_loss']:.4f}, "
            f"val loss {row['val_loss']:.4f}, val top-1 {row['val_top1']:.4f} "
            f"({row['seconds']:.1f} s)"
        )
        self.epoch = row["epoch"] + 1


def train(
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved configuration and plan; stop.")
    ] = False,
    options: Any = None,
) -> None:
    """Finetune a network on a data set."""
    warn_of_broken_plugins()
    if options["data"] is None:
        options["data"] = _ask_for_data()
    with TrainTeller("train") as tell:
        result = api.train(tell=tell, dry_run=dry_run, **options)
    if json:
        show_json(result)
    elif dry_run:
        flat = [[f"{part}.{k}", v] for part in ("config", "plan") for k, v in result[part].items()]
        show_table("Nothing was run", ["option", "value"], [["run", result["run"]], *flat])
    else:
        show_result(result)


def show_result(result: dict[str, Any]) -> None:
    """The figures of a finished training."""
    rows: list[list[object]] = [
        [split, *(f"{result[split][k]:.4f}" for k in ("loss", "top1", "top3"))]
        for split in ("val", "test")
        if result[split]
    ]
    title = f"{result['run']}: best epoch {result['best_epoch']} of {result['epochs']}"
    show_table(title, ["split", "loss", "top-1", "top-3"], rows)


def _ask_for_data() -> Any:
    """The data set, asked for where several could be meant and somebody is there to answer."""
    found = api.data_sets()
    if len(found) < 2 or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    for number, path in enumerate(found, 1):
        say(f"{number}  {path}")
    while True:
        chosen = typer.prompt("Train on which data set (its number)?", type=int, err=True)
        if 1 <= chosen <= len(found):
            return found[chosen - 1]


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch train --data shards/photos --backbone resnet50 --epochs 20"
    app.command("train")(with_options(TrainConfig, train, example))
