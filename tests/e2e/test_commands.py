"""The three commands of the README in real processes, from photographs to a file."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

CLASSES = ("dress", "hat", "shoes")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fashionbatch", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={k: v for k, v in os.environ.items() if not k.startswith("FASHIONBATCH")},
        check=False,
    )


def the_json(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one line on standard output."""
    lines = result.stdout.splitlines()
    assert len(lines) == 1, result.stdout + result.stderr
    value: dict[str, Any] = json.loads(lines[0])
    return value


def photograph(label: int, number: int) -> bytes:
    """A noisy JPEG whose hue tells its class."""
    random = np.random.default_rng([label, number])
    pixels = random.integers(0, 80, (48, 36, 3), dtype=np.uint8)
    pixels[..., label] += 150
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders of 20 photographs each."""
    for label, name in enumerate(CLASSES):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(20):
            (folder / f"SKU-{number}.5kg.jpg").write_bytes(photograph(label, number))
    return tmp_path / "photos"


def test_shard_train_predict_as_on_the_card(photos: Path, tmp_path: Path) -> None:
    """The three commands, each finding what the one before it made; exact keys of their JSON."""
    sharded = the_json(run("shard", "photos", "--json", cwd=tmp_path))
    assert sharded == {"output": "shards/photos", "items": 60, "shards": 3, "failed": 0}
    command = "train --backbone small-resnet --weights none --epochs 3 --batch-size 16 --json"
    trained = the_json(run(*command.split(), cwd=tmp_path))
    assert set(trained) == {"run", "epochs", "best_epoch", "val", "test", "trainable_parameters"}
    assert set(trained["val"]) == set(trained["test"]) == {"loss", "top1", "top3"}

    catalog = tmp_path / "catalog"
    (catalog / "hat").mkdir(parents=True)
    wanted = {}
    for number in range(5):
        (catalog / "hat" / f"{number}.jpg").write_bytes(photograph(1, 100 + number))
        wanted[f"hat/{number}.jpg"] = "hat"
    good = photograph(2, 0)
    (catalog / "hat" / "half.jpg").write_bytes(good[: len(good) // 2])
    (catalog / "page.jpg").write_bytes(b"<html>404</html>")
    result = run("predict", "catalog/", "--json", cwd=tmp_path)
    assert result.returncode == 3
    predicted = the_json(result)
    assert set(predicted) == {
        "output", "items", "predicted", "failed", "seconds", "images_per_second", "engine", "model",
    }  # fmt: skip
    assert (predicted["items"], predicted["predicted"], predicted["failed"]) == (7, 5, 2)
    assert predicted["model"] == trained["run"]
    with h5py.File(tmp_path / predicted["output"]) as file:
        names = file["items/name"].asstr()[()].tolist()
        classes = file["classes/name"].asstr()[()].tolist()
        assert sorted(names) == sorted(wanted)
        assert [classes[i] for i in file["items/label"]] == ["hat"] * 5
        assert file["features/pooled"].shape == (5, 128)
        assert sorted(file["failures/name"].asstr()[()]) == ["hat/half.jpg", "page.jpg"]
        assert set(file["failures/stage"].asstr()[()]) == {"decode"}
    again = run("predict", "catalog/", "--json", cwd=tmp_path)
    assert again.returncode == 3
    assert "complete already" in again.stderr


@pytest.mark.slow
def test_users_own_data_goes_before_the_sample(photos: Path, tmp_path: Path) -> None:
    """In a clone, shards/ holds the sample too: after `shard`, `train` means the user's own."""
    sample = Path(__file__).parents[2] / "shards" / "fashion-mnist"
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "fashion-mnist").symlink_to(sample)
    command = "train --backbone small-resnet --weights none --dry-run --json"
    before = the_json(run(*command.split(), cwd=tmp_path))
    assert before["plan"]["data"] == "shards/fashion-mnist"
    run("shard", "photos", cwd=tmp_path)
    after = the_json(run(*command.split(), cwd=tmp_path))
    assert after["plan"]["data"] == "shards/photos"
    assert not (tmp_path / "runs").exists()


def test_help_never_imports_torch() -> None:
    """Start-up: the help of the command imports none of the heavy packages."""
    code = (
        "import sys\nfrom fashionbatch.cli.app import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'torchvision', 'h5py', 'numpy', 'matplotlib', 'webdataset')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow(seconds=150)
def test_demo_reaches_its_accuracy(tmp_path: Path) -> None:
    """`demo` trains on the committed sample, predicts, draws; test accuracy is at least 0.85."""
    result = run("demo", "-o", "here", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    told = the_json(result)
    assert told["test"]["top1"] >= 0.85
    assert told["predicted"] == 1000
    assert told["failed"] == 0
    made = tmp_path / "here"
    for name in ("run/model.safetensors", "run/curves.png", "predictions.h5"):
        assert (made / name).stat().st_size > 0
    assert len(list((made / "grad-cam").glob("*.png"))) == 6
