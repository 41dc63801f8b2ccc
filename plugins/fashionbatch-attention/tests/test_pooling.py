"""Attention pooling by hand, and networks with it in place of average pooling."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from fashionbatch import registry
from fashionbatch.models.build import find_backbone, load_weights
from torch import Tensor, nn
from torch.nn import functional

from fashionbatch_attention.networks import attended
from fashionbatch_attention.pooling import AttentionPooling


def filled(channels: int = 6, heads: int = 2) -> AttentionPooling:
    torch.manual_seed(0)
    made = AttentionPooling(channels, heads)
    nn.init.normal_(made.score.weight)
    return made


def test_by_hand() -> None:
    """A head's weights, in float64, on its own group of channels."""
    pooling, maps = filled(), torch.randn(2, 6, 3, 4)
    found = pooling(maps)
    assert found.shape == (2, 6, 1, 1)
    kernel = pooling.score.weight.detach().double()[:, :, 0, 0]
    for image in range(2):
        for head in range(2):
            scores = [
                sum(float(kernel[head, c]) * float(maps[image, c, i, j]) for c in range(6)) / 6**0.5
                for i in range(3)
                for j in range(4)
            ]
            total = sum(math.exp(s) for s in scores)
            for channel in range(3 * head, 3 * head + 3):
                values = maps[image, channel].flatten().tolist()
                mean = sum(math.exp(s) / total * v for s, v in zip(scores, values, strict=True))
                assert found[image, channel, 0, 0].item() == pytest.approx(mean, abs=1e-5)


def test_weights_of_places_are_1_in_sum() -> None:
    weights = filled().attention(50 * torch.randn(3, 6, 5, 2))
    assert weights.shape == (3, 2, 5, 2)
    assert torch.allclose(weights.sum(dim=(2, 3)), torch.ones(3, 2))
    assert (weights >= 0).all()
    assert not torch.allclose(weights[:, 0], weights[:, 1])


def test_begins_as_average_pooling_and_learns() -> None:
    pooling, maps = AttentionPooling(6, 3), torch.randn(4, 6, 5, 5)
    pooled = pooling(maps)
    assert torch.allclose(pooled, maps.mean(dim=(2, 3), keepdim=True), atol=1e-6)
    pooled.square().sum().backward()
    gradient = pooling.score.weight.grad
    assert gradient is not None
    assert (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()  # of every head


def test_scores_are_those_of_training() -> None:
    pooling, maps = filled(), torch.randn(2, 6, 3, 3)
    pooling.eval()(maps)
    assert pooling.scores is None
    pooling.train()(maps)
    assert pooling.scores is not None
    assert pooling.scores.requires_grad
    assert copy.deepcopy(pooling).scores is None
    assert set(pooling.state_dict()) == {"score.weight"}


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_that_do_not_divide_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match="heads divide the 6 channels"):
        AttentionPooling(6, heads)


class Pools(nn.Module):
    """Averages in a given way; a norm stands behind."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(2 if how == "coarse" else 1)
        self.norm = nn.LayerNorm(4)
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        maps = self.see(images).relu()
        pooled: Tensor
        if self.how in ("module", "coarse"):
            pooled = self.pool(maps).flatten(1)
        elif self.how == "function":
            pooled = functional.adaptive_avg_pool2d(maps, (1, 1)).flatten(1)
        elif self.how == "method":
            pooled = maps.mean([-2, -1])
        elif self.how == "kept":
            pooled = torch.mean(maps, (2, 3), keepdim=True).flatten(1)
        elif self.how == "twice":
            pooled = maps.mean((2, 3)) + self.pool(maps).flatten(1)
        else:
            pooled = maps.amax(dim=(2, 3))
        return self.norm(pooled) if self.how != "coarse" else pooled


@pytest.mark.parametrize("how", ["module", "function", "method", "kept"])
def test_takes_the_place_of_any_average_pooling(how: str) -> None:
    torch.manual_seed(0)
    network, images = Pools(how).eval(), torch.randn(2, 3, 9, 9)
    plain = network(images)
    made = attended(network, channels=4, heads=2)
    assert isinstance(made.get_submodule("attention"), AttentionPooling)
    assert torch.allclose(made(images), plain, atol=1e-5)
    with torch.no_grad():
        nn.init.normal_(made.get_parameter("attention.score.weight"))
    assert not torch.allclose(made(images), plain, atol=1e-3)
    assert not made.training
    assert not hasattr(made, "pool")


@pytest.mark.parametrize(("how", "count"), [("max", 0), ("twice", 2), ("coarse", 0)])
def test_other_networks_are_refused(how: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"Pools has {count} average poolings, not one"):
        attended(Pools(how), channels=4)


@pytest.mark.parametrize("name", ["small-resnet", "resnet18", "densenet121", "efficientnet-lite0"])
def test_begins_as_its_base(name: str) -> None:
    """With the same weights it gives the same features, all tensors under the base's names."""
    base = registry.create(registry.find("backbone", name)).eval()
    made = registry.create(registry.find("backbone", f"attention-{name}")).eval()
    fresh = made.load_state_dict(base.state_dict(), strict=False)
    assert fresh.missing_keys == ["attention.score.weight"]
    assert not fresh.unexpected_keys
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, found = base(images), made(images)
    assert torch.allclose(found, features, atol=1e-5 * float(features.abs().max()))


def test_imagenet_weights_come_along() -> None:
    name = "efficientnet-lite0"
    component, spec = find_backbone(name)
    base = registry.create(component).eval()
    assert load_weights(base, spec, "imagenet") == "imagenet"
    component, spec = find_backbone(f"attention-{name}")
    made = registry.create(component).eval()
    nn.init.normal_(made.get_parameter("attention.score.weight"))
    load_weights(made, spec, "imagenet")
    assert not made.get_parameter("attention.score.weight").any()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(made(images), base(images), atol=1e-5)
