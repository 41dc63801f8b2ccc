"""Frozen means frozen: weights, and running statistics too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fashionbatch.errors import PluginError, UsageError
from fashionbatch.models import freeze
from fashionbatch.models.build import Classifier, Head, build, find_backbone
from fashionbatch.specs import HeadSpec, Preprocessing

COMPONENT, SPEC = find_backbone("resnet50")
STATISTICS = ("running_mean", "running_var")


@pytest.fixture(scope="module")
def built() -> Classifier:
    return build(COMPONENT, SPEC.preprocessing.with_size(64), HeadSpec(hidden=(16,)), 4)


@pytest.fixture
def resnet(built: Classifier) -> Iterator[Classifier]:
    """The paper's network, with random weights, as if new."""
    yield built
    built.requires_grad_(True)
    built.eval()


def base(model: Classifier) -> int:
    return sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)


def statistics(model: Classifier) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.backbone.named_buffers() if k.endswith(STATISTICS)}


def test_resnet50_has_53120_statistics(resnet: Classifier) -> None:
    """The number the paper's network has: running means and variances."""
    assert sum(v.numel() for v in statistics(resnet).values()) == 53_120


def test_blocks_are_in_the_networks_order(resnet: Classifier) -> None:
    """3 + 4 + 6 + 3 residual blocks, from input to output."""
    names = freeze.block_names(resnet.backbone, SPEC.blocks)
    assert len(names) == 16
    assert names[0] == "layer1.0" and names[-3:] == ["layer4.0", "layer4.1", "layer4.2"]


@pytest.mark.parametrize(
    ("count", "parameters"), [(0, 0), (2, 8_925_184), (3, 14_964_736), (None, 23_508_032)]
)
def test_resnet50_unfreezes_as_published(
    resnet: Classifier, count: int | None, parameters: int
) -> None:
    """The last 2 and 3 blocks have the published numbers of weights; the head is always trained."""
    blocks = freeze.block_names(resnet.backbone, SPEC.blocks)
    freeze.unfreeze(resnet, blocks, count)
    assert base(resnet) == parameters
    head = sum(p.numel() for p in resnet.head.parameters())
    assert all(p.requires_grad for p in resnet.head.parameters())
    assert freeze.trainable_parameters(resnet) == parameters + head
    freeze.unfreeze(resnet, blocks, 2)  # and back from any state
    assert base(resnet) == 8_925_184


def test_parameters_behind_equal_what_is_trained(resnet: Classifier) -> None:
    """The table of choices shows what unfreeze then does."""
    blocks = freeze.block_names(resnet.backbone, SPEC.blocks)
    behind = freeze.parameters_behind(resnet.backbone, blocks)
    for count in (1, 2, 3, 7, 16):
        freeze.unfreeze(resnet, blocks, count)
        assert behind[count - 1] == base(resnet)


def test_too_many_blocks_are_refused(resnet: Classifier) -> None:
    """Says how many there are."""
    blocks = freeze.block_names(resnet.backbone, SPEC.blocks)
    with pytest.raises(UsageError, match="16 blocks"):
        freeze.unfreeze(resnet, blocks, 17)


@pytest.mark.parametrize("count", [0, 3, None])
def test_frozen_statistics_stay(resnet: Classifier, count: int | None) -> None:
    """After a forward pass in training mode only the trained blocks' statistics have changed."""
    freeze.unfreeze(resnet, freeze.block_names(resnet.backbone, SPEC.blocks), count)
    resnet.eval()
    freeze.train_mode(resnet)
    before = statistics(resnet)
    generator = torch.Generator().manual_seed(0)
    resnet(torch.randint(0, 256, (4, 3, 64, 64), generator=generator))
    changed = {k for k, v in statistics(resnet).items() if not torch.equal(v, before[k])}
    expected = {k for k in before if count is None or (count == 3 and k.startswith("layer4."))}
    assert changed == expected
    assert resnet.head.training and resnet.head.dropout.training


