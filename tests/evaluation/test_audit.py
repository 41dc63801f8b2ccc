"""``fashionbatch audit``: wrong labels, twins and outliers are found, and nobody else's."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fashionbatch import api
from fashionbatch.cli.app import app
from fashionbatch.errors import UsageError
from fashionbatch.evaluation.audit import neighbourhood, probe, suspects

CLASSES = ("bag", "dress", "hat")
Make = Callable[..., Path]


@pytest.fixture
def clusters(predictions: Make, tmp_path: Path) -> Callable[..., Path]:
    """``clusters(wrong)``: 90 items around three centres; those of ``wrong`` are labelled so."""

    def make(wrong: dict[int, int], name: str = "p.h5", maps: bool = False) -> Path:
        names = [f"{i:03d}.png" for i in range(90)]
        width = (8, 2, 2) if maps else (8,)
        path = predictions(name, {"s": (names, [])}, classes=CLASSES, width=width)
        draw = np.random.default_rng(0)
        centres = np.eye(8)[:3] * 4
        values = np.repeat(centres, 30, axis=0) + draw.normal(size=(90, 8))
        labels = np.repeat(np.arange(3), 30)
        for row, label in wrong.items():
            labels[row] = label
        if maps:
            values = values[..., None, None] + np.array([[-1.0, 1.0], [2.0, -2.0]])
        with h5py.File(path, "r+") as file:
            file["features/pooled"][...] = values
            file["items/label"][...] = labels
        return path

    return make


@pytest.mark.parametrize("maps", [False, True])
def test_wrong_labels_come_first(clusters: Callable[..., Path], tmp_path: Path, maps: bool) -> None:
    """Each with what it seems to be; maps are averaged over their places."""
    wrong = {3: 1, 40: 2, 70: 0, 71: 1}
    found = api.audit(clusters(wrong, maps=maps), output=tmp_path / "audit", sheets=False)
    first = found["suspects"][: len(wrong)]
    assert {s["name"] for s in first} == {f"{i:03d}.png" for i in wrong}
    for suspect in first:
        row = int(suspect["name"][:3])
        assert suspect["label"] == CLASSES[wrong[row]]
        assert suspect["suggested"] == CLASSES[row // 30]
        assert suspect["suggested_probability"] > 0.5 > suspect["label_probability"]
    margins = [s["margin"] for s in found["suspects"]]
    assert margins == sorted(margins)
    assert len(found["suspects"]) < 10
    assert found["agreement"] > 0.9
    with (tmp_path / "audit" / "suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["name"] for r in rows] == [s["name"] for s in found["suspects"]]
    assert rows[0]["rank"] == "1"
    json.dumps(found, allow_nan=False)


def test_same_seed_same_answer(clusters: Callable[..., Path], tmp_path: Path) -> None:
    """Every digit; another seed deals other folds."""
    path = clusters({3: 1})
    tables = []
    for number, seed in enumerate((0, 0, 1)):
        api.audit(path, output=tmp_path / str(number), sheets=False, seed=seed)
        tables.append((tmp_path / str(number) / "suspects.csv").read_bytes())
    assert tables[0] == tables[1] != tables[2]


def test_nobody_is_judged_by_what_was_learnt_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No item is among those that its classifier was trained on."""
    features = np.arange(60, dtype=np.float32).reshape(30, 2)
    labels = (np.arange(30) % 3).astype(np.int32)

    class Spy:
        def __init__(self, values: Any, labels: Any, classes: int, decay: float) -> None:
            self.seen = set(values[:, 0].tolist())

        def __call__(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            assert not self.seen & set(values[:, 0].tolist())
            assert len(self.seen) >= 22
            return np.full((len(values), 3), values[:, :1] * 0 + 1 / 3, np.float32)

    monkeypatch.setattr(probe, "_Probe", Spy)
    monkeypatch.setattr(probe, "_TOGETHER", 7)
    done: list[int] = []
    judge = probe.CrossValidated(features, np.arange(30), labels, 3, folds=4, seed=0)
    assert [len(block) for block in judge.blocks(done.append)] == [7, 7, 7, 7, 2]
    assert sum(done) == 30


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 6))
def test_folds_get_equal_shares(drawn: list[int], folds: int) -> None:
    """Of each class, and of all, as many as of the others, give or take one."""
    labels = np.array(drawn, np.int32)
    fold = probe.dealt(labels, folds, np.random.default_rng(0))
    for mask in [np.ones(len(labels), bool), *(labels == c for c in range(5))]:
        counts = np.bincount(fold[mask], minlength=folds)
        assert counts.max() - counts.min() <= 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 5))
