"""What every visualizer that lays heat over photographs shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import fashionbatch
from fashionbatch import api
from fashionbatch.errors import PluginError, UsageError
from fashionbatch.explanation import heat as drawing
from fashionbatch.explanation import run as explaining
from fashionbatch.explanation.base import Photo


def photo(seed=0, width=28, height=28):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


class Given(fashionbatch.HeatVisualizer):
    """Heat as the test says."""

    name = "given"

    def __init__(self, make=None, captions=(), about=(), **options):
        super().__init__(**options)
        self.make = make or (lambda count: torch.ones(count, 2, 2))
        self.captions, self.about = captions, about
        self.counts = []

    def heat(self, explained, images):
        self.counts.append(len(images))
        answer = explained.answer(explained.logits(explained.inputs(images)), self.target)
        return fashionbatch.Heat(
            maps=self.make(len(images)), answer=answer, captions=self.captions, about=self.about
        )


class OneByOne(Given):
    together = 1


def test_maps_are_scaled(run):
    """From 0 to 1 over the input, whatever the subclass gives; nothing is below 0."""
    explained = explaining.load(run, "cpu")
    given = Given(lambda count: torch.tensor([[[-3.0, 5.0], [0.0, 2.5]], [[0.0, 0], [-1, 0]]]))
    maps, chosen, probability = given.maps(explained, [photo(0), photo(1)])
    assert maps.shape == (2, 28, 28) and maps.dtype == np.float32
    corners = maps[0][[0, 0, -1, -1], [0, -1, 0, -1]].tolist()
    assert corners == [0, 1, 0, 0.5]
    assert (maps[1] == 0).all()
    with torch.no_grad():
        shares = explained.model(explained.inputs([photo(0), photo(1)])).logits.softmax(dim=1)
    assert chosen == shares.argmax(dim=1).tolist()
    assert probability == pytest.approx(shares.max(dim=1).values.tolist())


@pytest.mark.parametrize(("kind", "counts"), [(Given, [3]), (OneByOne, [1, 1, 1])])
def test_together(run, kind, counts):
    """A slow one gets images singly, and each picture is there before the next is begun."""
    explained = explaining.load(run, "cpu")
    given = kind()
    photos = [Photo(image=photo(i), name=f"{i}") for i in range(3)]
    drawn = given.draw(explained, photos)
    assert next(iter(drawn)).name == "0"
    assert given.counts == counts[:1]
    assert [picture.name for picture in drawn] == ["1", "2"]
    assert given.counts == counts
    assert list(given.draw(explained, [])) == []


def test_own_captions(run, monkeypatch):
    """A subclass's words stand alone; what it tells is added."""
    explained = explaining.load(run, "cpu")
    captions = []
    monkeypatch.setattr(
        drawing, "captioned", lambda image, caption: captions.append(caption) or image
    )
    [number] = explained.model(explained.inputs([photo()])).logits.argmax(1).tolist()
    wrong = explained.classes[number - 1]
    photos = [Photo(image=photo(), name="p", label=wrong)]
    [own] = Given(captions=["mine"], about=[{"More": "1"}]).draw(explained, photos)
    [plain] = Given().draw(explained, photos)
    assert captions[0] == "mine"
    assert captions[1].endswith(f"%  (labelled {wrong})")
    assert own.about == {**plain.about, "More": "1"}


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (torch.ones(1, 4, 2, 2), "no maps.*1, 4, 2, 2"),
        (torch.ones(2, 2, 2), "2, 2, 2"),
        (torch.full((1, 2, 2), float("nan")), "not finite"),
    ],
)
def test_no_maps(run, made, match):
    """What a plugin gives in place of maps is its fault, by name."""
    explained = explaining.load(run, "cpu")
    with pytest.raises(PluginError, match=f"'given' gives.*{match}"):
        Given(lambda count: made).maps(explained, [photo()])


def test_refusal_is_one_line(run, tmp_path):
    """A ValueError is what the user did, not a bug."""

    def refuse(count):
        raise ValueError("no such network\nmore")

    explained = explaining.load(run, "cpu")
    with pytest.raises(UsageError, match=r"^given: no such network$"):
        list(Given(refuse).draw(explained, [Photo(image=photo(), name="p")]))


def test_answer_of_logits(run):
    """Of a class its share of the classes, of an attribute its own; the logit keeps its graph."""
    explained = fashionbatch.Explained(
        **{
            **vars(explaining.load(run, "cpu")),
            "classes": ("a", "b"),
            "attributes": ("x",),
        }
    )
    logits = torch.tensor([[1.0, 3.0, 9.0], [2.0, 0.0, -1.0]], requires_grad=True)
    answer = explained.answer(logits)
    assert answer.chosen.tolist() == [1, 0]
    assert answer.score.tolist() == [3, 2]
    assert answer.probability[0].item() == pytest.approx(np.exp(2) / (1 + np.exp(2)))
    named = explained.answer(logits, "x")
    assert named.chosen.tolist() == [2, 2]
    assert named.probability[1].item() == pytest.approx(1 / (1 + np.e))
    (gradient,) = torch.autograd.grad(named.score.sum(), logits)
    assert gradient.tolist() == [[0, 0, 1], [0, 0, 1]]


def test_occlusion_has_sheets(run, tmp_path):
    """Occlusion has what is shared, too."""
    photo().save(tmp_path / "p.png")
    result = api.explain(
        "occlusion:patch=14,sheet=true", [tmp_path / "p.png"], model=run, output=tmp_path / "o"
    )
    assert list(result["about"]) == ["occlusion.p.png"]
