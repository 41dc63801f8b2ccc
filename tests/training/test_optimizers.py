"""The optimizers of torch: each learns, and its state goes through a checkpoint exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fashionbatch import registry
from fashionbatch.specs import OptimizerSpec
from fashionbatch.training import checkpoint

#: far enough in 60 steps
RATES = {"asgd": 0.05, "adadelta": 1.0, "adagrad": 0.1, "radam": 0.05, "adafactor": 0.1}
BUILTIN = [c.spec for c in registry.components("optimizer") if c.provider == "fashionbatch"]


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """Two layers, and sums to learn."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    values = torch.randn(32, 6)
    return net, values, values.sum(1, keepdim=True)


def made(spec: OptimizerSpec, net: nn.Module) -> torch.optim.Optimizer:
    options = {k: {"momentum": 0.9, "weight_decay": 1e-4}[k] for k in spec.options}
    component = registry.find("optimizer", spec.name)
    parameters = list(net.parameters())
    optimizer: torch.optim.Optimizer = registry.create(
        component, parameters, lr=RATES.get(spec.name, 0.01), **options
    )
    return optimizer


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    _, values, sums = problem()
    losses = []
    for _ in range(count):
        loss = (net(values) - sums).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_all_of_torchs_that_fit() -> None:
    """What torch has and we have not is left out for a reason."""
    unfit = {"LBFGS", "SparseAdam", "Muon", "Optimizer"}
    theirs = {n for n, v in vars(torch.optim).items() if isinstance(v, type)} - unfit
    made = (str(spec.factory).removeprefix("torch.optim:") for spec in BUILTIN)
    assert {name.replace("fashionbatch.builtin.optimizers:sgd", "SGD") for name in made} == theirs


@pytest.mark.parametrize("spec", BUILTIN, ids=lambda spec: spec.name)
def test_optimizer_learns_and_goes_on_exactly(spec: OptimizerSpec, tmp_path: Path) -> None:
    """The loss falls by half; from a checkpoint the next steps are bit for bit the same."""
    net = problem()[0]
    optimizer = made(spec, net)
    losses = steps(net, optimizer, 60)
    assert losses[-1] < losses[0] / 2
    checkpoint.save(tmp_path, 1, 0, net.state_dict(), optimizer, {}, extra={}, randoms=[])
    other = problem()[0]
    resumed = made(spec, other)
    steps(other, resumed, 1)  # what it has by now must give way
    found = checkpoint.load_last(tmp_path)
    checkpoint.restore_model(found, other)
    checkpoint.restore_optimizer(found, resumed)
    assert steps(net, optimizer, 3) == steps(other, resumed, 3)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
