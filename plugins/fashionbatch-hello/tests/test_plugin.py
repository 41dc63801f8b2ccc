"""Every component, used by the commands that users type."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fashionbatch
import numpy as np
import pytest
import safetensors.torch
import torch
from fashionbatch import hookspecs, registry
from fashionbatch.cli import app
from fashionbatch.errors import UsageError
from PIL import Image

from fashionbatch_hello import plugin

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("train", ...)`` → what the command tells, as JSON."""

    def call(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app.main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, err
        return json.loads(out)

    return call


def catalogue(folder: Path) -> Path:
    """Bright and dark photographs, and a list of them with a line that is none."""
    lines = []
    draw = np.random.default_rng(0)
    for number in range(40):
        label = ("dark", "bright")[number % 2]
        low = 150 * (number % 2)
        pixels = draw.integers(low, low + 100, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{label} {number}.png")
    path = folder / "catalogue.hello"
    path.write_text("\n".join([*lines, "nothing"]) + "\n")
    return path


def test_from_a_catalogue_to_pictures(run: Run, tmp_path: Path) -> None:
    """A list is packed, a network learns it, predicts it and is explained."""
    packed = run("shard", catalogue(tmp_path), "-o", tmp_path / "set", code=3)
    assert packed["items"] == 40
    assert packed["failed"] == 1
    trained = run(
        "train", "--data", tmp_path / "set", "--backbone", "hello-net", "--weights", "none",
        "--opt", "hello-signs", "--lr", 0.01, "--sched", "hello-halves",
        "--regularizer", "hello-noise:spread=2", "--logger", "hello-lines", "--augment", "none",
        "--epochs", 6, "--batch-size", 8, "--workers", 0, "--device", "cpu",
        "-o", tmp_path / "runs", "--name", "run",
    )  # fmt: skip
    folder = tmp_path / "runs" / "run"
    assert trained["val"]["top1"] == 1
    lines = (folder / "hello.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"epoch {n}" for n in range(1, 7)]
    rates = [row.split(",")[1] for row in (folder / "history.csv").read_text().splitlines()[1:]]
    assert rates == ["0.01"] * 3 + ["0.005"] * 3
    assert "backbone.second.0.weight" in safetensors.torch.load_file(folder / "model.safetensors")
    for engine in ("hello-engine", "eager"):
        run(
            "predict", tmp_path / "set", "--model", folder, "--engine", engine, "--workers", 1,
            "--device", "cpu", "-o", tmp_path / f"{engine}.h5",
        )  # fmt: skip
    with (
        fashionbatch.open_predictions(tmp_path / "hello-engine.h5") as ours,
        fashionbatch.open_predictions(tmp_path / "eager.h5") as known,
    ):
        assert len(ours) == len(known) == 40
        assert ours.names == known.names
        assert np.array_equal(ours.topk_index[:], known.topk_index[:])
        assert np.allclose(ours.topk_probability[:], known.topk_probability[:], atol=1e-6)
    told = run(
        "explain", "hello-negative", tmp_path / "0.png", "--model", folder, "--device", "cpu",
        "-o", tmp_path / "why",
    )  # fmt: skip
    assert told["pictures"] == 1
    (picture,) = (tmp_path / "why").iterdir()
    with Image.open(picture) as negative, Image.open(tmp_path / "0.png") as photo:
        assert negative.text["Answer"] == "dark"  # type: ignore[attr-defined]
        assert np.array_equal(255 - np.asarray(negative), np.asarray(photo))


def test_noise_and_steps() -> None:
    """What the trained model does not show: the noise is of its size, steps are signs."""
    noise = registry.create(registry.find("regularizer", "hello-noise"), spread=3.0)
    images = torch.full((8, 3, 28, 28), 100, dtype=torch.uint8)
    targets = fashionbatch.Targets(category=torch.zeros(8, dtype=torch.int64))
    noisy, same = noise.on_batch(images, targets)
    assert same is targets
    assert (noisy - 100).std().item() == pytest.approx(3, rel=0.05)
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([5.0, -0.1, 0.0])
    registry.create(registry.find("optimizer", "hello-signs"), [weight], lr=0.1).step()
    assert weight.tolist() == pytest.approx([-0.1, 0.1, 0.0])


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UsageError, match="spread is at least 0"):
        registry.create(registry.find("regularizer", "hello-noise"), spread=-1)
    job = fashionbatch.EngineJob(
        module=torch.nn.Identity(), shape=(1, 3, 8, 8), device=torch.device("cpu"),
        precision="bfloat16",
    )  # fmt: skip
    with pytest.raises(ValueError, match="float32 only"):
        registry.create(registry.find("engine", "hello-engine"), job)


def test_offers_one_of_each_kind_without_heavy_imports() -> None:
    """Every hook that there is; listing them imports no component."""
    hooks = {n for n in vars(hookspecs) if n.startswith("fashionbatch_")}
    assert hooks == {n for n in vars(plugin) if n.startswith("fashionbatch_")}
    code = (
        "import sys\n"
        "from fashionbatch_hello import plugin\n"
        "for name in dir(plugin):\n"
        "    if name.startswith('fashionbatch_'):\n"
        "        print(*(spec.name for spec in getattr(plugin, name)()))\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == [
        "hello-engine", "hello-halves", "hello-lines", "hello-list", "hello-negative", "hello-net",
        "hello-noise", "hello-signs",
    ]  # fmt: skip