def test_a_step_changes_only_what_is_trained(resnet: Classifier) -> None:
    """Weights in front of the first trained block keep every bit."""
    freeze.unfreeze(resnet, freeze.block_names(resnet.backbone, SPEC.blocks), 1)
    freeze.train_mode(resnet)
    before = {k: v.detach().clone() for k, v in resnet.named_parameters()}
    trained = [p for p in resnet.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
    resnet(torch.rand(4, 3, 64, 64) * 255).logits.square().sum().backward()
    optimizer.step()
    for name, parameter in resnet.named_parameters():
        frozen = not name.startswith(("backbone.layer4.2.", "head."))
        assert parameter.requires_grad != frozen
        if frozen:
            assert torch.equal(parameter, before[name]) and parameter.grad is None
    assert not torch.equal(resnet.head.kernels[-1], before["head.dense.1.weight"])


@pytest.mark.parametrize("count", [0, 1, None])
def test_what_is_never_trained_never_changes(resnet: Classifier, count: int | None) -> None:
    """Checkpoints leave it out: everything in front of the first trained block."""
    blocks = freeze.block_names(resnet.backbone, SPEC.blocks)
    frozen = freeze.never_trained(resnet, blocks, count)
    freeze.unfreeze(resnet, blocks, count)
    freeze.train_mode(resnet)
    before = {k: v.detach().clone() for k, v in resnet.state_dict().items()}
    trained = [p for p in resnet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    resnet(torch.rand(4, 3, 64, 64) * 255).logits.square().sum().backward()
    optimizer.step()
    same = {k for k, v in resnet.state_dict().items() if torch.equal(v, before[k])}
    assert frozen <= same
    kept = {0: "backbone.", 1: "backbone.layer4.2.", None: ""}[count]
    base = {name for name in before if name.startswith("backbone.")}
    assert frozen == (base if count == 0 else {n for n in base if not n.startswith(kept)})


def test_buffers_go_with_the_module_that_trains_them() -> None:
    """Statistics of a normalization without weights change with what holds it."""

    class Block(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False))

    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(Block(), Block(), nn.Flatten())

    model = Classifier(Net(), Head(48, 2, HeadSpec()), Preprocessing(size=4, resize=4))
    blocks = freeze.block_names(model.backbone, ("*",))
    frozen = freeze.never_trained(model, blocks, 1)
    freeze.unfreeze(model, blocks, 1)
    freeze.train_mode(model)
    before = {k: v.detach().clone() for k, v in model.state_dict().items()}
    model(torch.rand(2, 3, 4, 4) * 255)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not changed & frozen
    assert {"backbone.0.0.weight", "backbone.0.1.running_mean"} < frozen


def test_what_stands_behind_the_last_block_is_trained() -> None:
    """A last normalization goes with the last block; dropout goes with its holder."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(
                *(nn.Sequential(nn.Linear(4, 4), nn.Dropout()) for _ in "ab")
            )
            self.norm = nn.LayerNorm(4)

    model = Classifier(Net(), Head(4, 2, HeadSpec()), Preprocessing())
    blocks = freeze.block_names(model.backbone, ("blocks.*",))
    assert blocks == ["blocks.0", "blocks.1"]
    freeze.unfreeze(model, blocks, 1)
    freeze.train_mode(model)
    modules = dict(model.backbone.named_modules())
    assert {n for n, p in model.backbone.named_parameters() if p.requires_grad} == {
        "blocks.1.0.weight",
        "blocks.1.0.bias",
        "norm.weight",
        "norm.bias",
    }
    assert modules["blocks.1.1"].training and modules["norm"].training
    assert not modules["blocks.0.1"].training and not modules["blocks.0.0"].training


def test_modules_that_are_trained_are_those_in_training_mode(resnet: Classifier) -> None:
    """One without parameters goes with the module around it."""
    blocks = freeze.block_names(resnet.backbone, SPEC.blocks)
    freeze.unfreeze(resnet, blocks, 1)
    trained = freeze.trained_modules(resnet)
    last, before = (resnet.backbone.get_submodule(name) for name in (blocks[-1], blocks[-2]))
    assert {last.relu, last.bn1, last} <= trained
    assert trained.isdisjoint(before.modules())
    freeze.train_mode(resnet)
    assert trained == {module for module in resnet.modules() if module.training}


def test_patterns_match_one_segment_and_must_match() -> None:
    """``*`` does not cross a dot; modules without weights are no blocks; no match is an error."""
    net = nn.Sequential()
    net.add_module("a", nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Sequential(nn.Linear(1, 1))))
    net.add_module("b", nn.Linear(1, 1))
    assert freeze.block_names(net, ("b", "a.*")) == ["a.0", "a.2", "b"]
    assert freeze.block_names(net, ("*",)) == ["a", "b"]
    with pytest.raises(PluginError, match=r"'c\.\*'"):
        freeze.block_names(net, ("c.*",))
