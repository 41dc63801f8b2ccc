"""Two processes train what one would: real ones, started by torch's launcher, over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fashionbatch import api
from fashionbatch.errors import UsageError
from fashionbatch.shards.read import open_shards
from fashionbatch.training.distributed import group
from tests.training.runs import SAMPLE, history, weights

#: a network without batch normalization, whose statistics are each process's own on a CPU
OPTIONS = {
    "data": str(SAMPLE), "backbone": "alexnet", "weights": "none", "head_hidden": "16",
    "head_dropout": 0.0, "img_size": 64, "limit": 47, "batch_size": 10, "epochs": 2, "lr": 0.01,
    "opt": "sgd", "augment": "none", "workers": 0, "device": "cpu", "clip_grad": 1.0,
}  # fmt: skip
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def command(folder: Path, name: str, **options: object) -> list[str]:
    values = {**OPTIONS, **options, "output": folder, "name": name}
    flags = [f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}") for k, v in values.items()]
    return [*LAUNCH, "-m", "fashionbatch", "train", "--json", *flags]


def launched(*arguments: str | list[str], **options: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        *arguments, capture_output=True, text=True, check=False, timeout=200, env=env, **options
    )


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """Weights, losses and validation (47 images, an odd number) of the same global batches."""
    done = launched(command(tmp_path, "two"))
    assert done.returncode == 0, done.stderr
    alone = api.train(**{**OPTIONS, "output": tmp_path, "name": "one"})
    (line,) = done.stdout.strip().splitlines()  # the first process speaks, and it alone
    together = json.loads(line)
    for split in ("val", "test"):
        assert together[split] == pytest.approx(alone[split], abs=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
    for a, b in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        for key in ("train_loss", "val_loss", "train_top1", "val_top1"):
            assert float(a[key]) == pytest.approx(float(b[key]), abs=1e-4)


@pytest.mark.slow
def test_fault_24_fewer_shards_than_processes(tmp_path: Path) -> None:
    """OK: one shard, two processes; every image is trained on once in an epoch."""
    source = tmp_path / "photos"
    sample = open_shards(SAMPLE)
    for split in ("train", "val"):
        for row in sample.select(split)[:24].tolist():
            name = source / split / sample.classes[int(sample.labels[row])] / f"{row}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(sample.read(row))
    made = api.shard(source, output=tmp_path / "set", allow_missing_classes=True)
    assert made["shards"] == 2  # one of each split
    done = launched(command(tmp_path, "two", data=tmp_path / "set", epochs=1))
    assert done.returncode == 0, done.stderr
    api.train(**{
        **OPTIONS, "data": tmp_path / "set", "epochs": 1, "output": tmp_path, "name": "one",
    })  # fmt: skip
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


#: a network whose forward pass waits for the other process, as SyncBatchNorm's does on GPUs
UNEVEN = """
import torch
import torch.distributed as dist
from torch import nn
from fashionbatch.models.build import Classifier, Head
from fashionbatch.specs import HeadSpec, Preprocessing
from fashionbatch.training.distributed import Group, group as joined
from fashionbatch.training.step import Forward, Stepper
from fashionbatch.training.targets import Loss, Targets
from fashionbatch.training.task import TrainingBatch

class Meeting(nn.Module):
    def forward(self, values):
        if group.world > 1 and self.training:
            dist.all_reduce(torch.ones(3))
        return values

def weights():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), Meeting())
    model = Classifier(base, Head(6, 3, HeadSpec()), Preprocessing(size=2, resize=2)).train()
    task = type("Plain", (), {"forward": staticmethod(lambda inputs: model(inputs[0]))})()
    stepper = Stepper(
        model=model, forward=Forward(model, task), loss=Loss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1), regularizers=(),
        device=torch.device("cpu"), group=group, bfloat16=False, micro_batch=3,
    )
    draw = torch.Generator().manual_seed(1)
    for count in (7, 1, 9, 6):  # shares of 4 and 3, of 1 and 0, of 5 and 4, of 3 and 3
        pixels = torch.rand(count, 3, 2, 2, generator=draw) * 255
        category = torch.arange(count) % 3
        mine = slice(group.rank, None, group.world)
        batch = TrainingBatch((pixels[mine],), Targets(category=category[mine]), ())
        stepper.step(batch, torch.zeros(1))
    return list(model.parameters())

group = Group()
alone = weights()
with joined("cpu") as group:
    assert group.world == 2
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(alone, weights()))
"""


@pytest.mark.slow
def test_uneven_shares_in_pieces(tmp_path: Path) -> None:
    """Every process works off a step in as many pieces: nobody waits for a piece that is none."""
    (tmp_path / "uneven.py").write_text(UNEVEN)
    done = launched([*LAUNCH, str(tmp_path / "uneven.py")])
    assert done.returncode == 0, done.stderr


def test_one_gpu_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes its own: a number would give all of them the same one."""
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("TORCHELASTIC_RUN_ID", "1")):
        monkeypatch.setenv(name, value)
    refused = pytest.raises(UsageError, match="2 processes take a GPU each: write --device cuda$")
    with refused, group("cuda:1"):
        pass


@pytest.mark.slow
def test_killed_process_ends_the_others(tmp_path: Path) -> None:
    """kill -9 of one of them: the job ends, a line says why, and --resume goes on."""
    long = {"epochs": 4, "limit": 200, "batch_size": 4, "checkpoint_minutes": 1e-9}
    process = subprocess.Popen(
        command(tmp_path, "cut", **long), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 120
    while not list(tmp_path.glob("cut/checkpoints/epoch-*")) and time.monotonic() < until:
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "another process of this training was lost" in said, said
    done = launched(command(tmp_path, "cut", **long, resume=True))
    assert done.returncode == 0, done.stderr
    done = launched(command(tmp_path, "whole", **{**long, "checkpoint_minutes": 0}))
    assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_what_cannot_be_is_said_once(tmp_path: Path) -> None:
    """A user's error in two processes: its line, and no traceback but the launcher's own."""
    done = launched(command(tmp_path, "two", classes="nothing"))
    assert done.returncode != 0
    assert "no class" in done.stderr
    assert "fashionbatch/api/" not in done.stderr
