"""Rows of a prediction file are explained, and pictures drawn of all of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashionbatch import api
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.explanation import photos
from fashionbatch.explanation import run as explaining
from fashionbatch.models import card as cards
from fashionbatch.store.reader import open_predictions


@pytest.fixture(scope="module")
def found(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Photographs of two of the model's classes, and what it predicted of them."""
    root = tmp_path_factory.mktemp("rows")
    names = cards.load_card(run).classes[:2]
    draw = np.random.default_rng(0)
    for label in names:
        (root / "photos" / label).mkdir(parents=True)
        for i in range(6):
            pixels = draw.integers(0, 256, (28, 28, 3), np.uint8)
            Image.fromarray(pixels).save(root / "photos" / label / f"{i}.png")
    api.predict(
        root / "photos", model=run, output=root / "p.h5", engine="eager", device="cpu", workers=1
    )
    return {"file": root / "p.h5", "photos": root / "photos", "labels": names}


def names_of(result: dict[str, Any], output: Path) -> list[str]:
    """Which photographs were explained, in their order."""
    made = []
    for name in result["about"]:
        with Image.open(output / name) as image:
            made.append(image.text["Source"])  # type: ignore[attr-defined]  # a PNG
    return made


@pytest.mark.parametrize("which", ["mistakes", "right", "unsure", "all"])
def test_rows_in_their_order(run: Path, found: dict[str, Any], tmp_path: Path, which: str) -> None:
    """By the rows themselves, read one by one."""
    with open_predictions(found["file"]) as predictions:
        rows = [(r.name, r.label == r.classes[0], float(r.probabilities[0])) for r in predictions]
    wanted = {
        "mistakes": sorted((r for r in rows if not r[1]), key=lambda r: -r[2]),
        "right": sorted((r for r in rows if r[1]), key=lambda r: -r[2]),
        "unsure": sorted(rows, key=lambda r: r[2]),
        "all": rows,
    }[which]
    options = {"model": run, "output": tmp_path / "o", "device": "cpu", "rows": which, "limit": 5}
    if not wanted:
        with pytest.raises(UsageError, match="has none"):
            api.explain("grad-cam", predictions=found["file"], **options)
        return
    result = api.explain("grad-cam", predictions=found["file"], **options)
    assert names_of(result, tmp_path / "o") == [name for name, _, _ in wanted[:5]]


def test_named_rows(run: Path, found: dict[str, Any], tmp_path: Path) -> None:
    name = f"{found['labels'][1]}/3.png"
    options = {"predictions": found["file"], "model": run, "device": "cpu"}
    result = api.explain("grad-cam", [name], output=tmp_path / "o", **options)
    assert names_of(result, tmp_path / "o") == [name]
    with pytest.raises(UnknownNameError, match="did you mean"):
        api.explain("grad-cam", [name + "x"], output=tmp_path / "n", **options)
    with pytest.raises(UsageError, match="--catalog"):
        api.explain("grad-cam", output=tmp_path / "n", catalog=tmp_path / "gone", **options)
    assert not (tmp_path / "n").exists()


def test_a_changed_photograph_is_not_shown(
    run: Path, found: dict[str, Any], tmp_path: Path
) -> None:
    """It is not what was predicted."""
    import shutil

    moved = tmp_path / "photos"
    shutil.copytree(found["photos"], moved)
    first = f"{found['labels'][0]}/0.png"
    Image.new("RGB", (28, 28), "red").save(moved / first)
    result = api.explain(
        "grad-cam", predictions=found["file"], catalog=moved, rows="all", model=run,
        output=tmp_path / "o", device="cpu",
    )  # fmt: skip
    assert [f["name"] for f in result["failed"]] == [first]
    assert "changed" in result["failed"][0]["reason"]


@pytest.mark.parametrize("name", ["confusion", "confusion:normalize=true", "histograms",
                                  "embedding", "embedding:pictures=false"])  # fmt: skip
def test_charts(run: Path, found: dict[str, Any], tmp_path: Path, name: str) -> None:
    """One picture, the same bytes twice, of which not all is white."""
    made = []
    for place in ("a", "b"):
        result = api.explain(
            name, predictions=found["file"], model=run, output=tmp_path / place, device="cpu"
        )
        [file] = result["about"]
        made.append((tmp_path / place / file).read_bytes())
    assert made[0] == made[1]
    assert file == f"{name.partition(':')[0]}.{found['file'].stem}.png"
    with Image.open(tmp_path / "a" / file) as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_confusion_counts(run: Path, found: dict[str, Any], tmp_path: Path) -> None:
    """What it tells is what ``evaluate`` says."""
    result = api.explain(
        "confusion", predictions=found["file"], model=run, output=tmp_path, device="cpu"
    )
    judged = api.evaluate(found["file"])
    assert result["about"][f"confusion.{found['file'].stem}.png"] == {
        "Right": f"{judged['top1']:.4f}", "Items": "12",
    }  # fmt: skip


def test_curves(run: Path, tmp_path: Path) -> None:
    result = api.explain("curves", model=run, output=tmp_path, device="cpu")
    assert result["about"][f"curves.{run.name}.png"] == {"Epochs": "1"}
    with Image.open(tmp_path / f"curves.{run.name}.png") as image:
        assert image.text["Model"] == cards.load_card(run).sha256  # type: ignore[attr-defined]


