"""Whole trainings on photographs with landmarks, by the commands that users type."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fashionbatch
import numpy as np
import pytest
import safetensors.torch
import torch
from fashionbatch import api
from fashionbatch.cli import app
from fashionbatch.errors import StoppedError
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).parents[3]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DeepFashion: a white square at each of the landmarks, of which most are visible."""
    path = ROOT / "tests" / "sources" / "deepfashion_tree.py"
    found = importlib.util.spec_from_file_location("deepfashion_tree", path)
    assert found is not None
    assert found.loader is not None
    tree = importlib.util.module_from_spec(found)
    sys.modules[found.name] = tree  # its data classes look themselves up there
    found.loader.exec_module(tree)
    random = np.random.default_rng(0)
    shown = []
    for number, image in enumerate(tree.images(1, width=4)[:30]):
        label = (1, 2)[number % 2]  # two upper ones
        marks = random.integers(4, 44, (6, 2)).tolist()
        landmarks = tuple((int(i == 5), x, y) for i, (x, y) in enumerate(marks))
        split = ("train", "train", "val")[number // 2 % 3]
        shown.append(dataclasses.replace(image, label=label, split=split, landmarks=landmarks))

    def photo(number: int, size: tuple[int, int]) -> bytes:
        pixels = random.integers(0, 90 + 60 * (number % 2), (64, 48, 3), np.uint8)
        for _, x, y in shown[number].landmarks:
            pixels[y - 3 : y + 4, x - 3 : x + 4] = 255
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        return file.getvalue()

    folder = tmp_path_factory.mktemp("deepfashion")
    tree.write_tree(folder / "catalog", photo=photo, shown=shown)
    api.shard(folder / "catalog", output=folder / "shards")
    return folder / "shards"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("train", ...)`` → what the command tells, as JSON; of a failed one its error."""

    def call(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app.main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, err
        return err if code else json.loads(out)

    return call


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell has started the tests in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def options(shards: Path, folder: Path, backbone: str = "attention-small-resnet") -> list[object]:
    return [
        "train", "--data", shards, "--output", folder, "--backbone", backbone, "--weights", "none",
        "--epochs", 2, "--batch-size", 10, "--workers", 0, "--device", "cpu", "--lr", 0.01,
    ]  # fmt: skip


def weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_from_landmarks_to_pictures(shards: Path, run: Run, tmp_path: Path) -> None:
    """With random views: trained otherwise than without landmarks, and explained."""
    begun = options(shards, tmp_path)
    landmarks = ("--regularizer", "landmark-attention:weight=1,spread=0.05")
    run(*begun, "--name", "with", *landmarks)
    run(*begun, "--name", "without")
    name = "backbone.attention.score.weight"
    one, other = (weights(tmp_path / n)[name] for n in ("with", "without"))
    assert one.any()
    assert not torch.equal(one, other)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 60), "red").save(photo)
    drawn = run("explain", "attention:head=4", photo, "--model", tmp_path / "with", "-o", tmp_path)
    [(name, about)] = drawn["about"].items()
    assert 0 < float(about["Evenness"]) <= 1
    assert Image.open(tmp_path / name).width >= 40
    wrong = ("explain", "attention:head=5", photo, "--model", tmp_path / "with", "-o", tmp_path)
    assert "head is from 1 to 4, not 5" in run(*wrong, code=2)


def test_networks_without_attention_are_refused(shards: Path, run: Run, tmp_path: Path) -> None:
    plain = options(shards, tmp_path, "small-resnet")
    told = run(*plain, "--regularizer", "landmark-attention", code=2)
    assert "pools without attention: use a backbone attention-NAME" in told
    run(*plain, "--name", "plain", "--epochs", 1)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 60), "red").save(photo)
    drawn = run("explain", "attention", photo, "--model", tmp_path / "plain", code=2)
    assert "pools without attention" in drawn
    mixed = ("--regularizer", "landmark-attention", "--regularizer", "mixup")
    told = run(*options(shards, tmp_path), *mixed, code=2)
    assert "leave mixup and cutmix out" in told


def test_goes_on_exactly(shards: Path, tmp_path: Path) -> None:
    """Stopped in the second epoch, with the base frozen in the first, views, pieces of a step."""

    def train(name: str, **more: Any) -> dict[str, Any]:
        return api.train(
            data=shards, output=tmp_path, backbone="attention-small-resnet", weights="none",
            epochs=2, batch_size=5, micro_batch=3, workers=0, device="cpu", freeze_epochs=1,
            unfreeze="blocks:2", regularizer=("landmark-attention:weight=1",), name=name, **more,
        )  # fmt: skip

    def tell(event: str, values: dict[str, Any]) -> None:
        if event == "step":
            made.append(values)
            if len(made) == 6:  # of 8
                os.kill(os.getpid(), signal.SIGINT)

    made: list[dict[str, Any]] = []
    train("whole")
    with pytest.raises(StoppedError):
        train("cut", tell=tell)
    train("cut", resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert whole["backbone.attention.score.weight"].any()


def test_trains_behind_a_frozen_base(shards: Path, tmp_path: Path) -> None:
    """``--prefix-cache``: the map is computed once, attention and head are trained on it."""
    api.train(
        data=shards, output=tmp_path, backbone="attention-small-resnet", weights="none", epochs=1,
        batch_size=10, workers=0, device="cpu", unfreeze="blocks:1", prefix_cache=True,
        augment="none", freeze_epochs=0, regularizer=("landmark-attention:weight=1",), name="run",
    )  # fmt: skip
    found = weights(tmp_path / "run")
    assert found["backbone.attention.score.weight"].any()


@pytest.mark.slow
def test_engines_answer_alike(shards: Path, run: Run, tmp_path: Path) -> None:
    run(*options(shards, tmp_path), "--name", "with", "--regularizer", "landmark-attention")
    found = {}
    for engine in ("eager", "onnxruntime"):
        file = tmp_path / f"{engine}.h5"
        told = run("predict", shards, "--model", tmp_path / "with", "-o", file, "--engine", engine)
        assert told["predicted"] == 30
        with fashionbatch.open_predictions(file) as predictions:
            found[engine] = predictions.features()[:]
    assert np.abs(found["eager"]).max() > 0.1
    assert np.allclose(found["eager"], found["onnxruntime"], atol=1e-3)


@pytest.mark.slow
def test_compiled_training_is_the_same(shards: Path, tmp_path: Path) -> None:
    """``--compile`` leaves the scores within the regularizer's reach."""
    for name in ("plain", "compiled"):
        api.train(
            data=shards, output=tmp_path, backbone="attention-small-resnet", weights="none",
            epochs=1, batch_size=10, workers=0, device="cpu", augment="none", name=name,
            regularizer=("landmark-attention:weight=1",), compile=name == "compiled",
            opt="sgd", lr=0.01,  # Adam's first steps have the gradient's sign, however small it is
        )  # fmt: skip
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain["backbone.attention.score.weight"].any()
    assert all(torch.allclose(plain[k].float(), compiled[k].float(), atol=1e-5) for k in plain)
