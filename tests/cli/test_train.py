"""The command train: what was typed, what is shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashionbatch.cli.plan import GROUPS
from fashionbatch.cli.train import TrainTeller, show_result
from fashionbatch.cli.values import preparation, readable, size
from fashionbatch.config import TrainConfig

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
DRY = (
    "train", "--data", SAMPLE, "--backbone", "small-resnet", "--weights", "none",
    "--device", "cpu", "-j", 0, "--dry-run",
)  # fmt: skip


def planned(cli: Callable[..., Any], *options: object) -> dict[str, Any]:
    result = cli(*DRY, "--json", *options)
    assert result.code == 0, result.err
    config: dict[str, Any] = json.loads(result.out)["config"]
    return config


def test_only_what_was_typed_goes_before_the_recipe(cli: Callable[..., Any]) -> None:
    """An option typed goes before the recipe even where it is the default; --set before all."""
    plain = planned(cli)
    assert (plain["epochs"], plain["batch_size"], plain["recipe"]) == (10, 32, None)
    table = planned(cli, "--recipe", "table1-3", "--set", "img_size=")
    assert (table["epochs"], table["batch_size"], table["img_size"]) == (100, 128, 28)
    assert (table["recipe"], table["freeze_opt"]) == ("table1-3", "adam")
    typed = planned(cli, "--recipe", "table1-3", "--img-size", 28, "--epochs", 10, "-b", 32)
    assert (typed["epochs"], typed["batch_size"], typed["patience"]) == (10, 32, 10)
    changes = ("--set", "epochs=7", "--set", "regularizer=l2-kernel", "--set", "img-size=28")
    assert planned(cli, "--recipe", "table1-2", "--epochs", 10, *changes)["epochs"] == 7
    flags = planned(cli, "--recipe", "table1-2", *changes, "--regularizer", "l2-activity")
    assert flags["regularizer"] == ["l2-kernel"]


def test_refusals(cli: Callable[..., Any], tmp_path: Path) -> None:
    """A recipe or a change that cannot work ends in one line with code 2; nothing is written."""
    for options, word in (
        (("--recipe", "table13"), "did you mean 'table1-3'"),
        (("--recipe", "none.toml"), "No such file"),
        (("--set", "epoch=3"), "did you mean 'epochs'"),
        (("--set", "lr=x"), "a number"),
    ):
        result = cli(*DRY, *options)
        assert result.code == 2
        assert word in result.err
        assert len(result.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_dry_run_is_readable(cli: Callable[..., Any]) -> None:
    """Groups with their options in words, numbers with separators; nothing of Python's."""
    out = cli(*DRY, "--regularizer", "l2-kernel").out
    lines = [line.split(None, 1) for line in out.splitlines() if line.strip()]
    values = {key: rest[0].strip() for key, *rest in lines if rest}
    assert [line[0] for line in lines if line[0] in GROUPS] == list(GROUPS)
    assert values["items"] == "train 4,000, val 500, test 1,000"
    assert values["backbone"].startswith("small-resnet of fashionbatch ")
    assert values["trainable_parameters"] == "308,650"
    assert values["compile"] == "no"
    assert values["regularizer"] == "l2-kernel"
    assert values["patience"] == "–"
    assert values["input"] == "28 x 28 px, all of it on black, bilinear"
    assert not {"{", "[", "None", "True", "False"} & set(out.replace("'", " ").split())


def test_every_option_is_in_one_group(cli: Callable[..., Any]) -> None:
    """So that a dry run shows all of them, and all of the plan."""
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    plan = json.loads(cli(*DRY, "--json").out)["plan"]
    assert {*plan, *(f.name for f in dataclasses.fields(TrainConfig))} <= set(grouped)


