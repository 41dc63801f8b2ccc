"""The table of torchvision's networks is what torchvision says, and each builds."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fashionbatch.builtin import torchvision_networks
from fashionbatch.builtin.torchvision_table import FAMILIES, Family, Network
from fashionbatch.explanation.maps import channel_maps
from fashionbatch.models import freeze
from fashionbatch.models.build import build, find_backbone
from fashionbatch.models.features import FeatureTap
from fashionbatch.specs import HeadSpec

TABLE = {n.name: (n, family) for family in FAMILIES for n in family.networks}


def test_every_classification_network_is_in_the_table_once() -> None:
    """No network is missing, none is there twice."""
    names = [n.name for family in FAMILIES for n in family.networks]
    assert sorted(names) == sorted(torchvision.models.list_models(module=torchvision.models))


@pytest.mark.parametrize("name", sorted(TABLE))
def test_table_equals_torchvisions_metadata(name: str) -> None:
    """Size, resize, filter and number of parameters are those of the best ImageNet weights."""
    network, _ = TABLE[name]
    weights = torchvision.models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    assert [network.size] == transforms.crop_size
    assert [network.resize] == transforms.resize_size
    assert network.interpolation == transforms.interpolation.value
    assert network.parameters == round(weights.meta["num_params"] / 1e6, 1)
    component, spec = find_backbone(name)
    assert component.provider == "fashionbatch"
    assert (spec.preprocessing.size, spec.preprocessing.resize) == (network.size, network.resize)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_normalization_is_that_of_the_weights(name: str) -> None:
    """Mean and standard deviation are those that the ImageNet weights were trained with."""
    _, spec = find_backbone(name)
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    assert list(spec.preprocessing.mean) == transforms.mean
    assert list(spec.preprocessing.std) == transforms.std


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("mobilenet_v3_small", 1024),
        ("shufflenet_v2_x0_5", 1024),
        ("squeezenet1_1", 512),
        ("mnasnet0_5", 1280),
        ("regnet_x_400mf", 400),
        ("efficientnet_b0", 1280),
        ("resnet18", 512),
    ],
)
def test_small_networks_build(name: str, features: int) -> None:
    """[N, D] at its own size; blocks match; the spatial map is [N, C, h, w]."""
    component, spec = find_backbone(name)
    model = build(component, spec.preprocessing, HeadSpec(), 3)
    side = spec.preprocessing.size
    images = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    with torch.inference_mode():
        logits, _, maps = FeatureTap(model, spec.cam_layer)(images)
        assert model.bottleneck(images).shape == (2, features) and logits.shape == (2, 3)
    assert maps.ndim == 4 and maps.shape[0] == 2 and maps.shape[2] == maps.shape[3] > 1
    blocks = freeze.block_names(model.backbone, spec.blocks)
    assert len(blocks) >= 3
    behind = freeze.parameters_behind(model.backbone, blocks)
    assert behind == sorted(behind) and behind[0] > 0


def test_blocks_and_cam_layer_of_every_family_exist() -> None:
    """The smallest network of each family, without memory: patterns match, the layer has a map."""
    for family in FAMILIES:
        network: Network = min(family.networks, key=lambda n: n.parameters)
        _check_names(network, family)


def _check_names(network: Network, family: Family) -> None:
    name = network.name
    net: nn.Module
    if name.startswith("regnet"):  # it computes its widths with tensors
        net = torchvision_networks._network(name)
    else:
        with torch.device("meta"):
            net = torchvision_networks._network(name)
    kept: list[Tensor] = []
    net.get_submodule(family.cam_layer).register_forward_hook(
        lambda module, inputs, output: kept.append(output)
    )
    device = next(net.parameters()).device
    with torch.inference_mode():
        net.eval()(torch.zeros(2, 3, network.size, network.size, device=device))
    [output] = kept
    maps = channel_maps(output, family.cam_layout)
    assert maps is not None, name
    assert maps.shape[0] == 2 and maps.shape[1] > maps.shape[2] == maps.shape[3] > 1, name
    assert len(freeze.block_names(net, family.blocks)) >= 3, name


def test_vgg16_has_the_papers_features() -> None:
    """At 150 pixels 4 x 4 x 512 = 8192 features, flattened without pooling."""
    component, spec = find_backbone("vgg16")
    model = build(component, spec.preprocessing.with_size(150), spec.head, 10)
    assert model.head.kernels[0].shape == (256, 8192)
    assert spec.head == HeadSpec(hidden=(256,), dropout=0.5)
    assert not any(isinstance(m, nn.Linear) for m in model.backbone.modules())


def test_resnet50_has_the_papers_head() -> None:
    """One dense layer of 1024 on 2048 features."""
    _, spec = find_backbone("resnet50")
    assert spec.head == HeadSpec(hidden=(1024,))
