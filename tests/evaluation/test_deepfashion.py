"""``fashionbatch evaluate`` of attributes and types of categories, from photographs to figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_average_precision
from typer.testing import CliRunner

from fashionbatch import api
from fashionbatch.cli import app as cli
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.store.reader import open_predictions
from tests.evaluation.conftest import Predicted
from tests.sources.deepfashion_tree import CATEGORIES, CATEGORY_TYPES

Make = Callable[..., Path]


def command(*arguments: object) -> tuple[str, str]:
    """What the command says on standard output and standard error."""
    shown = CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])
    assert shown.exit_code == 0, shown.output
    return shown.stdout, shown.stderr


def moved(predicted: Predicted, tmp_path: Path, **attributes: str) -> Path:
    """A copy of the file, of which the source lies where nothing is."""
    path = tmp_path / "moved.h5"
    shutil.copy(predicted.file, path)
    with h5py.File(path, "r+") as file:
        card = json.loads(file.attrs["model_card"])
        card["lineage"]["data"] = attributes.pop("lineage", str(tmp_path / "nowhere"))
        file.attrs["model_card"] = json.dumps(card)
        file.attrs["source"] = attributes.pop("source", str(tmp_path / "nowhere"))
    return path


def table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def test_as_trained(predicted: Predicted) -> None:
    """The command's figures are those that the training measured on the same split."""
    out, err = command(predicted.file, "--json")
    found = json.loads(out)
    metrics = json.loads((predicted.run / "metrics.json").read_text())["test"]
    assert {"top1", "top3", "top5", "macro_recall", "ece"} <= found.keys()
    for name in ("top1", "top3", "top5", "macro_recall"):
        assert found[name] == pytest.approx(metrics[name], abs=1e-6)
    attributes = found["attributes"]
    positive = sum(t["support"] for t in attributes["per_type"])
    names = [name for name in metrics if name.startswith("attr_recall")]
    assert len(names) >= 6
    figures = {f"attr_recall{k}": attributes[f"attr_recall{k}"] for k in (3, 5)} | {
        f"attr_recall{k}_{t['type']}": t[f"recall{k}"]
        for t in attributes["per_type"]
        for k in (3, 5)
    }
    for name in names:  # float16 may put one before another that was behind it
        assert figures[name] == pytest.approx(metrics[name], abs=2.01 / positive)
    assert found["no_attributes"] is None and not err


def test_counted_from_the_files(predicted: Predicted) -> None:
    """Support is what DeepFashion's own files say; the last image's attributes are unknown."""
    found = api.evaluate(predicted.file)
    with open_predictions(predicted.file) as rows:
        items = [predicted.images[row.name] for row in rows]
        kinds = dict(zip(CATEGORIES, CATEGORY_TYPES, strict=True))
        answers = [(row.label, row.classes) for row in rows]
        probability = torch.tensor(rows.attribute_probability[()].astype(np.float64))
    values = np.array([item.values for item in items])
    assert found["attributes"]["truth"] == str(predicted.data)
    assert found["attributes"]["items"] == int((values != 0).any(axis=1).sum())
    each = found["attributes"]["per_attribute"]
    assert [a["support"] for a in each] == (values == 1).sum(axis=0).tolist()
    assert [a["known"] for a in each] == (values != 0).sum(axis=0).tolist()
    exact = [
        binary_average_precision(probability[column != 0, i], torch.tensor(column[column != 0] > 0))
        for i, column in enumerate(values.T)
        if (column == 1).any()
    ]
    assert found["attributes"]["attr_map"] == pytest.approx(np.mean(exact), abs=1e-6)
    types = {t["type"]: t for t in found["category_types"]}
    for number, name in enumerate(("upper", "lower", "full"), 1):
        figures = types.pop(name)
        mine = [(label, best) for label, best in answers if kinds[str(label)] == number]
        assert figures["items"] == len(mine) > 1
        for k in (1, 3):
            hits = [label in best[:k] for label, best in mine]
            assert figures[f"top{k}"] == pytest.approx(np.mean(hits))
        right = [kinds[best[0]] == number for _, best in mine]
        assert figures["type_accuracy"] == pytest.approx(np.mean(right))
        low, high = figures["intervals"]["type_accuracy"]
        assert 0 <= low <= figures["type_accuracy"] <= high <= 1
    assert not types
    whole = [kinds[best[0]] == kinds[str(label)] for label, best in answers]
    assert found["type_accuracy"] == pytest.approx(np.mean(whole))


def test_what_people_see(predicted: Predicted) -> None:
    """Tables of no more than 80 columns."""
    out, err = command(predicted.file)
    for words in ("Types of classes", "upper", "recall@3", "mean average precision", "texture"):
        assert words in out
    assert max(len(line.rstrip()) for line in out.splitlines()[2:]) <= 80
    assert not err