def test_values_in_words() -> None:
    """What a person reads."""
    assert [readable(v) for v in (None, "", (), {}, 0, 1e-5, 1234567, 0.5)] == [
        "–", "–", "–", "–", "0", "1e-05", "1,234,567", "0.5",
    ]  # fmt: skip
    assert [size(n) for n in (0, 1023, 1024, 5 * 2**30, 2**52)] == [
        "0 bytes", "1,023 bytes", "1 KiB", "5 GiB", "4,096 TiB",
    ]  # fmt: skip
    values = {"size": 224, "resize": 256, "crop_mode": "center", "interpolation": "bicubic"}
    assert preparation(values) == "224 x 224 px, the centre of 256 px, bicubic"


PLAN = {
    "data": "shards/x", "items": {"train": 28000}, "classes": 46, "weights": "imagenet",
    "backbone": {"name": "resnet50"}, "device": "cpu", "parameters": 9, "trainable_parameters": 5,
}  # fmt: skip


@pytest.fixture
def tell() -> TrainTeller:
    made = TrainTeller("train")
    made("plan", {"run": "runs/x-1", "config": {"epochs": 9, "recipe": "best"}, "plan": PLAN})
    return made


def test_what_comes_between(tell: TrainTeller, capsys: pytest.CaptureFixture[str]) -> None:
    """Resuming, memory, disk and the stop are a plain line each."""
    capsys.readouterr()
    config = {"epochs": 9, "recipe": "best"}
    for event, values, line in (
        ("plan", {"run": "runs/x-1", "config": config, "plan": PLAN}, "28,000; 46 classes"),
        (
            "disk",
            {"bytes": 3 * 2**30, "path": "runs/.features/a", "kept": 0},
            "3 GiB of activations go to runs/.features/a\n",
        ),
        (
            "disk",
            {"bytes": 2**20, "path": "runs/.features/a", "kept": 2**30},
            "; earlier ones take 1 GiB (`fashionbatch features` lists them, "
            "`fashionbatch features clear` removes them)\n",
        ),
        ("resumed", {"epoch": 4, "step": 0}, "resuming at epoch 4\n"),
        ("resumed", {"epoch": 4, "step": 1200}, "resuming at epoch 4, behind step 1,200\n"),
        (
            "finished",
            {"epochs": 4, "stopped_early": True},
            "runs/x-1 is finished: it stopped early behind epoch 4 of 9. To train further, begin a "
            "new run from its weights: --weights runs/x-1, with another --name and without "
            "--resume\n",
        ),
        (
            "finished",
            {"epochs": 9, "stopped_early": False},
            "runs/x-1 is finished: it has done epoch 9, its last. To train further, give more "
            "--epochs\n",
        ),
        ("memory", {"micro_batch": 16}, "out of memory: going on with a micro-batch of 16\n"),
    ):
        tell(event, values)
        said = capsys.readouterr().err
        assert line in said
        assert len(said.splitlines()) == 1


def test_bar_of_a_resumed_epoch(tell: TrainTeller) -> None:
    """It counts the steps that are left."""
    tell("resumed", {"epoch": 4, "step": 6})
    tell("step", {"step": 7, "of": 10, "loss": 1.0})
    assert tell.bar is not None
    assert (tell.bar.title, tell.bar.total, tell.bar.done) == ("epoch 4/9", 4, 1)
    tell.close()


def test_training_of_attributes(tell: TrainTeller, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a category its own figures are shown."""
    row = {"epoch": 2, "train_loss": 0.5, "val_loss": 0.25, "val_attr_recall3": 0.125, "seconds": 1}
    tell("epoch", row)
    line = "epoch 2/9: train loss 0.5000, val loss 0.2500, val attribute recall@3 0.1250 (1.0 s)"
    assert capsys.readouterr().err.splitlines()[-1] == line
    figures = {"loss": 0.25, "attr_recall3": 0.125, "attr_map": 0.0625}
    show_result({"run": "r", "best_epoch": 1, "epochs": 2, "val": figures, "test": None})
    out = capsys.readouterr().out
    assert "attribute mAP" in out
    assert "0.0625" in out
