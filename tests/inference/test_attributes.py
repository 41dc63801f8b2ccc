"""Prediction with models that have learnt attributes, with or without a category."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fashionbatch import api
from fashionbatch.errors import UsageError
from fashionbatch.inference import plan as plans
from fashionbatch.models import card as cards
from fashionbatch.models.build import build, find_backbone
from fashionbatch.pipeline.decode import decode
from fashionbatch.pipeline.transforms import fit
from fashionbatch.sources import Attribute
from fashionbatch.specs import HeadSpec
from fashionbatch.store.reader import open_predictions

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
CLASSES = ("bag", "hat", "shoe")
ATTRIBUTES = (
    Attribute(name="floral print", type="texture"),
    Attribute(name="à pois"),
    Attribute(name="maxi", type="shape"),
    Attribute(name="v_neckline", type="part"),
)


@pytest.fixture
def tagger(tmp_path):
    """``tagger(classes)`` → a model of these classes and of ATTRIBUTES."""

    def make(classes=()):
        component, spec = find_backbone("small-resnet")
        torch.manual_seed(0)
        model = build(component, spec.preprocessing, HeadSpec(), len(classes), len(ATTRIBUTES))
        with torch.no_grad():
            model.head.dense[-1].weight *= 150  # probabilities from near 0 to near 1
        folder = tmp_path / f"tagger-{len(classes)}"
        folder.mkdir()
        cards.save(
            folder,
            model,
            cards.ModelCard(
                backbone=component.provenance,
                head=HeadSpec(),
                classes=classes,
                attributes=ATTRIBUTES,
                tasks=("category", "attributes") if classes else ("attributes",),
                preprocessing=spec.preprocessing,
            ),
        )
        return folder

    return make


@pytest.mark.parametrize("classes", [(), CLASSES])
def test_fits_the_model(tagger, catalogue, predict, classes):
    """Every row holds what the model says of that very image, rounded to float16."""
    folder, run = catalogue(11, (4,)), tagger(classes)
    model, card = cards.load(run)
    with open_predictions(predict(folder, model=run, probabilities=True)) as found:
        assert [f["name"] for f in found.failures] == ["004.png"]
        assert found.attributes == ATTRIBUTES
        stored = found.attribute_probability
        assert (stored.dtype, stored.shape) == (np.float16, (10, 4))
        assert found._storage.array(stored.name).fletcher32
        for i, row in enumerate(found):
            pixels = fit(decode((folder / row.name).read_bytes()), card.preprocessing)
            with torch.inference_mode():
                outputs = model(torch.tensor(pixels).permute(2, 0, 1)[None])
            wanted = outputs.attributes[0].sigmoid().numpy()
            assert np.allclose(stored[i], wanted, rtol=2**-11 + 1e-4, atol=3e-8)
            assert row.attributes == tuple(
                (ATTRIBUTES[j].name, float(stored[i][j]))
                for j in np.argsort(-stored[i], kind="stable")
            )
            assert np.allclose(
                found._storage.array("predictions/probability")[i],
                outputs.logits[0].softmax(0),
                atol=1e-4,
            )
            assert len(row.classes) == len(row.probabilities) == len(classes)
        assert stored[()].min() < 0.1
        assert stored[()].max() > 0.9


def test_h5py_alone(tagger, catalogue, predict):
    """Names, types (empty where there is none) and probabilities are plain HDF5."""
    with h5py.File(predict(catalogue(3), model=tagger())) as file:
        assert file["attributes/name"].asstr()[()].tolist() == [a.name for a in ATTRIBUTES]
        assert file["attributes/type"].asstr()[()].tolist() == ["texture", "", "shape", "part"]
        assert file["predictions/attribute_probability"].shape == (3, 4)
        assert file["predictions/topk_index"].shape == (3, 0)
        assert len(file["classes/name"]) == 0


def test_without_classes(tagger, predict, tmp_path):
    """Whatever the data set's classes are, a model that learnt none predicts it; no label stays."""
    told = []
    path = predict(
        SAMPLE, model=tagger(), limit=9, topk=3, tell=lambda event, values: told.append(event)
    )
    with open_predictions(path) as found:
        assert len(found) == 9
        assert found.classes == found[0].classes == ()
        assert found[0].label is None
        assert set(found.labels.tolist()) == {-1}
        assert found.features().shape == (9, 128)
    assert "warn" not in told
    again = api.predict(
        SAMPLE, model=tmp_path / "tagger-0", output=path, limit=9, topk=3, batch_size=8,
        workers=1, device="cpu",
    )  # fmt: skip
    assert (again["predicted"], again["images_per_second"]) == (9, 0.0)


def test_parts_are_resumed(tagger, catalogue, predict, monkeypatch):
    """A run that dies is gone on with, to the same bytes; a part may be without a row."""
    monkeypatch.setattr(plans, "SLICE", 4)
    folder, run = catalogue(11, (0, 1, 2, 3)), tagger()
    whole = predict(folder, "whole.h5", model=run).read_bytes()
    seen = 0

    class Died(Exception):
        pass

    def die(event, values):
        nonlocal seen
        seen += values["items"] if event == "progress" else 0
        if seen > 8:
            raise Died

    with pytest.raises(Died):
        predict(folder, "cut.h5", model=run, tell=die)
    assert predict(folder, "cut.h5", model=run).read_bytes() == whole


def test_answers_that_are_not_finite(tagger, catalogue, predict):
    """They are failures, not probabilities."""
    run = tagger(CLASSES)
    model, card = cards.load(run)
    with torch.no_grad():
        model.head.dense[-1].bias[-1] = np.nan
    cards.save(run, model, card)
    folder = catalogue(3)
    with pytest.raises(Exception, match="none of the 3"):
        predict(folder, model=run)
    with open_predictions(folder.parent / "out.h5") as found:
        assert {f["reason"] for f in found.failures} == {
            "the network gave values that are not finite"
        }


def test_a_model_without_attributes(run, catalogue, predict):
    """Its file holds nothing of attributes, and asking for them says what to do."""
    with open_predictions(predict(catalogue(2))) as found:
        assert not found._storage.listed("attributes")
        assert "attribute_probability" not in found._storage.listed("predictions")
        assert (found.attributes, found[0].attributes) == ((), ())
        with pytest.raises(UsageError, match="--task attributes"):
            found.attribute_probability  # noqa: B018


@pytest.mark.parametrize("classes", [(), CLASSES])
def test_explained(tagger, catalogue, tmp_path, classes):
    """Grad-CAM explains a model that learnt attributes, any of them where asked to."""
    run, photos = tagger(classes), catalogue(1)
    for number, target in enumerate(("", ":target=maxi")):
        output = tmp_path / f"why-{number}"
        made = api.explain(f"grad-cam{target}", [photos], model=run, output=output, device="cpu")
        assert (made["pictures"], made["failed"]) == (1, [])
