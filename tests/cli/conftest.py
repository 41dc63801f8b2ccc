"""Runs the command in this process, in an empty folder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from fashionbatch import api
from fashionbatch.cli import app

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


class Result(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """``cli("train", "--epochs", 1)`` in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app.main([str(a) for a in arguments])
        code = end.value.code
        return Result(0 if code is None else int(code), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model trained on the sample."""
    folder = tmp_path_factory.mktemp("runs")
    api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", limit=32, epochs=1, workers=0,
        device="cpu", output=folder, name="run", batch_size=16,
    )  # fmt: skip
    return folder / "run"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders ``photos/ant`` and ``photos/bee`` of ten small PNG files each."""
    for label in ("ant", "bee"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(10):
            data = io.BytesIO()
            Image.new("RGB", (12, 9), (i, 5 * i, 99)).save(data, "PNG")
            (tmp_path / "photos" / label / f"{i}.png").write_bytes(data.getvalue())
    return tmp_path / "photos"
