"""Attributes, categories, and both, from DeepFashion's files to a prediction."""

from __future__ import annotations

import csv
import json

import pytest

from fashionbatch import api
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.store.reader import open_predictions
from tests.sources.deepfashion_tree import images, write_tree

WIDTH = 40


@pytest.fixture
def deepfashion(tmp_path, photo):
    """A packed tree of DeepFashion's layout: 92 images, 40 attributes."""
    write_tree(tmp_path / "tree", photo=photo, shown=images(2, width=WIDTH))
    api.shard(tmp_path / "tree", output=tmp_path / "set", allow_missing_classes=True, workers=1)
    return tmp_path / "set"


@pytest.mark.parametrize("mode", ["finetune", "bottleneck"])
@pytest.mark.parametrize("task", ["attributes", "category,attributes"])
def test_attributes_are_learnt_and_predicted(train, deepfashion, tmp_path, task, mode):
    """Figures by name in result, history and card; every image gets every probability."""
    result = train(
        data=deepfashion, task=task, mode=mode, limit=None, epochs=3, lr=0.01,
        regularizer=("mixup", "label-smoothing"), batch_size=16,
    )  # fmt: skip
    shown = ["loss", "top1", "top3"] if task != "attributes" else [
        "loss", "attr_recall3", "attr_recall5", "attr_map",
    ]  # fmt: skip
    assert list(result["val"]) == list(result["test"]) == shown
    with (tmp_path / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert {"val_attr_recall3", "val_attr_recall3_texture", "val_attr_map"} <= rows[0].keys()
    assert ("val_top1" in rows[0]) == (task != "attributes")
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert len(card["attributes"]) == WIDTH and card["tasks"] == task.split(",")
    assert bool(card["classes"]) == (task != "attributes")
    made = api.predict(deepfashion, model=result["run"], output=tmp_path / "p.h5", workers=1)
    assert made["predicted"] == 92
    with open_predictions(tmp_path / "p.h5") as file:
        assert file.attribute_probability.shape == (92, WIDTH)
        names = {a["name"] for a in card["attributes"]}
        assert {name for name, _ in file[0].attributes} <= names


def test_attributes_that_there_are_not(train):
    """One line."""
    with pytest.raises(SourceError, match="has no attributes to train on"):
        train(task="attributes")
    with pytest.raises(UsageError, match="--task"):
        train(task="colours")
