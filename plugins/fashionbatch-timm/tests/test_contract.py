"""The contract that every backbone is held to, and what its Grad-CAM layer promises."""

from __future__ import annotations

import dataclasses

import fashionbatch
import pytest
import torch
from fashionbatch import registry
from fashionbatch.explanation.maps import channel_maps
from fashionbatch.testing import check_backbone
from torch import Tensor

from fashionbatch_timm import plugin

SPECS = {spec.name.removeprefix("timm-"): spec for spec in plugin.fashionbatch_backbones()}
#: two convolutional networks, one whose last map is [N, h, w, C], and two transformers: one pools
#: by attention, one averages
FEW = ("test_resnet", "test_efficientnet", "test_mambaout", "test_vit3", "test_vit_relpos")
#: small ones, each of another of timm's modules
MORE = (
    "cpubone_nano",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "deit_tiny_distilled_patch16_224",
    "dla46x_c",
    "edgenext_xx_small",
    "efficientformerv2_s0",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "ese_vovnet19b_slim_dw",
    "fasternet_t0",
    "hardcorenas_b",
    "hgnetv2_b0",
    "inception_next_atto",
    "lcnet_035",
    "lcnetv2_small",
    "levit_128s",
    "lowformer_b0",
    "mobilevit_xxs",
    "pit_ti_224",
    "regnetx_002",
    "test_convnext",
    "test_nfnet",
    "vit_tiny_r_s16_p8_224",
    "xcit_tiny_12_p16_224",
)


@pytest.mark.parametrize("name", FEW)
def test_backbones(name: str) -> None:
    check_backbone(SPECS[name])
    check_map(SPECS[name])


def test_map_of_a_class_token() -> None:
    """Behind the last attention the map counts for nothing: its layer stands in front of that."""
    spec = SPECS["deit_tiny_distilled_patch16_224"]
    check_map(spec)
    with pytest.raises(AssertionError, match="0% of its map counts"):
        check_map(dataclasses.replace(spec, cam_layer="norm"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_backbones(name: str) -> None:
    check_backbone(SPECS[name])
    check_map(SPECS[name])


def check_map(spec: fashionbatch.BackboneSpec) -> None:
    """The answer depends on every place of the last map."""
    torch.manual_seed(0)
    network = registry.resolve(spec.factory)().eval()
    maps: list[Tensor] = []
    network.get_submodule(spec.cam_layer).register_forward_hook(
        lambda module, inputs, output: maps.append(output)
    )
    side = spec.preprocessing.size
    features = network(torch.randn(1, 3, side, side))
    (gradient,) = torch.autograd.grad((features * torch.randn(features.shape)).sum(), maps[0])
    found = channel_maps(gradient, spec.cam_layout)
    assert found is not None
    reached = found.abs().sum(dim=1) > 0
    assert reached.all(), f"{spec.name}: {reached.float().mean():.0%} of its map counts"
