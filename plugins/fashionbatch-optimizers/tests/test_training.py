"""Whole trainings on the sample: each learns, and goes on from the middle of an epoch."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fashionbatch import api
from fashionbatch.cli import app
from fashionbatch.errors import StoppedError, UsageError
from torch import Tensor

SAMPLE = Path(__file__).parents[3] / "shards" / "fashion-mnist"
RATES = {
    "lion": 3e-4, "prodigy": 1.0, "adan": 3e-3, "muon": 3e-3, "schedule-free-adamw": 3e-3,
    "schedule-free-sgd": 0.3, "lamb": 0.02, "adabelief": 3e-3, "adopt": 3e-3, "stable-adamw": 3e-3,
}  # fmt: skip
#: what has something of its own that a checkpoint must keep: tensors of groups, tuples, averages
QUICK = ("prodigy", "muon", "schedule-free-adamw")


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell has started the tests in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def train(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    values = {
        "data": SAMPLE, "backbone": "small-resnet", "weights": "none", "limit": 40, "epochs": 3,
        "batch_size": 8, "workers": 0, "device": "cpu", "output": folder, "augment": "none",
    }  # fmt: skip
    return api.train(name=name, **{**values, **options})


def weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in RATES]
)
def test_learns_the_sample_and_goes_on_exactly(name: str, tmp_path: Path) -> None:
    """With groups of their own rates, and the first block frozen."""
    options = {
        "opt": name, "lr": RATES[name], "layer_decay": 0.7, "unfreeze": "blocks:2",
        "weight_decay": 0.01, "sched": "cosine", "warmup_epochs": 0.5,
    }  # fmt: skip

    def tell(event: str, values: dict[str, Any]) -> None:
        if event == "step":
            made.append(values)
            if len(made) == 7:  # of 15
                os.kill(os.getpid(), signal.SIGINT)

    made: list[dict[str, Any]] = []
    train(tmp_path, "whole", **options)
    rows = history(tmp_path / "whole")
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    with pytest.raises(StoppedError):
        train(tmp_path, "cut", tell=tell, **options)
    train(tmp_path, "cut", resume=True, **options)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    for a, b in zip(rows, history(tmp_path / "cut"), strict=True):
        assert {**a, "seconds": ""} == {**b, "seconds": ""}


def test_schedule_free_saves_the_average(tmp_path: Path) -> None:
    """The checkpoint goes on with the weights that are trained; the model has their average."""
    train(tmp_path, "run", opt="schedule-free-adamw", lr=3e-3, epochs=1)
    saved = weights(tmp_path / "run")
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    kept = safetensors.torch.load_file(folder / "state.safetensors")
    trained = [k for k in saved if not k.endswith(("_mean", "_var", "_tracked"))]
    averages = [
        kept[f"model.{name}"].lerp(z, 1 - 1 / 0.9)
        for name in trained
        for key, z in kept.items()
        if key.endswith(".z") and z.shape == saved[name].shape
    ]
    for name in trained:
        assert not torch.equal(saved[name], kept[f"model.{name}"])
        alike = [a for a in averages if a.shape == saved[name].shape]
        assert any(torch.allclose(saved[name], a, atol=1e-6) for a in alike), name
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (row,) = history(tmp_path / "run")
    assert float(row["val_loss"]) == pytest.approx(metrics["val"]["loss"], rel=1e-6)


def test_prodigy_says_what_to_write_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(SAMPLE), "--backbone", "small-resnet", "--weights", "none"]
    with pytest.raises(SystemExit) as end:
        app.main([*arguments, "--opt", "prodigy", "--device", "cpu", "-o", str(tmp_path / "runs")])
    assert end.value.code == UsageError.exit_code
    assert "write --lr 1 (at least 0.1)" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("runs/*/model.safetensors"))
