"""The command, from a trained model to pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fashionbatch.testing.fixtures import Cli, Result
from PIL import Image

Explain = Callable[..., Result]


@pytest.fixture
def explain(cli: Cli, trained: Path, tmp_path: Path) -> Explain:
    """``explain("layer-cam", "output")``: runs ``fashionbatch explain`` on two images."""
    for i, size in enumerate([(200, 90), (28, 28)]):
        pixels = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")

    def call(visualizer: str, output: str, code: int = 0) -> Result:
        options = ["--model", trained, "--device", "cpu", "--json", "-o", output]
        return cli("explain", visualizer, "photos", *options, code=code)

    return call


@pytest.mark.parametrize(
    "visualizer",
    [
        "cam", "grad-cam-plus-plus", "smooth-grad-cam-plus-plus:num_samples=3,std=0.2,seed=7",
        "x-grad-cam", "layer-cam:intensity=0.5", "finer-cam:references=2,base=layer-cam",
        "score-cam:batch_size=64", "ss-cam:num_samples=1", "is-cam:num_samples=2",
    ],
)  # fmt: skip
def test_pictures(visualizer: str, explain: Explain, tmp_path: Path) -> None:
    """A picture of each image, with what it shows in its file; the same bytes again."""
    assert explain(visualizer, "one").json["pictures"] == 2
    with Image.open(tmp_path / "one" / f"0.png.{visualizer.partition(':')[0]}.png") as image:
        assert image.height == 90 + 28
        assert image.text["Visualizer"] == visualizer  # type: ignore[attr-defined]
        assert image.text["Class"]  # type: ignore[attr-defined]
        colours = np.asarray(image)[:90, :200].astype(int)
    with Image.open(tmp_path / "photos" / "0.png") as image:
        assert np.abs(colours - np.asarray(image)).mean() > 5
    explain(visualizer, "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_sheet(explain: Explain, tmp_path: Path) -> None:
    explain("layer-cam:sheet=true,target=dark", "sheets")
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["layer-cam.photos.png"]


@pytest.mark.parametrize(
    ("visualizer", "line"),
    [
        ("score-cam:batch_size=0", "batch_size is a whole number of at least 1, not 0"),
        ("layer-cam:std=1", "option"),
        ("layer-cam:target=drak", "did you mean 'dark'"),
        ("finer-cam:against=dark", "against takes a target"),
    ],
)
def test_misuse_is_one_line(visualizer: str, line: str, explain: Explain, tmp_path: Path) -> None:
    told = explain(visualizer, "none", code=2)
    assert not (tmp_path / "none").exists()
    assert line in told.err
    assert "Traceback" not in told.err