def test_curves_of_a_run_that_still_trains(run: Path, tmp_path: Path) -> None:
    """Its history is enough; the same picture as of a run that is done."""
    unfinished = tmp_path / run.name
    unfinished.mkdir()
    (unfinished / "history.csv").write_bytes((run / "history.csv").read_bytes())
    found = []
    for number, folder in enumerate((run, unfinished)):
        output = tmp_path / str(number)
        api.explain("curves", model=folder, output=output)
        with Image.open(output / f"curves.{run.name}.png") as image:
            found.append(np.asarray(image))
    assert (found[0] == found[1]).all()
    (unfinished / "history.csv").unlink()
    with pytest.raises(UsageError, match="has trained no epoch"):
        api.explain("curves", model=unfinished, output=tmp_path / "o")


@pytest.mark.parametrize("name", ["confusion", "histograms", "embedding"])
def test_charts_of_a_file_need_no_model(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The file may come from another machine; its picture says all the same which model it was."""
    monkeypatch.chdir(tmp_path)  # there is no runs/
    told = []
    result = api.explain(
        name, predictions=found["file"], output=tmp_path / "o",
        tell=lambda event, values: told.append(values.get("of")),
    )  # fmt: skip
    assert result["model"] is None and told[0] == str(found["file"])
    [file] = result["about"]
    with Image.open(tmp_path / "o" / file) as image, open_predictions(found["file"]) as predicted:
        assert image.text["Model"] == predicted.model["sha256"]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="name its folder with --model"):
        api.explain("grad-cam", predictions=found["file"], output=tmp_path / "o")
    with pytest.raises(UsageError, match="curves are of a run"):
        api.explain("curves", predictions=found["file"], output=tmp_path / "o")
    if name == "histograms":
        with pytest.raises(UsageError, match="--model"):
            api.explain(name, predictions=found["file"], model=Path("nowhere"), output=tmp_path)


def test_what_needs_a_prediction_file_says_so(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="confusion needs a prediction file"):
        api.explain("confusion", model=run, output=tmp_path / "o")


def test_probabilities_are_those_of_predict(run: Path, tmp_path: Path) -> None:
    """Divided by the temperature that was stored with the model."""
    import shutil

    warm = tmp_path / "run"
    shutil.copytree(run, warm)
    cards.calibrate(warm, 2.5)
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (28, 28, 3), np.uint8))
    (tmp_path / "c").mkdir()
    photo.save(tmp_path / "c" / "p.png")
    result = api.explain("grad-cam", [tmp_path / "c"], model=warm, output=tmp_path / "o")
    made = api.predict(tmp_path / "c", model=warm, output=tmp_path / "p.h5", engine="eager")
    with open_predictions(made["output"]) as predictions:
        row = predictions[0]
    about = next(iter(result["about"].values()))
    assert about["Class"] == row.classes[0]
    assert float(about["Probability"]) == pytest.approx(float(row.probabilities[0]), abs=2e-4)
    cold = explaining.load(run, "cpu")
    logits = cold.logits(cold.inputs([photo]))
    without = float(cold.answer(logits).probability.detach())
    assert without > float(row.probabilities[0]) + 0.002


def test_a_limit_is_spread(tmp_path: Path) -> None:
    """Over the classes of a folder: its first images may all be of one."""
    for label in "abc":
        (tmp_path / label).mkdir()
        for i in range(10):
            Image.new("RGB", (4, 4)).save(tmp_path / label / f"{i}.png")
    taken = [source.name for source in photos.of_paths([tmp_path], 4)]
    assert taken == ["a/0.png", "a/9.png", "b/9.png", "c/9.png"]
    assert len(list(photos.of_paths([tmp_path]))) == 30


def test_what_chooses_nothing_is_refused(run: Path, found: dict[str, Any], tmp_path: Path) -> None:
    """Rows beside names, choices of a whole file's chart, images of a run's."""
    name = f"{found['labels'][0]}/0.png"
    common: dict[str, Any] = {"model": run, "output": tmp_path / "o", "device": "cpu"}
    with pytest.raises(UsageError, match="--rows and names both choose"):
        api.explain("grad-cam", [name], predictions=found["file"], rows="all", **common)
    for options in ({"rows": "right"}, {"limit": 2}):
        with pytest.raises(UsageError, match="draws the whole file"):
            api.explain("confusion", predictions=found["file"], **options, **common)
    Image.new("RGB", (9, 9)).save(tmp_path / "p.png")
    with pytest.raises(UsageError, match="name no images"):
        api.explain("curves", [tmp_path / "p.png"], **common)
    assert not (tmp_path / "o").exists()


def test_a_limit_takes_some_of_each_folder(tmp_path: Path) -> None:
    """In turn, until there are enough."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(6):
            Image.new("RGB", (9, 9)).save(tmp_path / folder / f"{folder}{number}.png")
    each = photos.of_paths([tmp_path / "a", tmp_path / "b"], 4)
    assert [source.name[0] for source in itertools.islice(each, 4)] == ["a", "b", "a", "b"]
