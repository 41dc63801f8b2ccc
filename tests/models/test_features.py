"""A layer's output is what is stored under its name, or nothing is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.models.build import Classifier, build, find_backbone
from fashionbatch.models.features import FeatureTap, try_out
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
        outputs = model(images)
        logits, attributes, features = FeatureTap(model)(images)
        assert torch.equal(features, outputs.bottleneck)
        assert torch.equal(logits, outputs.logits) and attributes.shape == (2, 0)
        assert FeatureTap(model, "blocks.1")(images)[2].shape == (2, 64, 7, 7)
        assert len(FeatureTap(model, "none")(images)) == 2


def test_shapes_are_known_before_anything_is_run(model: Classifier) -> None:
    """Of one image, without the batch."""
    assert try_out(FeatureTap(model, "blocks.1"), 28) == ((3,), (0,), (64, 7, 7))


def test_layer_that_never_runs_is_refused(model: Classifier) -> None:
    """Its name must not stand over another layer's values."""
    model.backbone.add_module("spare", nn.Identity())
    with pytest.raises(UsageError, match="--features spare"):
        FeatureTap(model, "spare")(torch.zeros(1, 3, 28, 28))


def test_unknown_layer_suggests(model: Classifier) -> None:
    """A misspelled layer names the nearest."""
    with pytest.raises(UnknownNameError, match=r"blocks\.1"):
        FeatureTap(model, "block.1")
