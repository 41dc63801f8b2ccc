"""Every component, used by the commands that users type."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import fashionbatch
import numpy as np
import pytest
import safetensors.torch
import torch
from fashionbatch.testing.fixtures import Cli, Photograph, Train
from PIL import Image

from fashionbatch_hello import components


def history(run: Path) -> list[dict[str, str]]:
    """A row for each epoch."""
    with (run / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_nothing_is_wrong(cli: Cli) -> None:
    """The package is installed, and each factory can be imported."""
    told = cli("plugins", "check", "hello", "--json").json
    assert told["components"] > 0
    assert told["problems"] == []


def test_hooks_import_nothing_heavy() -> None:
    """fashionbatch calls them at every start."""
    code = (
        "import sys\n"
        "from fashionbatch_hello import plugin\n"
        "for name in dir(plugin):\n"
        "    if name.startswith('fashionbatch_'):\n"
        "        list(getattr(plugin, name)())\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_backbone_is_trained(train: Train) -> None:
    """The run's weights are those of its modules."""
    run = train("--backbone", "hello-net", "--weights", "none")
    weights = safetensors.torch.load_file(run / "model.safetensors")
    assert "backbone.second.0.weight" in weights


def test_optimizer_steps_by_signs() -> None:
    """Up or down by the rate; what has no gradient stays."""
    weight, other = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    weight.grad = torch.tensor([5.0, -0.1, 0.0])
    components.HelloSigns([weight, other], lr=0.1).step()
    assert weight.tolist() == pytest.approx([-0.1, 0.1, 0.0])
    assert other.tolist() == [0, 0, 0]


def test_optimizer_learns(train: Train) -> None:
    rows = history(train("--opt", "hello-signs", "--lr", 0.003, "--epochs", 3))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_regularizer_adds_noise_of_its_spread() -> None:
    images = torch.full((8, 3, 28, 28), 100, dtype=torch.uint8)
    targets = fashionbatch.Targets(category=torch.zeros(8, dtype=torch.int64))
    noisy, same = components.HelloNoise(spread=3.0).on_batch(images, targets)
    assert same is targets
    assert (noisy - 100).std().item() == pytest.approx(3, rel=0.05)


def test_regularizer_changes_what_is_learnt(train: Train) -> None:
    """The same training with noise and without any."""
    losses = [
        history(train("--regularizer", f"hello-noise:spread={spread}"))[0]["train_loss"]
        for spread in (0, 9)
    ]
    assert losses[0] != losses[1]


def test_regularizer_says_what_it_cannot_do(cli: Cli, packed: Path) -> None:
    options = ["--backbone", "small-resnet", "--weights", "none", "--data", packed]
    told = cli("train", *options, "--regularizer", "hello-noise:spread=-1", code=2)
    assert "spread is at least 0" in told.err


def test_schedule_halves_the_rate(train: Train) -> None:
    rows = history(train("--sched", "hello-halves", "--lr", 0.01, "--epochs", 2))
    assert [float(row["lr"]) for row in rows] == [0.01, 0.005]


def test_logger_writes_a_line_for_each_epoch(train: Train) -> None:
    run = train("--logger", "hello-lines", "--epochs", 2)
    lines = (run / "hello.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1", "epoch 2"]


def test_visualizer_draws_the_negative(cli: Cli, trained: Path, catalogue: Path) -> None:
    photo = catalogue / "dark" / "0.jpg"
    options = ["--model", trained, "--device", "cpu", "-o", "why"]
    cli("explain", "hello-negative", photo, *options)
    (picture,) = Path("why").iterdir()
    with Image.open(picture) as negative, Image.open(photo) as given:
        assert negative.text["Answer"] in ("bright", "dark", "grey")  # type: ignore[attr-defined]
        assert np.array_equal(255 - np.asarray(negative), np.asarray(given))


def test_source_is_packed(cli: Cli, photograph: Photograph) -> None:
    """Its items are, and what is none is counted as failed."""
    for number in range(4):
        Path(f"{number}.jpg").write_bytes(photograph(number))
    lines = ["dress 0.jpg", "hat 1.jpg", "dress 2.jpg", "hat 3.jpg", "nothing"]
    Path("catalogue.hello").write_text("\n".join(lines))
    arguments = ["catalogue.hello", "--split", "train=1", "-o", "set", "--json"]
    told = cli("shard", *arguments, code=3).json
    assert (told["items"], told["failed"]) == (4, 1)
    assert fashionbatch.open_shards("set").classes == ("dress", "hat")


def test_engine_gives_the_answers_of_another(cli: Cli, trained: Path, packed: Path) -> None:
    found = {}
    for engine in ("hello-engine", "eager"):
        options = ["--engine", engine, "--workers", 1, "--device", "cpu", "-o", f"{engine}.h5"]
        cli("predict", packed, "--model", trained, *options)
        with fashionbatch.open_predictions(f"{engine}.h5") as rows:
            found[engine] = rows.topk_index[:], rows.topk_probability[:]
    ours, known = found.values()
    assert np.array_equal(ours[0], known[0])
    assert np.allclose(ours[1], known[1], atol=1e-6)


def test_engine_says_what_it_cannot_do() -> None:
    job = fashionbatch.EngineJob(
        module=torch.nn.Identity(), shape=(1, 3, 8, 8), device=torch.device("cpu"),
        precision="bfloat16",
    )  # fmt: skip
    with pytest.raises(ValueError, match="float32 only"):
        components.HelloEngine(job)


def test_executor_makes_the_same_file(cli: Cli, trained: Path, packed: Path) -> None:
    for executor in ("hello-alone", "local"):
        options = ["--executor", executor, "--engine", "eager", "--workers", 1, "--device", "cpu"]
        cli("predict", packed, "--model", trained, *options, "-o", f"{executor}.h5")
    assert Path("hello-alone.h5").read_bytes() == Path("local.h5").read_bytes()