def test_truth_that_is_gone(predicted: Predicted, tmp_path: Path) -> None:
    """One line says so; categories are evaluated, and a named data set mends it."""
    whole = api.evaluate(predicted.file)
    path = moved(predicted, tmp_path)
    out, err = command(path)
    assert err.count("\n") == 1 and "is not there" in err and "--labels" in err
    assert "top-1" in out and "recall@3" not in out
    gone = api.evaluate(path)
    assert gone["attributes"] is None and gone["category_types"] == []
    assert gone["type_accuracy"] is None and gone["top1"] == whole["top1"]
    mended = api.evaluate(path, labels=predicted.data)
    assert mended["attributes"] == whole["attributes"]
    assert mended["category_types"] == whole["category_types"]
    # where the model's own data set still lies, that will do
    assert api.evaluate(moved(predicted, tmp_path, lineage=str(predicted.data))) == {
        **whole, "predictions": str(path),
    }  # fmt: skip


def test_truth_that_has_changed(predicted: Predicted, tmp_path: Path) -> None:
    """A data set of other shards is not taken for the one that was predicted, unless named."""
    other = tmp_path / "other"
    api.shard(
        predicted.tree, output=other, allow_missing_classes=True, workers=1, samples_per_shard=4
    )
    path = moved(predicted, tmp_path, source=str(other))
    found = api.evaluate(path)
    assert found["attributes"] is None
    assert found["no_attributes"].startswith(f"{other} is not what it was")
    named = api.evaluate(path, labels=other)["attributes"]
    assert {**named, "truth": ""} == {**api.evaluate(predicted.file)["attributes"], "truth": ""}


def test_what_makes_a_data_set_another_one(predicted: Predicted, tmp_path: Path) -> None:
    """A whole shard is known by its hash, a part of one by the images' hashes."""
    path = moved(predicted, tmp_path, source=str(predicted.data))
    with h5py.File(path, "r+") as file:
        card = json.loads(file.attrs["model_card"])
        card["lineage"]["data_fingerprint"] = "0" * 64
        file.attrs["model_card"] = json.dumps(card)
        sha256, count = file["shards/sha256"][0], file["shards/count"][0]

    def same(**changes: Any) -> bool:
        with h5py.File(path, "r+") as file:
            for name, value in changes.items():
                file[name.replace("_", "/")][0] = value
        found = api.evaluate(path)
        assert (found["attributes"] is None) == (found["category_types"] == [])
        return found["attributes"] is not None

    assert same()
    assert not same(shards_sha256="0" * 64)
    assert same(shards_count=count - 1)  # of a part
    assert same(shards_sha256=sha256)
    assert not same(items_sha256=np.full(32, 7, np.uint8))
    assert same(shards_count=count)  # the shard is whole and has the right hash
    assert not same(items_name="img/other.jpg")


def test_a_folder_was_predicted(predicted: Predicted, tmp_path: Path) -> None:
    """Types are those of the data set that the model knows; all else is what is named."""
    path = tmp_path / "folder.h5"
    api.predict(predicted.tree / "img", model=predicted.run, output=path, workers=1, device="cpu")
    with pytest.raises(UsageError, match="of none is the class known"):
        api.evaluate(path)
    with open_predictions(path) as rows:
        labels = [(r.name, "Tee" if i % 2 else "Jeans") for i, r in enumerate(rows)]
    found = api.evaluate(path, labels=table(tmp_path / "l.csv", [("image", "label"), *labels]))
    assert {t["type"]: t["items"] for t in found["category_types"] if t["items"]} == {
        "upper": len(labels) // 2, "lower": len(labels) // 2,
    }  # fmt: skip
    assert "is no packed data set" in found["no_attributes"]
    with pytest.raises(UsageError, match=r"names no item of .*--labels"):
        api.evaluate(path, labels=predicted.data)  # its names begin with img/


def test_attributes_of_a_table(predicted: Predicted, tmp_path: Path) -> None:
    """A column for each; 1, 0 or nothing. Types of classes by a column, too."""
    whole = api.evaluate(predicted.file)
    names = [a["name"] for a in whole["attributes"]["per_attribute"]]
    fields = {1: "1", -1: "no", 0: ""}
    rows = [
        [name, CATEGORIES[i.label - 1], "xyz"[i.type - 1], *(fields[v] for v in i.values)]
        for name, i in predicted.images.items()
    ]
    labels = table(tmp_path / "t.csv", [["image", "label", "kind", *names], *rows])
    path = moved(predicted, tmp_path)
    found = api.evaluate(path, labels=labels, type_column="kind")
    assert {**found["attributes"], "truth": ""} == {**whole["attributes"], "truth": ""}
    assert {t["type"] for t in found["category_types"]} == {"x", "y", "z"}
    assert found["type_accuracy"] == whole["type_accuracy"]
    some = table(tmp_path / "s.csv", [["image", names[2]], [rows[0][0], ""], [rows[2][0], "TRUE"]])
    few = api.evaluate(path, labels=some)["attributes"]
    assert few["items"] == few["per_attribute"][2]["known"] == 1
    assert few["attr_map"] == 1.0
    # without a column of attributes, those of the data set that was predicted
    plain = table(tmp_path / "p.csv", [["image", "brand"], [rows[2][0], "x"]])
    assert api.evaluate(predicted.file, labels=plain, by="brand")["attributes"]["items"] > 1
    for field, line in (("-1", 3), ("maybe", 3)):
        bad = table(tmp_path / "b.csv", [["image", names[2]], [rows[0][0], 1], [rows[2][0], field]])
        with pytest.raises(UsageError, match=f"line {line}.*'{field}'.*write 1"):
            api.evaluate(path, labels=bad)
    twice = table(tmp_path / "w.csv", [["image", names[2]], [rows[2][0], 1], [rows[2][0], 0]])
    with pytest.raises(UsageError, match="other attributes in line 3"):
        api.evaluate(path, labels=twice)


