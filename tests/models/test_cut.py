"""A backbone in two parts gives what it gives as one; a backbone cut off ends with its layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fashionbatch import registry
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.models import freeze
from fashionbatch.models.build import Classifier, build, find_backbone, load_weights
from fashionbatch.models.card import ModelCard, load, save
from fashionbatch.models.cut import cut
from fashionbatch.models.truncate import truncate
from fashionbatch.specs import HeadSpec

SLOW = pytest.mark.slow
NETWORKS = [
    ("small-resnet", 28),
    ("shufflenet_v2_x0_5", 32),
    pytest.param("googlenet", 32, marks=SLOW),
    pytest.param("mobilenet_v3_small", 32, marks=SLOW),
    pytest.param("densenet121", 32, marks=SLOW),
    pytest.param("efficientnet_b0", 32, marks=SLOW),
    pytest.param("swin_t", 32, marks=SLOW),
    pytest.param("vit_b_32", 224, marks=SLOW),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than these small networks take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name: str, side: int, bottleneck: str | None = None) -> Classifier:
    component, spec = find_backbone(name)
    torch.manual_seed(0)
    size = spec.preprocessing.with_size(side)
    return build(component, size, HeadSpec(), 3, bottleneck=bottleneck)


def images(side: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def trained(network: nn.Module, answer: Tensor) -> dict[str, Tensor]:
    """Gradients of a sum of squares."""
    network.zero_grad()
    answer.square().sum().backward()  # type: ignore[no-untyped-call]  # torch's is not annotated
    found = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return {name: gradient.clone() for name, gradient in found.items()}


@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_parts_are_the_whole(name: str, side: int) -> None:
    """Bit for bit: answers in evaluation; answers, gradients and statistics in training."""
    model = made(name, side)
    net = model.backbone
    blocks = freeze.block_names(net, find_backbone(name)[1].blocks)
    for count in (1, 2, 3):
        freeze.unfreeze(model, blocks, count)
        model.eval()
        parts = cut(net, name, side)
        assert not net.training
        with torch.inference_mode():
            crossing = parts.prefix(images(side))
            assert torch.equal(parts.tail(crossing), net(images(side)))
        assert [(4, *c.shape) for c in parts.crossing] == [tuple(t.shape) for t in crossing]
        freeze.train_mode(model)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        torch.manual_seed(5)
        whole = net(images(side))
        gradients = trained(net, whole)
        after = {k: v.clone() for k, v in net.state_dict().items()}
        for key, value in net.state_dict().items():
            value.copy_(before[key])
        torch.manual_seed(5)
        answer = parts.tail(tuple(t.clone() for t in crossing))
        assert torch.equal(answer, whole)
        again = trained(net, answer)
        assert gradients.keys() == again.keys() and gradients
        assert all(torch.equal(v, again[k]) for k, v in gradients.items())
        assert all(torch.equal(v, after[k]) for k, v in net.state_dict().items())


class Parts(nn.Module):
    """What the networks below are made of; ``a`` stands in front of ``b``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)
        self.scale = nn.Parameter(torch.ones(6), requires_grad=False)
        self.drop = nn.Dropout(0.5)


