"""Each learns, goes on exactly from a checkpoint, and moves its groups as they are to move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fashionbatch import registry
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.training import averaged, checkpoint
from torch import Tensor, nn

from fashionbatch_optimizers import factories, plugin

#: far enough in 80 steps
RATES = {
    "prodigy": 1.0, "schedule-free-sgd": 0.5, "lion": 0.01, "muon": 0.05, "lamb": 0.03,
    "adopt": 0.05, "adan": 0.03, "schedule-free-adamw": 0.05, "adabelief": 0.03,
    "stable-adamw": 0.03,
}  # fmt: skip
SPECS = list(plugin.fashionbatch_optimizers())
every = pytest.mark.parametrize("name", [spec.name for spec in SPECS])


def problem() -> nn.Sequential:
    """Three layers, of which the first is frozen; convolutions channels last, as in training."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1)
    )
    net[0].requires_grad_(False)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def made(name: str, net: nn.Sequential, **options: Any) -> torch.optim.Optimizer:
    """Over groups as training makes them: the last layer at its rate, the one before at half."""
    component = registry.find("optimizer", f"fashionbatch-optimizers:{name}")
    options = {**{k: {"momentum": 0.9, "weight_decay": 1e-4}[k]
                  for k in component.spec.options}, **options}  # type: ignore[attr-defined]  # fmt: skip
    groups = [
        {"params": list(net[4].parameters()), "scale": 1.0},
        {"params": list(net[1].parameters()), "scale": 0.5},
    ]
    optimizer: torch.optim.Optimizer = registry.create(component, groups, lr=RATES[name], **options)
    averaged.begin(optimizer)
    return optimizer


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, name: str, count: int) -> list[float]:
    torch.manual_seed(1)
    images = torch.randn(32, 2, 6, 6)
    sums = images.mean(dim=(1, 2, 3)).mul(5)[:, None]
    losses = []
    for _ in range(count):
        for group in optimizer.param_groups:
            group["lr"] = RATES[name] * group["scale"]
        loss = (net(images) - sums).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@every
def test_learns_and_goes_on_exactly(name: str, tmp_path: Path) -> None:
    """The loss falls by two thirds; from a checkpoint the next steps are the same bit for bit."""
    net = problem()
    frozen = net[0].weight.detach().clone()
    optimizer = made(name, net)
    losses = steps(net, optimizer, name, 80)
    assert losses[-1] < losses[0] / 3, losses
    assert torch.equal(net[0].weight, frozen)
    checkpoint.save(tmp_path, 1, 0, net.state_dict(), optimizer, {}, extra={}, randoms=[])
    other = problem()
    resumed = made(name, other)
    steps(other, resumed, name, 1)  # what it has by now must give way
    found = checkpoint.load_last(tmp_path)
    checkpoint.restore_model(found, other)
    checkpoint.restore_optimizer(found, resumed)
    averaged.begin(resumed)
    assert steps(net, optimizer, name, 3) == steps(other, resumed, name, 3)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    with averaged.kept(optimizer), averaged.kept(resumed):
        for one, two in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)


@every
def test_group_of_half_the_rate_moves_half_as_far(name: str) -> None:
    """The first moves of a layer, at its rate and at half of it."""
    moves = []
    for scale in (1.0, 0.5):
        net = problem()
        optimizer = made(name, net, weight_decay=0.0)
        for group in optimizer.param_groups:
            if group["scale"] == 0.5:
                group["scale"] = scale
        before = net[1].weight.detach().clone()
        # adopt's first step only looks
        steps(net, optimizer, name, 2 if name == "adopt" else 1)
        moves.append(net[1].weight.detach() - before)
    largest = float(moves[0].abs().max())
    assert largest > 0
    assert torch.allclose(moves[1], moves[0] / 2, rtol=1e-3, atol=1e-3 * largest)


@every
def test_misspelled_option_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="bata1"):
        made(name, problem(), bata1=0.5)


@pytest.mark.parametrize("lr", [1e-3, 0.09])
def test_prodigy_refuses_a_rate(lr: float) -> None:
    """What is a rate elsewhere would keep it from learning anything."""
    component = registry.find("optimizer", "fashionbatch-optimizers:prodigy")
    with pytest.raises(UsageError, match="write --lr 1 "):
        registry.create(component, list(problem().parameters()), lr=lr)


def test_bad_values_are_refused() -> None:
    with pytest.raises(UsageError, match="beta1"):
        made("lion", problem(), beta1=1.5)
    with pytest.raises(UsageError, match="momentum"):
        made("schedule-free-sgd", problem(), momentum=0.0)


def test_muon_takes_matrices() -> None:
    """A matrix's step is orthogonal, of the size of AdamW's; vectors in disguise go to AdamW."""
    torch.manual_seed(0)
    shapes = [(6, 10), (4, 2, 3, 3), (1, 5, 8), (7, 1, 1), (5,), ()]
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = factories.muon(parameters, lr=0.1)
    taken = {g["use_muon"]: [tuple(p.shape) for p in g["params"]] for g in optimizer.param_groups}
    assert taken == {True: shapes[:2], False: shapes[2:]}
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer.step()
    moves = [p.detach() - b for p, b in zip(parameters, before, strict=True)]
    singular = torch.linalg.svdvals(moves[0]) / (0.1 * 0.2 * 10**0.5)
    assert singular.min() > 0.6  # Newton-Schulz comes that near to 1
    assert singular.max() < 1.3
    for move, p in zip(moves[2:], parameters[2:], strict=True):
        assert p.grad is not None
        assert torch.allclose(move, -0.1 * p.grad.sign(), atol=1e-4)


def test_lamb_is_the_papers() -> None:
    """A layer's first step: its rate, its norm, the direction of Adam's with the decay in it."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(5, 4))
    before, gradient = weight.detach().clone(), torch.randn(5, 4)
    optimizer = factories.lamb([weight], lr=0.01, weight_decay=0.1)
    weight.grad = gradient.clone()
    optimizer.step()
    m, v = 0.1 * gradient, 0.001 * gradient.square()
    update = m / (v.sqrt() + 1e-6) + 0.1 * before
    expected = before - 0.01 * before.norm() / update.norm() * update
    assert torch.allclose(weight, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["schedule-free-adamw", "schedule-free-sgd"])
def test_schedule_free_keeps_the_average(name: str) -> None:
    """What is validated and saved is the mean of the steps' weights, at a constant rate."""
    net = problem()
    optimizer = made(name, net, weight_decay=0.0)
    seen: list[Tensor] = []
    for _ in range(4):
        steps(net, optimizer, name, 1)
        seen.append(optimizer.state[net[4].weight]["z"].clone())
    with averaged.kept(optimizer):
        assert torch.allclose(net[4].weight, torch.stack(seen).mean(dim=0), atol=1e-5)
    assert not torch.allclose(net[4].weight, torch.stack(seen).mean(dim=0), atol=1e-5)