def test_labels_of_a_data_set(predicted: Predicted, tmp_path: Path) -> None:
    """Its classes go before those of the file, for evaluate and audit; foreign ones are told."""
    path = tmp_path / "blind.h5"
    shutil.copy(predicted.file, path)
    with h5py.File(path, "r+") as file:
        file["items/label"][...] = -1
        names = file["classes/name"].asstr()[()].tolist()
        lost = names.index("Tee")
        file["classes/name"][lost] = "T-Shirt"
    whole = api.evaluate(predicted.file)
    found = api.evaluate(path, labels=predicted.data)
    assert found["foreign"] == [{"label": "Tee", "items": 1}]
    assert (found["items"], found["unlabelled"]) == (whole["items"] - 1, 1)
    audited = api.audit(
        path, labels=predicted.data, folds=2, sheets=False, output=tmp_path / "audit"
    )
    assert audited["items"] == found["items"]


def test_labels_that_cannot_be(predicted: Predicted, tmp_path: Path) -> None:
    """Each in one line."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"without a dataset\.json: name a packed data set"):
        api.evaluate(predicted.file, labels=tmp_path / "empty")
    with pytest.raises(UsageError, match="--by is of a table"):
        api.evaluate(predicted.file, labels=predicted.data, by="brand")
    with pytest.raises(UsageError, match="is not a file"):
        api.evaluate(predicted.file, labels=tmp_path / "nothing")
    types = [["image", "label", "kind"], ["a", "Tee", "x"], ["b", "Tee", "y"]]
    with pytest.raises(SourceError, match="give it one"):
        api.evaluate(predicted.file, labels=table(tmp_path / "k.csv", types), type_column="kind")
    with pytest.raises(UsageError, match="--type-column is of a table"):
        api.evaluate(predicted.file, type_column="kind")


def test_attributes_alone(predictions: Make, tmp_path: Path) -> None:
    """A model that learnt no category has figures of attributes, and none of classes."""
    names = [f"{i:03d}.jpg" for i in range(50)]
    path = predictions("a.h5", {"train-000000.tar": (names, [])}, classes=(),
                       attributes=("red", "blue", "long"))  # fmt: skip
    labels = table(
        tmp_path / "l.csv",
        [["image", "red", "long"], *([name, i % 2, i % 3 % 2] for i, name in enumerate(names))],
    )
    found: dict[str, Any] = api.evaluate(path, labels=labels)
    assert (found["items"], found["top1"], found["per_class"]) == (0, None, [])
    assert found["attributes"]["items"] == found["trained_on"] == 50
    assert [a["known"] for a in found["attributes"]["per_attribute"]] == [50, 0, 50]
    out, err = command(path, "--labels", labels)
    assert "recall@5" in out and "macro recall" not in out and "split train" in err
    with pytest.raises(UsageError, match="--calibrate is about classes"):
        api.evaluate(path, labels=labels, calibrate=True)
    with pytest.raises(UsageError, match="learnt no category, and the file does not say where"):
        api.evaluate(path)


def test_the_report_says_the_same(predicted: Predicted, tmp_path: Path) -> None:
    """Attributes and category types have a chapter, with the figures of ``evaluate``."""
    made = api.report(predicted.file, model=predicted.run, output=tmp_path / "r.html", heatmaps=2)
    text = Path(made["output"]).read_text(encoding="utf-8")
    start = text.index('id="data">') + len('id="data">')
    data = json.loads(text[start : text.index("</script>", start)])
    judged = json.loads(json.dumps(api.evaluate(predicted.file)))
    assert data["attributes"]["types"] == judged["attributes"]["per_type"]
    assert data["attributes"]["each"] == judged["attributes"]["per_attribute"]
    assert data["types"] == judged["category_types"] and data["types"]
    told = {figure["name"]: figure["text"] for figure in data["figures"]}
    assert told["Attributes, recall@5"] == f"{judged['attributes']['attr_recall5']:.1%}"
    assert told["Type right"] == f"{judged['type_accuracy']:.1%}"
