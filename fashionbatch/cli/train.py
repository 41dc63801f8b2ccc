"""``fashionbatch train``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fashionbatch import api, folders
from fashionbatch.cli.console import (
    say,
    show_json,
    show_table,
    warn_of_plugins,
)
from fashionbatch.cli.engines import EngineTeller, engine_lines
from fashionbatch.cli.options import Json, with_options
from fashionbatch.cli.plan import show_plan
from fashionbatch.cli.values import readable, size
from fashionbatch.config import TrainConfig
from fashionbatch.recipe import resolve

#: names of the history's columns for people
METRICS = {
    "top1": "top-1",
    "top3": "top-3",
    "top5": "top-5",
    "macro_recall": "macro recall",
    "attr_recall3": "attribute recall@3",
    "attr_recall5": "attribute recall@5",
    "attr_map": "attribute mAP",
}


class TrainTeller(EngineTeller):
    """Shows a training: its plan, a bar per epoch, a line per epoch, and what came between."""

    def on_plan(self, values: dict[str, Any]) -> None:
        """What is going to happen."""
        plan, config = values["plan"], values["config"]
        trained, whole = plan["trainable_parameters"], plan["parameters"]
        by = f" by recipe {config['recipe']}" if config["recipe"] else ""
        say(
            f"Data {plan['data']}: {readable(plan['items'])}; {plan['classes']:,} classes. "
            f"{plan['backbone']['name']} ({plan['weights']} weights) on {plan['device']}{by}, "
            f"{trained:,} of {whole:,} parameters trained."
        )
        self.run, self.epochs, self.epoch = values["run"], config["epochs"], 1

    def on_disk(self, values: dict[str, Any]) -> None:
        """So much is going to be written."""
        kept = ""
        if values["kept"]:
            runs = Path(values["path"]).parents[1]
            where = "" if runs == folders.RUNS else f" -o {runs}"
            kept = (
                f"; earlier ones take {size(values['kept'])} (`fashionbatch features{where}` lists "
                f"them, `fashionbatch features clear{where}` removes them)"
            )
        say(f"{size(values['bytes'])} of activations go to {values['path']}{kept}")

    def on_engine(self, values: dict[str, Any]) -> None:
        """What computes the frozen part."""
        for line in engine_lines(values):
            say(line)

    def on_features(self, values: dict[str, Any]) -> None:
        """Features of the frozen base are being computed."""
        if self.bar is None:
            self.start_bar(values["of"], "features")
        if self.bar is not None:
            self.bar.advance(values["done"] - self.bar.done)

    def on_reused(self, values: dict[str, Any]) -> None:
        """Features of an earlier run are used."""
        say(f"Features reused from {values['path']}")

    def on_resumed(self, values: dict[str, Any]) -> None:
        """The run goes on in an epoch, counted from 1, of which so many steps are done."""
        self.epoch = values["epoch"]
        behind = f", behind step {values['step']:,}" if values["step"] else ""
        say(f"resuming at epoch {self.epoch}{behind}")

    def on_finished(self, values: dict[str, Any]) -> None:
        """There was nothing left to train."""
        where = f"{self.run} is finished: it"
        if values["stopped_early"]:
            say(
                f"{where} stopped early behind epoch {values['epochs']:,} of {self.epochs:,}. To "
                f"train further, begin a new run from its weights: --weights {self.run}, with "
                "another --name and without --resume"
            )
        else:
            say(
                f"{where} has done epoch {values['epochs']:,}, its last. To train further, give "
                "more --epochs"
            )

    def on_memory(self, values: dict[str, Any]) -> None:
        """A step was too large for the memory."""
        say(f"out of memory: going on with a micro-batch of {values['micro_batch']:,}")

    def on_step(self, values: dict[str, Any]) -> None:
        """A step of an epoch is done."""
        if values["step"] == 1 or self.bar is None:  # a resumed epoch starts with a later one
            self.start_bar(values["of"] - values["step"] + 1, f"epoch {self.epoch}/{self.epochs}")
            if self.bar is not None:
                self.bar.unit = "step"
        if self.bar is not None:
            self.bar.advance(1)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done."""
        self.close()
        shown = [f"train loss {row['train_loss']:.4f}", f"val loss {row['val_loss']:.4f}"]
        for metric in ("top1", "attr_recall3"):
            if f"val_{metric}" in row:
                shown.append(f"val {METRICS[metric]} {row[f'val_{metric}']:.4f}")
        say(f"epoch {row['epoch']}/{self.epochs}: {', '.join(shown)} ({row['seconds']:.1f} s)")
        self.epoch = row["epoch"] + 1


def train(
    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Any option by its name in a recipe, before all else: epochs=3. Nothing behind = "
            "is its default. Repeatable.",
        ),
    ] = [],  # noqa: B006  # typer copies it
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved configuration and plan; stop.")
    ] = False,
    options: Any = None,
) -> None:
    """Finetune a network on a data set."""
    warn_of_plugins()
    if resolve(options, changes).data is None and (data := _ask_for_data()):
        options["data"] = data
    with TrainTeller("train") as tell:
        result = api.train(tell=tell, dry_run=dry_run, set=changes, **options)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes: the first one speaks
    if json:
        show_json(result)
    elif dry_run:
        show_plan(result)
    else:
        show_result(result)


def show_result(result: dict[str, Any]) -> None:
    """The figures of a finished training."""
    names = list(result["val"])
    rows: list[list[object]] = [
        [split, *("" if (v := result[split][n]) is None else f"{v:.4f}" for n in names)]
        for split in ("val", "test")
        if result[split]
    ]
    best = f"best epoch {result['best_epoch']} of {result['epochs']} (lowest val loss)"
    title = f"{result['run']}: {best}"
    show_table(title, ["split", *(METRICS.get(name, name) for name in names)], rows)


def _ask_for_data() -> Any:
    """The data set, asked for where several could be meant and somebody is there to answer."""
    found = folders.data_sets()
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
    example = "fashionbatch train --data shards/photos --recipe fast"
    app.command("train")(with_options(TrainConfig, train, example))
