"""Optimizers with weights of their own to validate and save."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fashionbatch.errors import StoppedError
from fashionbatch.training import averaged, components
from tests.training.runs import history, same, weights


class ScheduleFree(torch.optim.Optimizer):
    """Steps of SGD at ``z``, and the mean ``x`` of those; the gradient is taken between the two.

    Like others of its kind, it computes one from the other when it is told to, which rounds.
    """

    made: list[ScheduleFree] = []  # noqa: RUF012 - a test looks at what a training has made

    def __init__(self, params: Any, lr: float, beta: float = 0.6) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "steps": 0, "training": False})
        self.made.append(self)
        self.start: dict[Tensor, Tensor] = {}
        self.seen: dict[Tensor, list[Tensor]] = defaultdict(list)

    @torch.no_grad()
    def _move(self, weight: Callable[[float], float], training: bool) -> None:
        for group in self.param_groups:
            if group["training"] != training:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], weight(group["beta"]))
            group["training"] = training

    def eval(self) -> None:
        self._move(lambda beta: 1 - 1 / beta, False)

    def train(self) -> None:
        self._move(lambda beta: 1 - beta, True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            assert group["training"], "nobody has told that steps follow"
            group["steps"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                self.start.setdefault(p, p.clone())
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, 1 / group["steps"])
                p.sub_(p.grad, alpha=group["lr"] * (1 - group["beta"] * (1 - 1 / group["steps"])))
                z.sub_(p.grad, alpha=group["lr"])
                self.seen[p].append(z.clone())


@pytest.fixture(autouse=True)
def chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every training uses it."""
    monkeypatch.setattr(ScheduleFree, "made", [])
    monkeypatch.setattr(
        components, "optimizer", lambda config, groups, lr, frozen: ScheduleFree(groups, lr)
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop_at(number: int) -> Callable[[str, dict[str, Any]], None]:
    """Asks for an end while step ``number`` (counted over all epochs) is made."""
    made = []

    def tell(event: str, values: dict[str, Any]) -> None:
        if event == "step":
            made.append(values["step"])
            if len(made) == number:
                os.kill(os.getpid(), signal.SIGINT)

    return tell


def test_averaged_weights_are_validated_and_saved(
    train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The saved weights are the mean over the steps; the history tells what these achieve."""
    train(epochs=1, lr=0.05, augment="none")
    saved = weights(tmp_path / "run")
    (steps,) = {len(each) for each in ScheduleFree.made[-1].seen.values()}
    assert steps == 2
    for first, last in ScheduleFree.made[-1].seen.values():
        alike = [v for v in saved.values() if v.shape == first.shape]
        assert any(torch.allclose(v, (first + last) / 2, atol=1e-6) for v in alike)
        assert not any(torch.allclose(v, last, atol=1e-6) for v in alike)
    (row,) = history(tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert float(row["val_loss"]) == pytest.approx(metrics["val"]["loss"], rel=1e-6)


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_goes_on_exactly(number: int, train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Stopped in an epoch or behind one, before and behind the change of what is frozen."""
    options: dict[str, Any] = {"epochs": 3, "freeze_epochs": 1, "unfreeze": "blocks:2", "lr": 0.05}
    train("whole", **options)
    frozen, after = (each for each in ScheduleFree.made if each.seen)
    for parameter, seen in frozen.seen.items():  # the head: goes on from what was kept of it
        mean = torch.stack(seen).mean(dim=0)
        assert torch.allclose(after.start[parameter], mean, atol=1e-6)
    with pytest.raises(StoppedError):
        train("cut", tell=stop_at(number), **options)
    train("cut", resume=True, **options)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert history(tmp_path / "whole") == history(tmp_path / "cut")


def test_looking_changes_nothing() -> None:
    """Between ``eval`` and ``train`` weights are others; behind them, the same bit for bit."""
    torch.manual_seed(0)
    net = torch.nn.Linear(50, 20)
    optimizer = ScheduleFree(net.parameters(), lr=0.1)
    averaged.begin(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.rand(8, 50)).square().mean().backward()
        optimizer.step()
    before = net.weight.detach().clone()
    rounded = before.lerp(optimizer.state[net.weight]["z"], 1 - 1 / 0.6)
    rounded.lerp_(optimizer.state[net.weight]["z"], 1 - 0.6)
    assert not torch.equal(rounded, before)  # what the optimizer itself would leave
    with averaged.kept(optimizer):
        assert not torch.allclose(net.weight, before)
    assert torch.equal(net.weight, before)
    averaged.settle(optimizer)
    mean = torch.stack(optimizer.seen[net.weight]).mean(dim=0)
    assert torch.allclose(net.weight, mean, atol=1e-6)


def test_other_optimizers_are_left_alone() -> None:
    """One without both methods is none of these."""
    net = torch.nn.Linear(2, 2)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net.weight.detach().clone()
    averaged.begin(sgd)
    with averaged.kept(sgd):
        assert torch.equal(net.weight, before)
    averaged.settle(sgd)
    assert torch.equal(net.weight, before)
