"""Pytest fixtures for a plugin's tests: photographs, a data set, a finished run, the command line.

In the ``conftest.py`` beside the tests::

    from fashionbatch.testing.fixtures import *  # noqa: F403

It is the one module of fashionbatch that imports pytest. Everything is small, the same each time,
and kept out of the user's own folders.

==============  =======  =========================================================================
fixture         scope    gives
==============  =======  =========================================================================
``photograph``  session  ``photograph(seed, size, kind)``: an image file's bytes
``catalogue``   session  a folder of class folders, 12 photographs in each of :data:`CLASSES`
``packed``      session  the same as a data set: 18 items to train on, 9 to validate, 9 to test
``trained``     session  folder of a finished run on it: ``small-resnet``, one epoch
``train``       test     ``train("--opt", "mine")``: folder of a new run on it
``cli``         test     ``cli("explain", ...)``: what a command printed, and its exit code
==============  =======  =========================================================================

What has the scope of a session is shared by all tests: read it, and write to ``tmp_path``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

__all__ = ["catalogue", "cli", "isolated", "packed", "photograph", "train", "trained"]

#: of :func:`catalogue`; a small network tells them apart by their brightness
CLASSES = ("bright", "dark", "grey")
_LEVELS = {"bright": 180, "dark": 20, "grey": 100}
_EACH = 12
#: what keeps a training as small as it can be
_SMALL = {
    "--backbone": "small-resnet", "--weights": "none", "--epochs": 1, "--batch-size": 6,
    "--augment": "none", "--workers": 0, "--device": "cpu",
}  # fmt: skip

Photograph: TypeAlias = Callable[..., bytes]
Cli: TypeAlias = Callable[..., "Result"]
Train: TypeAlias = Callable[..., Path]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command left.

    Attributes:
        code: 0 done, 1 failed, 2 misuse, 3 done with recorded failures.
        out: of standard output.
        err: of standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What ``--json`` printed.

        Raises:
            ValueError: it is no JSON.
        """
        return json.loads(self.out)


@pytest.fixture(scope="session", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's caches and switched-off plugins have no part in a test."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("FASHIONBATCH_CACHE", "FASHIONBATCH_CONFIG"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield


@pytest.fixture(scope="session")
def photograph() -> Photograph:
    """``photograph(seed=0, size=(48, 64), kind="JPEG")``: the bytes of an image file.

    A smooth gradient with a little noise; ``size`` is width and height in pixels, ``kind`` a format
    that Pillow writes, and ``level`` the least brightness, from 0 to 200.
    """
    return _photograph


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders; ``catalogue / "dark" / "0.jpg"`` is a photograph."""
    root = tmp_path_factory.mktemp("catalogue")
    for label in CLASSES:
        (root / label).mkdir()
        for number in range(_EACH):
            data = _photograph(number, (40 + number % 5, 50), level=_LEVELS[label])
            (root / label / f"{number}.jpg").write_bytes(data)
    return root


@pytest.fixture(scope="session")
def packed(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """:func:`catalogue` as a packed data set."""
    from fashionbatch import api

    output = tmp_path_factory.mktemp("packed") / "set"
    api.shard(catalogue, output=output, split="train=0.5,val=0.25,test=0.25", workers=1)
    return output


@pytest.fixture(scope="session")
def trained(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on :func:`packed`; for ``--model``."""
    from fashionbatch import api

    options: dict[str, Any] = {
        name.removeprefix("--").replace("-", "_"): v for name, v in _SMALL.items()
    }
    folder = tmp_path_factory.mktemp("runs")
    api.train(data=packed, output=folder, name="trained", **options)
    return folder / "trained"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """``cli("predict", folder, "--json").json``: runs a command in this process, in ``tmp_path``.

    A command that ends with another exit code than ``code=`` (0) says is an ``AssertionError`` with
    what it printed.
    """
    from fashionbatch.cli import app

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, code: int = 0) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app.main([str(argument) for argument in arguments])
        left = end.value.code
        result = Result(code=0 if left is None else int(left), **_printed(capsys))
        typed = " ".join(map(str, arguments))
        assert result.code == code, f"`{typed}` ended with {result.code}: {result.err}"
        return result

    return call


@pytest.fixture
def train(cli: Cli, packed: Path, tmp_path: Path) -> Train:
    """``train("--sched", "mine", "--epochs", 4)``: trains on :func:`packed`; the run's folder.

    Options are those of ``fashionbatch train``; without any, ``small-resnet`` from random weights
    for one epoch, on the CPU.
    """

    def call(*options: object) -> Path:
        runs = tmp_path / "runs"
        name = f"run{len(list(runs.iterdir())) if runs.is_dir() else 0}"
        small = [part for pair in _SMALL.items() for part in pair]
        cli("train", "--data", packed, *small, "-o", runs, "--name", name, *options)
        return runs / name

    return call


def _photograph(
    seed: int = 0, size: tuple[int, int] = (48, 64), kind: str = "JPEG", *, level: int = 100
) -> bytes:
    import numpy as np
    from PIL import Image

    width, height = size
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    slope = draw.uniform(0, 25, (2, 3))
    pixels = level + slope[0] * (x / width)[..., None] + slope[1] * (y / height)[..., None]
    pixels += draw.normal(0, 4, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def _printed(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    out, err = capsys.readouterr()
    return {"out": out, "err": err}
