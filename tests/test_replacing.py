"""What is replaced stays until the new one is known to work; what is not ours is never replaced."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import fashionbatch
from fashionbatch.builtin.engines import Eager
from fashionbatch.errors import ModelError, OutputExistsError, UsageError

SAMPLE = Path(__file__).parents[1] / "shards" / "fashion-mnist"
SMALL: dict[str, Any] = {
    "data": SAMPLE,
    "backbone": "small-resnet",
    "weights": "none",
    "limit": 32,
    "epochs": 1,
    "workers": 0,
    "device": "cpu",
    "name": "run",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs land in the test's folder."""
    monkeypatch.chdir(tmp_path)


def photos(folder: Path, count: int = 3) -> Path:
    """Noisy PNG files."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (28, 28, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (folder / f"{number}.png").write_bytes(file.getvalue())
    return folder


def test_failed_training_leaves_the_run_that_it_would_have_replaced() -> None:
    """--exist-ok with options that cannot work keeps the old model."""
    fashionbatch.train(**SMALL)
    before = Path("runs/run/model.safetensors").read_bytes()
    with pytest.raises(UsageError):
        fashionbatch.train(**SMALL, exist_ok=True, sched="step:foo=1")
    assert Path("runs/run/model.safetensors").read_bytes() == before
    assert [p.name for p in Path("runs").iterdir()] == ["run"]
    fashionbatch.train(**{**SMALL, "seed": 1}, exist_ok=True)
    assert Path("runs/run/model.safetensors").read_bytes() != before
    assert [p.name for p in Path("runs").iterdir()] == ["run"]


def test_a_folder_that_is_no_run_is_never_replaced() -> None:
    """Somebody's project has a config.toml too."""
    Path("runs/run").mkdir(parents=True)
    Path("runs/run/config.toml").write_text("[tool]\n")
    Path("runs/run/thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match="something else"):
        fashionbatch.train(**SMALL, exist_ok=True)
    assert Path("runs/run/thesis.tex").exists()


def test_resume_refuses_other_data_behind_the_same_path() -> None:
    """A data set packed again under its name may have other classes."""
    for label in ("dress", "hat"):
        photos(Path("source") / label, 20)
    fashionbatch.shard("source", output="shards/own")
    options = {**SMALL, "data": Path("shards/own")}
    fashionbatch.train(**options)
    Path("source/hat").rename("source/shoes")
    fashionbatch.shard("source", output="shards/own", exist_ok=True)
    with pytest.raises(UsageError, match="other data"):
        fashionbatch.train(**{**options, "epochs": 2}, resume=True)


def test_predictions_below_the_catalogue_are_not_part_of_it() -> None:
    """The same command again says that all is done, though its output lies in the input."""
    fashionbatch.train(**SMALL)
    folder = photos(Path("catalog"))
    output = folder / "out.h5"
    first = fashionbatch.predict(folder, output=output, workers=1)
    events: list[str] = []
    again = fashionbatch.predict(
        folder, output=output, workers=1, tell=lambda event, values: events.append(event)
    )
    assert (first["items"], again["items"]) == (3, 3)
    assert "complete" in events


def _fails(engine: Eager, images: Tensor) -> tuple[Tensor, ...]:
    raise MemoryError


def test_restart_keeps_the_old_file_until_the_new_one_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prediction that fails half-way loses nothing that was there; other files are refused."""
    fashionbatch.train(**SMALL)
    folder = photos(Path("catalog"))
    fashionbatch.predict(folder, output="out.h5", workers=1)
    before = Path("out.h5").read_bytes()
    monkeypatch.setattr(Eager, "run", _fails)
    with pytest.raises(ModelError):
        fashionbatch.predict(folder, output="out.h5", workers=1, restart=True)
    assert Path("out.h5").read_bytes() == before
    assert not Path("out.h5.parts").exists()
    Path("notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="no HDF5"):
        fashionbatch.predict(folder, output="notes.txt", workers=1, restart=True)
    assert Path("notes.txt").read_text() == "mine"
