"""Whole trainings: with other regularizers, stopped and gone on with, in two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fashionbatch import api
from fashionbatch.errors import StoppedError
from torch import Tensor

SAMPLE = Path(__file__).parents[3] / "shards" / "fashion-mnist"


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell has started the tests in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def train(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    values = {
        "data": SAMPLE, "backbone": "small-resnet", "weights": "none", "limit": 24, "epochs": 2,
        "batch_size": 8, "workers": 0, "device": "cpu", "output": folder, "augment": "none",
        "opt": "sgd", "lr": 0.05,
    }  # fmt: skip
    return api.train(name=name, **{**values, **options})


def weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_trains_otherwise_and_counts_a_batch_once(tmp_path: Path) -> None:
    """Other weights than without it; radius 0 is without it; running statistics of one pass."""
    train(tmp_path, "without", epochs=1)
    train(tmp_path, "none", epochs=1, regularizer=("sam:rho=0",))
    train(tmp_path, "sam", epochs=1, regularizer=("sam",))
    without, sam = weights(tmp_path / "without"), weights(tmp_path / "sam")
    assert same(without, weights(tmp_path / "none"))
    assert not torch.equal(without["head.dense.0.weight"], sam["head.dense.0.weight"])
    counts = {int(v) for k, v in sam.items() if k.endswith("num_batches_tracked")}
    assert counts == {3}


@pytest.mark.parametrize("text", ["sam:rho=0.1", "asam"])
def test_goes_on_exactly(text: str, tmp_path: Path) -> None:
    """Stopped in an epoch, with dropout drawn in both passes, mixed images, clipping, averages."""
    options = {
        "regularizer": ("mixup", text, "clip-grad:max_norm=0.5", "ema", "dropout:p=0.3"),
        "freeze_epochs": 1, "unfreeze": "blocks:1",
    }  # fmt: skip

    def tell(event: str, values: dict[str, Any]) -> None:
        if event == "step":
            made.append(values)
            if len(made) == 4:  # of 6
                os.kill(os.getpid(), signal.SIGINT)

    made: list[dict[str, Any]] = []
    train(tmp_path, "whole", **options)
    with pytest.raises(StoppedError):
        train(tmp_path, "cut", tell=tell, **options)
    train(tmp_path, "cut", resume=True, **options)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


#: a network without batch normalization, whose statistics would be of each piece's own images
PLAIN = {
    "data": SAMPLE, "backbone": "alexnet", "weights": "none", "head_hidden": "16",
    "head_dropout": 0.0, "img_size": 64, "limit": 47, "batch_size": 10, "epochs": 2, "lr": 0.01,
    "opt": "sgd", "augment": "none", "workers": 0, "device": "cpu", "clip_grad": 1.0,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text", ["sam:rho=0.2", "asam"])
def test_pieces_and_processes_are_one(text: str, tmp_path: Path) -> None:
    """The radius is that of the whole batch, in micro-batches and in two processes (gloo)."""
    options = {**PLAIN, "output": tmp_path}
    api.train(name="one", regularizer=(text,), **options)
    api.train(name="none", **options)
    api.train(name="pieces", micro_batch=4, regularizer=(text,), **options)
    values = {**PLAIN, "output": tmp_path, "name": "two", "regularizer": text}
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in values.items()]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "fashionbatch", "train", "--json", *flags],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1])["epochs"] == 2
    one = weights(tmp_path / "one")
    for other in ("pieces", "two"):
        found = weights(tmp_path / other)
        assert all(torch.allclose(one[k], found[k], atol=1e-5) for k in one), other
    none = weights(tmp_path / "none")
    assert not all(torch.allclose(one[k], none[k], atol=1e-5) for k in one)