def test_confident_learning_item_by_item(seed: int, count: int, classes: int) -> None:
    """As the paper says it, with loops."""
    draw = np.random.default_rng(seed)
    probability = draw.dirichlet(np.ones(classes), count).astype(np.float32)
    labels = draw.integers(0, classes, count).astype(np.int32)
    least = {
        c: np.mean([float(p[c]) for p, y in zip(probability, labels, strict=True) if y == c])
        for c in set(labels.tolist())
    }
    expected = {}
    for place, (p, label) in enumerate(zip(probability.astype(float), labels, strict=True)):
        confident = [c for c in least if p[c] >= least[c] - 1e-12]
        best = max(confident, key=lambda c: p[c], default=None)
        if best is not None and best != label and p[best] > p[label]:
            expected[place] = best, p[label] - p[best]
    step = int(draw.integers(1, count + 1))
    blocks = [probability[start : start + step] for start in range(0, count, step)]
    found = suspects.find(lambda: blocks, labels, classes)
    assert found.agreement == pytest.approx((probability.argmax(axis=1) == labels).mean())
    got = dict(zip(found.places.tolist(), found.suggested.tolist(), strict=True))
    assert got == {place: best for place, (best, _) in expected.items()}
    assert found.margin.tolist() == pytest.approx(sorted(m for _, m in expected.values()))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_neighbourhood_pair_by_pair(seed: int, count: int) -> None:
    """Twins have other labels and are similar enough; each pair once."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 3)).astype(np.float32)
    labels = draw.integers(0, 2, count).astype(np.int32)
    before, neighbourhood._TOGETHER = neighbourhood._TOGETHER, 7
    try:
        found = neighbourhood.look(features, labels, similar=0.8)
    finally:
        neighbourhood._TOGETHER = before
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = units @ units.T
    pairs = {(i, j) for i in range(count) for j in range(i + 1, count)
             if cosines[i, j] >= 0.8 + 1e-5 and labels[i] != labels[j]}  # fmt: skip
    got = {(int(i), int(j)) for i, j in found.twins}
    assert pairs <= got
    assert len(got) == len(found.twins)
    assert all(cosines[i, j] >= 0.8 - 1e-5 and labels[i] != labels[j] for i, j in got)
    assert (np.diff(found.similarities) <= 0).all()
    np.fill_diagonal(cosines, -2)
    if count > 1:
        kth = np.sort(cosines, axis=1)[:, -min(10, count - 1)]
        assert found.nearness == pytest.approx(np.sort(kth), abs=1e-5)
    assert sorted(found.lonely.tolist()) == list(range(count))


def test_twins_and_outliers_of_a_file(clusters: Callable[..., Path], tmp_path: Path) -> None:
    """The same features under two labels, and an item far from all."""
    path = clusters({})
    with h5py.File(path, "r+") as file:
        features = file["features/pooled"]
        features[70] = features[5]
        features[33] = [0, 0, 0, 0, 9, 0, 0, 0]
    found = api.audit(path, output=tmp_path / "audit", sheets=False, similar=0.999)
    [twins] = found["twins"]
    assert (twins["name"], twins["label"]) == ("005.png", "bag")
    assert (twins["twin"], twins["twin_label"]) == ("070.png", "hat")
    assert twins["similarity"] > 0.999
    assert found["outliers"][0]["name"] == "033.png"
    assert (tmp_path / "audit" / "twins.csv").exists()
    with h5py.File(path, "r+") as file:
        file["features/pooled"][70] = [0, 0, 4, 0, 0, 0, 0, 0]
    again = api.audit(path, output=tmp_path / "audit", sheets=False, similar=0.999)
    assert not again["twins"]
    assert not (tmp_path / "audit" / "twins.csv").exists()  # of the earlier audit


def test_too_many_for_all_pairs(
    clusters: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not looked for is said."""
    monkeypatch.setattr("fashionbatch.evaluation.audit.run._MOST_PAIRS", 89)
    found = api.audit(clusters({3: 1}), output=tmp_path / "audit", sheets=False)
    assert "over 89 items" in found["no_pairs"]
    assert found["suspects"] and not found["twins"] and not found["outliers"]


