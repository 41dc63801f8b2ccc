"""Columns are what the tensors say, and what must not be stored is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fashionbatch.config import PredictConfig
from fashionbatch.inference.answers import Answers
from fashionbatch.models.card import ModelCard
from fashionbatch.specs import HeadSpec, Preprocessing

CARD = ModelCard(backbone={}, head=HeadSpec(), classes=tuple("abcd"), preprocessing=Preprocessing())


def answers(**options):
    return Answers(config=PredictConfig(**options), card=CARD, feature_shape=(3,))


def tensors(count=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=draw)
    return logits, torch.zeros(count, 0), torch.randn(count, 3, generator=draw)


def test_columns_fit_their_layout():
    """Shapes and types are those that the file gets."""
    made = answers(topk=9, probabilities=True, feature_dtype="float16")
    logits, attributes, features = tensors()
    columns, refused = made.columns((logits, attributes, features))
    assert not refused
    assert {n: (v.shape[1:], v.dtype) for n, v in columns.items()} == {
        n: (shape, np.dtype(dtype)) for n, (shape, dtype) in made.layout.items()
    }
    probability = logits.softmax(1).numpy()
    assert np.array_equal(columns["predictions/probability"], probability)
    order = np.argsort(-probability, axis=1, kind="stable")
    assert np.array_equal(columns["predictions/topk_index"], order)
    assert np.array_equal(columns["features/pooled"], features.to(torch.float16).numpy())
    assert made.row_bytes == 4 * 4 + 4 * 4 + 4 * 4 + 3 * 2


def test_ties_go_to_the_lower_class():
    """Equal probabilities are ordered by the class's number."""
    logits = torch.tensor([[1.0, 2.0, 2.0, 1.0]])
    columns, _ = answers(topk=4).columns((logits, torch.zeros(1, 0), torch.zeros(1, 3)))
    assert columns["predictions/topk_index"].tolist() == [[1, 2, 0, 3]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [0, 2])
def test_fault_40_not_finite(value, where):
    """NaN and infinity, in logits or features, belong to a failure of the model."""
    given = tensors()
    given[where][3, 1] = value
    _, refused = answers().columns(given)
    assert {place: e.stage for place, e in refused.items()} == {3: "model"}


def test_fault_40_float16_overflow():
    """A value that float16 cannot hold is a failure of writing, and fits float32."""
    given = tensors()
    given[2][2, 0] = 70000.0
    _, refused = answers(feature_dtype="float16").columns(given)
    assert {place: e.stage for place, e in refused.items()} == {2: "write"}
    assert "float32" in refused[2].reason
    assert not answers().columns(given)[1]
