"""TensorBoard's event files, read back with its own reader."""

from __future__ import annotations

import builtins
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashionbatch import registry
from fashionbatch.errors import PluginError
from fashionbatch.training.curves import save_curves

MODULE = "fashionbatch.builtin.tensorboard"
ROWS = [
    {
        "epoch": n, "lr": 0.1 / n, "train_loss": 1 / n, "train_top1": 0.2 * n,
        "val_loss": 2 / n, "val_top1": 0.1 * n, "seconds": 1.5, "note": "not a number",
    }
    for n in (1, 2, 3)
]  # fmt: skip


def logger(folder: Path) -> Any:
    return registry.create(registry.find("logger", "tensorboard"), folder)


def read(folder: Path) -> Any:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulators.EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(events: Any) -> dict[str, dict[int, float]]:
    return {
        tag: {e.step: pytest.approx(e.value, rel=1e-6) for e in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def test_training_and_validation_share_their_plots(tmp_path: Path) -> None:
    """Two runs with the same tags; steps, texts and the curves come back as they were given."""
    pytest.importorskip("tensorboard")
    made = logger(tmp_path)
    made.start({"backbone": "größe", "lr": 0.1}, {"classes": 10})
    for step in (1, 2):
        made.step(step, {"loss": 3.0 / step, "lr": 0.25 / step})
    for row in ROWS[:2]:
        made.epoch(row)
    # what is told is on the disk at once: a run that is killed has it
    assert scalars(read(tmp_path / "tensorboard" / "val"))["epoch/loss"] == {1: 2, 2: 1}
    made.epoch(ROWS[2])
    save_curves(tmp_path / "curves.png", ROWS, "a run")
    made.figure("curves", tmp_path / "curves.png")
    made.close()
    train, val = (read(tmp_path / "tensorboard" / split) for split in ("train", "val"))
    assert scalars(val) == {
        "epoch/loss": {1: 2, 2: 1, 3: 2 / 3},
        "epoch/top1": {1: 0.1, 2: 0.2, 3: 0.3},
    }
    assert scalars(train) == {
        "epoch/loss": {1: 1, 2: 1 / 2, 3: 1 / 3},
        "epoch/top1": {1: 0.2, 2: 0.4, 3: 0.6},
        "epoch/lr": {1: 0.1, 2: 0.05, 3: 0.1 / 3},
        "epoch/seconds": {1: 1.5, 2: 1.5, 3: 1.5},
        "step/loss": {1: 3, 2: 1.5},
        "step/lr": {1: 0.25, 2: 0.125},
    }
    texts = {
        tag: train.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in train.Tags()["tensors"]
    }
    assert '"backbone": "größe"' in texts["config/text_summary"]
    assert '"classes": 10' in texts["plan/text_summary"]
    (picture,) = train.Images("curves")
    found, given = Image.open(io.BytesIO(picture.encoded_image_string)), tmp_path / "curves.png"
    with Image.open(given) as expected:
        assert np.array_equal(np.asarray(found), np.asarray(expected.convert("RGB")))
    assert picture.step == 3


def test_resumed_run_goes_on_in_its_plots(tmp_path: Path) -> None:
    """A logger made anew adds to what is there."""
    pytest.importorskip("tensorboard")
    for row in ROWS:
        made = logger(tmp_path)
        made.epoch(row)
        made.close()
    assert scalars(read(tmp_path / "tensorboard" / "val"))["epoch/loss"] == {1: 2, 2: 1, 3: 2 / 3}


@pytest.fixture
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``import tensorboard`` fails as where it is not installed."""
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "tensorboard":
            raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")
        return original(name, *arguments, **options)

    imported = ("tensorboard", "torch.utils.tensorboard", MODULE)
    for name in [n for n in sys.modules if n.startswith(imported)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    yield
    sys.modules.pop(MODULE, None)


@pytest.mark.usefixtures("without_tensorboard")
def test_missing_package_says_what_to_install(tmp_path: Path) -> None:
    """One line with the command; nothing is written."""
    with pytest.raises(PluginError, match=r"pip install 'fashionbatch\[tensorboard\]'") as error:
        logger(tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ImportError):
        importlib.import_module(MODULE)