def test_labels_of_a_table_and_too_few(clusters: Callable[..., Path], tmp_path: Path) -> None:
    """A table's labels are audited in place of the file's; a handful is refused."""
    path = clusters({3: 1})
    rows = [f"{i:03d}.png,{CLASSES[i // 30] if i != 50 else 'hat'}" for i in range(90)]
    table = tmp_path / "l.csv"
    table.write_text("\n".join(["image,label", *rows]) + "\n")
    found = api.audit(path, labels=table, output=tmp_path / "audit", sheets=False)
    assert found["suspects"][0]["name"] == "050.png"
    table.write_text("image,label\n000.png,bag\n001.png,hat\n")
    with pytest.raises(UsageError, match="of 2 items the class is known, which is too few"):
        api.audit(path, labels=table, output=tmp_path / "audit")


def test_a_class_with_one_item(clusters: Callable[..., Path], tmp_path: Path) -> None:
    """Nothing seems to be of it by chance; that it cannot be learnt is said."""
    path = clusters(dict.fromkeys(range(61, 90), 0) | {60: 2})
    output = tmp_path / "audit"
    found = api.audit(path, output=output, sheets=False)
    assert found["scarce"] == [{"class": "hat", "items": 1}]
    for suspect in found["suspects"]:
        assert suspect["suggested_probability"] > suspect["label_probability"]
        margin = suspect["label_probability"] - suspect["suggested_probability"]
        assert suspect["margin"] == pytest.approx(margin, abs=2e-6)
    shown = CliRunner().invoke(app, ["audit", str(path), "-o", str(output), "--no-sheets"])
    assert "hat (1)" in shown.stderr
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file: name a folder"):
        api.audit(path, output=tmp_path / "file")


def test_sheets_and_hostile_names(predictions: Make, tmp_path: Path) -> None:
    """Formulas stay text in the table, escapes stay text on the terminal, pictures are drawn."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [f"{i:02d}.png" for i in range(38)] + ["=cmd()\x1b[31m.png", "gone.png"]
    draw = np.random.default_rng(0)
    for name in names[:-1]:
        pixels = draw.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    path = predictions("p.h5", {"s": (names, [])}, classes=CLASSES, width=(8,),
                       attrs={"source": str(folder)})  # fmt: skip
    labels = np.arange(40) % 2
    values = np.eye(8)[labels] * 5 + draw.normal(size=(40, 8))
    labels[38:] = 1 - labels[38:]
    with h5py.File(path, "r+") as file:
        file["features/pooled"][...] = values
        file["items/label"][...] = labels
    output = tmp_path / "audit"
    shown = CliRunner().invoke(app, ["audit", str(path), "-o", str(output)])
    assert shown.exit_code == 3  # one image is gone
    assert "gone.png: No such file" in shown.stderr
    assert "\x1b[31m" not in shown.stdout + shown.stderr
    data = (output / "suspects.csv").read_text()
    assert "'=cmd()\\x1b[31m.png" in data
    assert csv.DictReader(io.StringIO(data)).fieldnames == [
        "rank", "name", "label", "suggested", "label_probability", "suggested_probability",
        "margin",
    ]  # fmt: skip
    with Image.open(output / "suspects.png") as picture:
        assert picture.size[0] >= 560
    with Image.open(output / "outliers.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


@settings(max_examples=50)
@given(st.lists(st.floats(0.5, 0.9), min_size=5, max_size=40), st.floats(1, 6))
def test_outliers_are_those_far_below_the_median(values: list[float], deviations: float) -> None:
    """By the definition, one by one; a single strange item is found among alike ones."""
    stored = np.sort(np.array(values, np.float32))
    near = stored.astype(np.float64)
    middle = np.median(near)
    limit = middle - deviations * (1.4826 * np.median(np.abs(near - middle)))
    assert neighbourhood.outliers(stored, deviations) == sum(v < limit for v in near.tolist())
    alike = np.sort(np.r_[0.1, np.linspace(0.85, 0.9, 20)]).astype(np.float32)
    assert neighbourhood.outliers(alike, max(deviations, 2)) == 1
