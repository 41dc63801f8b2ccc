"""The contracts that components of each kind are held to."""

from __future__ import annotations

import pytest
from fashionbatch import testing
from torch import nn

from fashionbatch_attention import plugin
from fashionbatch_attention.networks import attended

#: small inputs for some of each structure
SIZES = {"attention-small-resnet": 28, "attention-efficientnet-lite0": 64}
SLOW = {
    "attention-resnet18": 64, "attention-mobilenet_v3_small": 64, "attention-densenet121": 64,
    "attention-convnext_tiny": 64, "attention-swin_t": 64, "attention-regnet_y_800mf": 64,
    "attention-efficientnet_b0": 64,
}  # fmt: skip
SPECS = {spec.name: spec for spec in plugin.fashionbatch_backbones()}


def small(network: nn.Module) -> nn.Module:
    return attended(network, channels=4, heads=2)


@pytest.mark.parametrize("name", SIZES)
def test_backbones(name: str) -> None:
    testing.check_backbone(SPECS[name], size=SIZES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_larger_backbones(name: str) -> None:
    testing.check_backbone(SPECS[name], size=SLOW[name])


def test_regularizer() -> None:
    [spec] = plugin.fashionbatch_regularizers()
    testing.check_regularizer(spec, change=small, weight=0.5, spread=0.2)


def test_visualizer() -> None:
    [spec] = plugin.fashionbatch_visualizers()
    testing.check_visualizer(spec, change=small)
    testing.check_visualizer(spec, change=small, head=2)
