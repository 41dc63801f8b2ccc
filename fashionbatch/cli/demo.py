"""``fashionbatch demo``: the whole line on the committed sample, in about a minute."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fashionbatch import api
from fashionbatch.cli.console import say, show_json, show_table, warn_of_plugins
from fashionbatch.cli.options import Json
from fashionbatch.cli.predict import PredictTeller
from fashionbatch.cli.train import TrainTeller
from fashionbatch.errors import UsageError

_SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
_PICTURES = 6


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PATH", help="Folder to make.")
    ] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Epochs of training.")] = 14,
    json: Json = False,
) -> None:
    """Train on the committed sample, predict its test split, and show where everything is.

    Example: fashionbatch demo
    """
    began = time.monotonic()
    if not _SAMPLE.is_dir():
        raise UsageError(
            f"{_SAMPLE} is missing: its images come with a clone of fashionbatch, run it there"
        )
    warn_of_plugins()
    with TrainTeller("train") as tell:
        trained = api.train(
            tell=tell,
            data=_SAMPLE,
            backbone="small-resnet",
            weights="none",
            augment="flip",
            epochs=epochs,
            batch_size=64,
            opt="adamw",
            lr=3e-3,
            weight_decay=0.05,
            sched="cosine",
            output=output,
            name="run",
            exist_ok=True,
        )
    run, file = output / "run", output / "predictions.h5"
    with PredictTeller("predict") as tell_prediction:
        predicted = api.predict(
            _SAMPLE,
            tell=tell_prediction,
            split="test",
            model=run,
            output=file,
            batch_size=256,
            restart=True,
        )
    pictures = api.explain(
        "grad-cam", [_SAMPLE], model=run, output=output / "grad-cam", limit=_PICTURES
    )
    if json:
        show_json({**trained, **predicted})
        return
    seconds = time.monotonic() - began
    show_table(
        f"Done in {seconds:.0f} s",
        ["what", "figure", "where"],
        [
            ["data set", "Fashion-MNIST sample", _SAMPLE],
            ["trained model", f"{trained['epochs']} epochs, best {trained['best_epoch']}", run],
            [
                "test accuracy",
                f"{trained['test']['top1']:.1%} (top-3 {trained['test']['top3']:.1%})",
                run / "model.json",
            ],
            ["loss and accuracy curves", "", run / "curves.png"],
            [
                "predictions and features",
                f"{predicted['predicted']} images, {predicted['images_per_second']:.0f} img/s",
                file,
            ],
            ["Grad-CAM pictures", f"{pictures['pictures']}", output / "grad-cam"],
        ],
    )
    say("Next: fashionbatch shard YOUR_PHOTOS && fashionbatch train --backbone resnet50")


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    app.command("demo")(demo)
