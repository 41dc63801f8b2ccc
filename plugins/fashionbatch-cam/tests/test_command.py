"""The command, from a trained model to pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fashionbatch import api
from fashionbatch.cli import app
from PIL import Image

SAMPLE = Path(__file__).parents[3] / "shards" / "fashion-mnist"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", limit=32, epochs=1, workers=0,
        device="cpu", output=folder, name="run", batch_size=16,
    )  # fmt: skip
    return folder / "run"


@pytest.fixture
def explain(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs ``fashionbatch explain`` on two images; exit code, standard output and error."""
    for i, size in enumerate([(200, 90), (28, 28)]):
        pixels = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")

    def call(visualizer: str, output: str) -> tuple[int, str, str]:
        capsys.readouterr()
        arguments = ["explain", visualizer, tmp_path / "photos", "--model", run, "--json"]
        with pytest.raises(SystemExit) as end:
            app.main([str(a) for a in [*arguments, "--device", "cpu", "-o", tmp_path / output]])
        return int(end.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    "visualizer",
    [
        "cam", "grad-cam-plus-plus", "smooth-grad-cam-plus-plus:num_samples=3,std=0.2,seed=7",
        "x-grad-cam", "layer-cam:intensity=0.5", "finer-cam:references=2,base=layer-cam",
        "score-cam:batch_size=64", "ss-cam:num_samples=1", "is-cam:num_samples=2",
    ],
)  # fmt: skip
def test_pictures(
    visualizer: str, explain: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A picture of each image, with what it shows in its file; the same bytes again."""
    code, out, err = explain(visualizer, "one")
    assert code == 0, err
    assert json.loads(out)["pictures"] == 2
    with Image.open(tmp_path / "one" / f"0.png.{visualizer.partition(':')[0]}.png") as image:
        assert image.height == 90 + 28
        assert image.text["Visualizer"] == visualizer  # type: ignore[attr-defined]
        assert image.text["Class"]  # type: ignore[attr-defined]
        colours = np.asarray(image)[:90, :200].astype(int)
    with Image.open(tmp_path / "photos" / "0.png") as image:
        assert np.abs(colours - np.asarray(image)).mean() > 5
    assert explain(visualizer, "two")[0] == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_sheet(explain: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, _, _ = explain("layer-cam:sheet=true,target=coat", "sheets")
    assert code == 0
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["layer-cam.png"]


@pytest.mark.parametrize(
    ("visualizer", "line"),
    [
        ("score-cam:batch_size=0", "batch_size is a whole number of at least 1, not 0"),
        ("layer-cam:std=1", "option"),
        ("layer-cam:target=cot", "did you mean 'coat'"),
        ("finer-cam:against=coat", "against takes a target"),
    ],
)
def test_misuse_is_one_line(
    visualizer: str, line: str, explain: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = explain(visualizer, "none")
    assert code == 2
    assert not (tmp_path / "none").exists()
    assert line in err
    assert "Traceback" not in err