class Skipping(Parts):
    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(1)
        count, width = flat.shape
        left, right = self.a(flat).chunk(2, dim=1)
        out = self.drop(self.b(torch.cat([right, left], 1).relu()) + flat)
        out = out.view(count * 2, width // 2).mul(self.scale).view(count, width)
        return out + torch.cat([left, left], 1)


def test_skips_and_numbers_cross_the_border() -> None:
    """Several tensors; shapes follow the number of images; dropout keeps its modes."""
    net = Skipping()
    net.a.requires_grad_(False)
    parts = cut(net.eval(), "net", 2)
    assert [c.shape for c in parts.crossing] == [(12,), (12,), (12,)]
    for count in (1, 5):
        x = images(2, count)
        assert torch.equal(parts.tail(parts.prefix(x)), net(x))
    net.drop.train()
    torch.manual_seed(3)
    expected = net(x)
    torch.manual_seed(3)
    assert torch.equal(parts.tail(parts.prefix(x)), expected)
    assert not torch.equal(parts.tail(parts.prefix(x)), expected)


def test_everything_frozen_needs_no_tracing() -> None:
    """The prefix is the backbone and the tail hands on what it gives."""

    class Net(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels.flatten(1) if pixels.sum() > 0 else -pixels.flatten(1)

    parts = cut(Net(), "net", 2)
    x = images(2)
    assert torch.equal(parts.tail(parts.prefix(x)), Net()(x))
    assert [c.shape for c in parts.crossing] == [(12,)]


class Branching(Parts):
    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.a(pixels.flatten(1))
        return self.b(hidden if hidden.sum() > 0 else -hidden)


class Moody(Parts):
    def forward(self, pixels: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.a(pixels.flatten(1)), 0.5, self.training)
        return self.b(hidden)


class Mixing(Parts):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) + self.b(self.a(pixels.flatten(1)).mean(0, keepdim=True))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "control flow"),
        (Moody, "other steps in training"),
        (Mixing, "no row for each image"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(kind: type[Parts], reason: str) -> None:
    """Names the backbone, the reason and what to do."""
    net = kind().eval()
    net.a.requires_grad_(False)
    with pytest.raises(UsageError, match=f"'odd' cannot be cut .*{reason}.*leave") as caught:
        cut(net, "odd", 2)
    assert "\n" not in str(caught.value)


def test_nothing_frozen_is_refused() -> None:
    """There is nothing to compute once."""
    with pytest.raises(UsageError, match="nothing of backbone 'net' is frozen"):
        cut(nn.Linear(1, 1), "net", 2)


@pytest.mark.parametrize(
    ("name", "layer", "pool", "shape"),
    [
        ("small-resnet", "blocks.1", "avg", (2, 64)),
        ("small-resnet", "blocks.1.conv1", "flatten", (2, 64 * 49)),
        ("resnet18", "layer2.0", "avg", (2, 128)),
        ("swin_t", "features.3", "avg", (2, 192)),
    ],
)
def test_truncated_backbone_ends_with_its_layer(
    name: str, layer: str, pool: str, shape: tuple[int, int]
) -> None:
    """Its output, the names and order of its weights; what lies behind is gone."""
    net = registry.create(find_backbone(name)[0]).eval()
    kept: list[Tensor] = []
    hook = net.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o.clone()))
    x = images(28, 2)
    with torch.inference_mode():
        net(x)
        hook.remove()
        maps = kept[0] if kept[0].shape[3] == kept[0].shape[2] else kept[0].permute(0, 3, 1, 2)
        expected = kept[0].flatten(1) if pool == "flatten" else maps.mean((2, 3))
        ended = truncate(net, name, layer, pool)
        assert torch.allclose(ended(x), expected, atol=1e-6) and expected.shape == shape
    names = [n for n, _ in net.named_parameters()]
    last = max(i for i, n in enumerate(names) if n.startswith(layer + "."))
    kept_names = [n for n, _ in ended.named_parameters()]
    assert [n for n in names if n in set(kept_names)] == kept_names
    assert not set(names[last + 1 :]) & set(kept_names)


def test_truncated_model_loads_weights_unfreezes_and_comes_back(tmp_path: Path) -> None:
    """Weights of the whole network fit; blocks behind the layer are no blocks; the card knows."""
    component, spec = find_backbone("small-resnet")
    whole = made("small-resnet", 28)
    torch.save(whole.backbone.state_dict(), tmp_path / "whole.pth")
    model = made("small-resnet", 28, "blocks.1:flatten")
    assert model.head.kernels[0].shape == (3, 64 * 49)
    load_weights(model.backbone, spec, str(tmp_path / "whole.pth"))
    state = whole.backbone.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.backbone.state_dict().items())
    blocks = freeze.block_names(model.backbone, spec.blocks, truncated=True)
    assert blocks[-1] == "blocks.1"
    freeze.unfreeze(model, blocks, 1)
    assert {n.split(".")[1] for n, p in model.backbone.named_parameters() if p.requires_grad} == {
        "1"
    }
    about = ModelCard(
        backbone=component.provenance,
        head=HeadSpec(),
        bottleneck="blocks.1:flatten",
        classes=("a", "b", "c"),
        preprocessing=spec.preprocessing.with_size(28),
    )
    save(tmp_path, model, about)
    again, card = load(tmp_path)
    x = torch.randint(0, 256, (2, 3, 28, 28)).byte()
    assert card.bottleneck == "blocks.1:flatten"
    assert torch.equal(again(x).logits, model(x).logits)


def test_layers_that_end_nothing_are_refused() -> None:
    """Unknown, never run, or no vector: one line each."""
    with pytest.raises(UnknownNameError, match="blocks.2"):
        made("small-resnet", 28, "block.2")
    with pytest.raises(UsageError, match="--bottleneck drop.*never run"):
        truncate(Mixing(), "odd", "drop", "avg")
    with pytest.raises(UsageError, match="cannot be cut off there"):
        truncate(Branching(), "odd", "a", "avg")
    with pytest.raises(UsageError, match="--bottleneck"):
        made("small-resnet", 28, "blocks.1:max")
