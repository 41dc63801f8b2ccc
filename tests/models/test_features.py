"""A layer's output is what is stored under its name, or nothing is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.models.build import Classifier, build, find_backbone
from fashionbatch.models.features import FeatureTap
from fashionbatch.specs import HeadSpec


@pytest.fixture
def model() -> Classifier:
    """A small network of three classes."""
    component, spec = find_backbone("small-resnet")
    return build(component, spec.preprocessing, HeadSpec(), 3)


def test_pooled_is_the_bottleneck_and_a_layer_its_own_output(model: Classifier) -> None:
    """One forward pass gives both."""
    images = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    with torch.inference_mode():
        with FeatureTap(model) as tap:
            outputs, features = tap(images)
            assert torch.equal(features, outputs.bottleneck)
        with FeatureTap(model, "blocks.1") as tap:
            assert tap(images)[1].shape == (2, 64, 7, 7)


def test_layer_that_never_runs_is_refused(model: Classifier) -> None:
    """Its name must not stand over another layer's values."""
    model.backbone.add_module("spare", nn.Identity())
    with FeatureTap(model, "spare") as tap, pytest.raises(UsageError, match="--features spare"):
        tap(torch.zeros(1, 3, 28, 28))


def test_unknown_layer_suggests(model: Classifier) -> None:
    """A misspelled layer names the nearest."""
    with pytest.raises(UnknownNameError, match=r"blocks\.1"):
        FeatureTap(model, "block.1")
