"""The stored features: of any layer, of the same forward pass, and only finite ones."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fashionbatch.errors import (
    UnknownNameError,
)
from fashionbatch.models import card as cards
from fashionbatch.pipeline.decode import decode
from fashionbatch.pipeline.transforms import fit
from fashionbatch.store.reader import open_predictions

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


@pytest.mark.parametrize("layer", ["blocks.1", "stem.3", "blocks.2.conv2"])
def test_features_of_a_layer(predict, catalogue, run, layer):
    """Any module's output can be stored."""
    folder = catalogue(5)
    model, card = cards.load(run)
    kept = []
    model.backbone.get_submodule(layer).register_forward_hook(
        lambda m, i, o: kept.append(o.clone())
    )
    for path in sorted(folder.iterdir()):
        with torch.inference_mode():
            model(
                torch.tensor(fit(decode(path.read_bytes()), card.preprocessing)).permute(2, 0, 1)[
                    None
                ]
            )
    with open_predictions(predict(folder, features=layer)) as found:
        assert np.allclose(found.features(layer)[()], torch.cat(kept).numpy(), atol=1e-4)
        with pytest.raises(UnknownNameError, match=layer):
            found.features("pooled")


def test_features_none_and_unknown(predict, catalogue):
    """Features can be left out; a layer that there is not is refused."""
    folder = catalogue(3)
    with h5py.File(predict(folder, features="none")) as file:
        assert "features" not in file
        assert file["predictions/topk_index"].shape == (3, 5)
    with pytest.raises(UnknownNameError, match=r"blocks\.1"):
        predict(folder, "b.h5", features="block.1")


def test_tap_is_not_changed_in_place():
    """A layer's features are its output, also where the network goes on in place."""
    from fashionbatch.models.build import build, find_backbone
    from fashionbatch.models.features import FeatureTap

    component, spec = find_backbone("resnet18")
    model = build(component, spec.preprocessing.with_size(32), spec.head, 3)
    tap = FeatureTap(model, "layer1.0.bn1")
    with torch.inference_mode():
        _, _, features = tap(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
    assert features.min() < 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_is_a_failure(catalogue, predict, spoilt, value):
    """NaN and infinity are recorded failures, never class 0."""
    spoilt(value)
    with open_predictions(predict(catalogue(8), batch_size=4)) as found:
        assert [(f["name"], f["stage"]) for f in found.failures] == [
            ("001.png", "model"), ("005.png", "model"),
        ]  # fmt: skip
        assert found.names == [f"{i:03d}.png" for i in (0, 2, 3, 4, 6, 7)]
        assert np.isfinite(found.topk_probability[()]).all()


def test_float16_overflow_is_a_failure(catalogue, predict, spoilt):
    """A feature too large for float16 is a recorded failure, not infinity."""
    spoilt(1e6)
    folder = catalogue(8)
    with open_predictions(predict(folder, batch_size=4, feature_dtype="float16")) as found:
        assert [f["name"] for f in found.failures] == ["001.png", "005.png"]
        assert "float16" in found.failures[0]["reason"]
        assert found.features().dtype == np.float16
        assert np.isfinite(found.features()[()]).all()
    with open_predictions(predict(folder, "b.h5", batch_size=4)) as found:
        assert not found.failures
