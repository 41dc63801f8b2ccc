"""``fashionbatch evaluate``: from a prediction file to its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fashionbatch import api
from fashionbatch.cli.app import app
from fashionbatch.errors import StoreError, UnknownNameError, UsageError
from fashionbatch.evaluation import categories
from fashionbatch.store.reader import open_predictions

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
NAMES = [f"{i:03d}.jpg" for i in range(200)]
Make = Callable[..., Path]


@pytest.fixture
def made(predictions: Make) -> Path:
    """200 items of four classes, some of unknown class, and two failures."""
    return predictions("p.h5", {"s": (NAMES, ["bad", "worse"])}, classes=("a", "b", "c", "d"))


def table(path: Path, rows: list[tuple[str, ...]], header: str = "image,label") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def test_counts_are_those_of_the_rows(made: Path) -> None:
    """Every item of known class once; what is not known is said, not counted."""
    found = api.evaluate(made)
    with open_predictions(made) as rows:
        known = [row for row in rows if row.label is not None]
        total = len(rows)
    right = [row.classes[0] == row.label for row in known]
    assert found["items"] == len(known) and found["unlabelled"] == total - len(known)
    assert found["failed"] == 2
    assert found["top1"] == pytest.approx(np.mean(right))
    assert found["top3"] is found["top5"] is None  # two classes are stored
    assert found["intervals"]["top1"][0] < found["top1"] < found["intervals"]["top1"][1]
    assert sum(c["support"] for c in found["per_class"]) == len(known)
    assert np.sum(found["confusion"]["counts"]) == len(known)
    assert found["calibration"]["temperature"] is None
    assert sum(b["items"] for b in found["calibration"]["bins"]) == len(known)
    json.dumps(found, allow_nan=False)


def test_as_trained(tmp_path: Path) -> None:
    """The figures of a predicted split are those that the training measured."""
    trained = api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", per_class=4, epochs=1, workers=0,
        device="cpu", output=tmp_path, name="run", batch_size=16,
    )  # fmt: skip
    output = tmp_path / "val.h5"
    api.predict(
        SAMPLE, model=trained["run"], output=output, split="val", device="cpu", probabilities=True
    )
    found = api.evaluate(output)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]
    for name in ("top1", "top3", "top5", "macro_recall"):
        assert found[name] == pytest.approx(metrics[name], abs=1e-6)
    assert {c["name"]: c["support"] for c in found["per_class"]} == {
        c["name"]: c["support"] for c in metrics["per_class"]
    }
    fitted = found["calibration"]["temperature"]
    assert fitted["items"] == found["items"] > 100
    assert fitted["loss"] == pytest.approx(metrics["loss"], abs=1e-3)
    assert fitted["scaled_loss"] <= fitted["loss"]


def test_calibration_is_stored_with_the_model(tmp_path: Path) -> None:
    """Later predictions are divided by it, and what was predicted before is of another run."""
    from fashionbatch.errors import OutputExistsError
    from fashionbatch.models.card import load_card

    trained = api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", per_class=4, epochs=2, workers=0,
        device="cpu", output=tmp_path, name="run", batch_size=16,
    )  # fmt: skip
    run = tmp_path / "run"

    def predict(name: str, **options: Any) -> Path:
        api.predict(SAMPLE, model=trained["run"], output=tmp_path / name, split="val",
                    device="cpu", **options)  # fmt: skip
        return tmp_path / name

    before = predict("a.h5", probabilities=True)
    first = api.evaluate(before, calibrate=True, model=run)["calibration"]
    stored = first["stored"]["temperature"]
    assert first["stored"]["model"] == str(run)
    assert load_card(run).temperature == stored == first["temperature"]["value"]
    assert abs(stored - 1) > 0.01
    with pytest.raises(OutputExistsError, match="other temperature"):
        predict("a.h5", probabilities=True)
    again = api.evaluate(predict("b.h5", probabilities=True), calibrate=True, model=run)
    fitted = again["calibration"]["temperature"]
    assert fitted["value"] == pytest.approx(1, abs=1e-2)
    assert fitted["loss"] == pytest.approx(first["temperature"]["scaled_loss"], abs=1e-4)
    # the second one is on top of the first
    assert load_card(run).temperature == pytest.approx(stored, rel=1e-2)
    with pytest.raises(UsageError, match="--calibrate.*--probabilities"):
        api.evaluate(predict("c.h5"), calibrate=True, model=run)
    with pytest.raises(UsageError, match="--model names what to --calibrate"):
        api.evaluate(before, model=run)


def test_labels_of_a_table(made: Path, tmp_path: Path) -> None:
    """They go before those of the file; what is not in it is unknown; slices by a column."""
    with open_predictions(made) as rows:
        best = {row.name: row.classes[0] for row in rows}
    listed = [
        (name, best[name] if i % 4 else "d" if best[name] != "d" else "a", "xy"[i % 2])
        for i, name in enumerate(NAMES[:100])
    ]
    labels = table(tmp_path / "l.csv", [*listed, ("other.jpg", "a", "z")], "image,label,brand")
    found = api.evaluate(made, labels=labels, by="brand")
    assert (found["items"], found["unlabelled"], found["top1"]) == (100, 100, 0.75)
    slices = {s["value"]: (s["items"], s["top1"]) for s in found["slices"]}
    assert slices == {"x": (50, 0.5), "y": (50, 1.0)}
    assert found["slices"][0]["intervals"]["top1"][0] < 0.5


def test_slices_of_the_files_own_labels(made: Path, tmp_path: Path) -> None:
    """A table without labels makes slices only."""
    rows = [(name, "xy"[i % 2]) for i, name in enumerate(NAMES)]
    found = api.evaluate(made, labels=table(tmp_path / "l.csv", rows, "image,season"), by="season")
    whole = api.evaluate(made)
    assert (found["top1"], found["items"]) == (whole["top1"], whole["items"])
    assert sum(s["items"] for s in found["slices"]) == whole["items"]


def test_tables_that_do_not_fit(made: Path, tmp_path: Path) -> None:
    """Each in one line that says what to do."""
    with pytest.raises(UsageError, match=r"names no item of .*'000.jpg'.*--image-column"):
        api.evaluate(made, labels=table(tmp_path / "a.csv", [("x.jpg", "a")]))
    twice = [("000.jpg", "a"), ("000.jpg", "b")]
    with pytest.raises(UsageError, match=r"'000.jpg' is 'a' and, in line 3, 'b'"):
        api.evaluate(made, labels=table(tmp_path / "b.csv", twice))
    with pytest.raises(UnknownNameError, match="brand"):
        api.evaluate(made, labels=table(tmp_path / "c.csv", [("000.jpg", "a")]), by="brand")
    with pytest.raises(UsageError, match=r"no label is a class of the model.*'shoe'"):
        api.evaluate(made, labels=table(tmp_path / "d.csv", [("000.jpg", "shoe")]))
    with pytest.raises(UsageError, match="--by is of a table"):
        api.evaluate(made, by="brand")


def test_foreign_labels_are_told(made: Path, tmp_path: Path) -> None:
    """They count nowhere, and are not passed over in silence."""
    rows = [("000.jpg", "a"), ("001.jpg", "shoe"), ("002.jpg", "shoe")]
    labels = table(tmp_path / "l.csv", rows)
    found = api.evaluate(made, labels=labels)
    assert found["items"] == 1
    assert found["foreign"] == [{"label": "shoe", "items": 2}]
    shown = CliRunner().invoke(app, ["evaluate", str(made), "--labels", str(labels)])
    assert "2 items of class 'shoe'" in shown.stderr


def test_items_that_were_trained_on(predictions: Make) -> None:
    """They are counted, and warned of."""
    shards = {"train-000000.tar": (NAMES[:50], []), "val-000000.tar": (NAMES[50:], [])}
    path = predictions("t.h5", shards, classes=("a", "b", "c", "d"))
    with open_predictions(path) as rows:
        expected = int((rows.labels[:50] >= 0).sum())
    assert api.evaluate(path)["trained_on"] == expected
    shown = CliRunner().invoke(app, ["evaluate", str(path)])
    assert f"{expected} items of the split train" in shown.stderr


def test_nothing_is_known(predictions: Make, tmp_path: Path) -> None:
    """No labels, no classes, no file."""
    none = predictions("none.h5", {"s": ([], ["x"])})
    with pytest.raises(UsageError, match="--labels"):
        api.evaluate(none)
    with pytest.raises(UsageError, match="learnt no category"):
        api.evaluate(predictions("attributes.h5", classes=(), attributes=("red",)))
    with pytest.raises(UsageError, match="no such file|does not exist"):
        api.evaluate(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(StoreError):
        api.evaluate(tmp_path / "text.h5")


def test_against_another_file(predictions: Make, made: Path, tmp_path: Path) -> None:
    """Item by item, by name, whatever the order of rows and classes."""
    import h5py

    other = predictions("q.h5", {"s": (NAMES[::-1], [])}, classes=("a", "b", "c", "d"))
    same = api.evaluate(made, against=other)["against"]
    found = api.evaluate(made)
    right = round(found["top1"] * found["items"])
    assert (same["both"], same["won"], same["lost"]) == (right, 0, 0)
    assert (same["items"], same["p"]) == (found["items"], 1.0)
    with h5py.File(other, "r+") as file:
        index = file["predictions/topk_index"]
        index[:50] = index[:50][:, ::-1]  # the second-best class first
    changed = api.evaluate(made, against=other)["against"]
    assert sum(changed[k] for k in ("both", "won", "lost", "neither")) == found["items"]
    with open_predictions(other) as rows:
        now = {row.name: row.classes[0] for row in rows}
    with open_predictions(made) as rows:
        pairs = [(row.classes[0] == row.label, now[row.name] == row.label)
                 for row in rows if row.label is not None]  # fmt: skip
    assert changed["won"] == sum(a and not b for a, b in pairs) == len(changed["won_names"])
    assert changed["lost"] == sum(b and not a for a, b in pairs)
    with pytest.raises(UsageError, match="other classes"):
        api.evaluate(made, against=predictions("r.h5", classes=("x", "y")))
    apart = predictions("t.h5", {"s": (["z"], [])}, classes=("a", "b", "c", "d"))
    with pytest.raises(UsageError, match="no labelled item"):
        api.evaluate(made, against=apart)


def test_names_of_several_items_are_not_compared(predictions: Make) -> None:
    """Whichever of the files has them: nobody knows which item is meant."""
    names = [f"{i}.jpg" for i in range(40)]
    one = predictions("one.h5", {"s": (names, [])})
    two = predictions("two.h5", {"s": ([*names, *names[:10]], [])})
    known = set(api.evaluate(one, against=one)["against"]["won_names"])
    whole = api.evaluate(one, against=one)["against"]["items"]
    with open_predictions(one) as rows:
        repeated = sum(row.label is not None for row in rows if row.name in names[:10])
    for a, b in ((one, two), (two, one)):
        assert api.evaluate(a, against=b)["against"]["items"] == whole - repeated
    assert not known
    thrice = predictions("three.h5", {"s": (names * 2, [])})
    with pytest.raises(UsageError, match="names stand for several"):
        api.evaluate(thrice, against=one)


def test_what_people_see(made: Path, predictions: Make) -> None:
    """Tables on standard output; with --json one line and nothing else."""
    hostile = "=\x1b[31m<b>&"
    other = predictions("q.h5", {"s": (NAMES, [])}, classes=("a", "b", "c", hostile))
    shown = CliRunner().invoke(app, ["evaluate", str(other)])
    assert shown.exit_code == 0
    for words in ("top-1", "macro recall", "Most frequent mistakes", "calibration error"):
        assert words in shown.stdout
    assert "\x1b[31m" not in shown.stdout and "<b>&" in shown.stdout
    values: dict[str, Any] = json.loads(
        CliRunner().invoke(app, ["evaluate", str(made), "--json"]).stdout
    )
    assert {"top1", "top3", "top5", "macro_recall", "ece"} < values.keys()
    assert values["top1"] == api.evaluate(made)["top1"]


def test_what_no_temperature_fits_is_not_stored(predictions: Make, tmp_path: Path) -> None:
    """Where every answer is right, the loss falls without end."""
    made = predictions("p.h5", {"s": (NAMES, [])}, probabilities=True)
    with open_predictions(made) as rows:
        right = [(row.name, row.classes[0]) for row in rows]
    labels = table(tmp_path / "t.csv", right)
    asked: list[str] = []
    with open_predictions(made) as rows:
        fitted = api.evaluate(made, labels=labels)["calibration"]["temperature"]
        assert fitted["edge"]
        with pytest.raises(UsageError, match="no temperature fits .*200 items"):
            categories.calibrate(rows, fitted, lambda sha: asked.append(sha) or tmp_path)
    assert not asked
    shown = CliRunner().invoke(app, ["evaluate", str(made), "--labels", str(labels)]).output
    assert "none from 0.05 to 20, of 200 items" in shown
