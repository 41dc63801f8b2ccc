"""The formulas of the papers, written out; what is left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fashionbatch import registry
from fashionbatch.errors import UsageError
from torch import Tensor, nn

from fashionbatch_sam.minimization import Asam, Sam


class Problem:
    """Two parameters with the loss ``Σ w⁴ / 4``, one that the loss does not know, one frozen."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.first, self.second = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))
        self.unused = nn.Parameter(torch.ones(2))
        self.parameters = [self.first, self.unused, self.second]
        self.seen: list[Tensor] = []
        self.compute()

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters]).double()

    def gradient(self) -> Tensor:
        values = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.cat([g.flatten() for g in values]).double()

    @torch.enable_grad()
    def compute(self) -> None:
        self.seen.append(self.weights())
        for p in self.parameters:
            p.grad = None
        (self.first.pow(4).sum() / 4 + self.second.pow(4).sum() / 4).backward()


def by_hand(weights: Tensor, gradient: Tensor, rho: float, scale: Tensor) -> Tensor:
    """In float64: ``w + rho · T² g / ‖T g‖``."""
    return weights + rho * scale**2 * gradient / (scale * gradient).square().sum().sqrt()


@pytest.mark.parametrize(
    ("made", "rho", "scaled"),
    [
        (lambda: Sam(rho=0.3), 0.3, torch.ones_like),
        (lambda: Sam(), 0.05, torch.ones_like),
        (lambda: Asam(rho=0.7, eta=0.2), 0.7, lambda w: w.abs() + 0.2),
        (lambda: Asam(), 0.5, lambda w: w.abs() + 0.01),
    ],
)
def test_gradient_is_that_at_the_papers_weights(
    made: Callable[[], Sam], rho: float, scaled: Callable[[Tensor], Tensor]
) -> None:
    problem = Problem()
    weights, gradient = problem.weights(), problem.gradient()
    made().after_backward(problem.parameters, problem.compute)
    expected = by_hand(weights, gradient, rho, scaled(weights))
    expected[6:8] = weights[6:8]  # of the one without a gradient
    assert len(problem.seen) == 2
    assert torch.allclose(problem.seen[1], expected, atol=1e-6)
    cubes = expected**3
    cubes[6:8] = 0
    assert torch.allclose(problem.gradient(), cubes, atol=1e-5)
    assert torch.equal(problem.weights(), weights)  # bit for bit


@pytest.mark.parametrize("kind", [Sam, Asam])
def test_nothing_is_computed_where_it_would_change_nothing(kind: type[Sam]) -> None:
    """With radius 0, at a gradient of 0, and where nothing has one."""
    problem = Problem()
    kind(0.0).after_backward(problem.parameters, problem.compute)
    for p in (problem.first, problem.second):
        p.grad = torch.zeros_like(p)
    kind().after_backward(problem.parameters, problem.compute)
    kind().after_backward([problem.unused], problem.compute)
    assert len(problem.seen) == 1
    assert not problem.gradient().any()


@pytest.mark.parametrize("kind", [Sam, Asam])
def test_weights_come_back_behind_an_error(kind: type[Sam]) -> None:
    """A loss that is not finite there, or a gradient that is not here."""
    problem = Problem()
    weights = problem.weights()

    def fail() -> None:
        assert not torch.equal(problem.weights(), weights)
        raise KeyError

    with pytest.raises(KeyError):
        kind().after_backward(problem.parameters, fail)
    assert torch.equal(problem.weights(), weights)
    problem.first.grad = torch.full_like(problem.first, float("nan"))
    with pytest.raises(KeyError):
        kind().after_backward(problem.parameters, fail)
    assert torch.equal(problem.weights(), weights)


@pytest.mark.parametrize("text", ["sam", "asam"])
@pytest.mark.parametrize("options", [{"rho": -0.1}, {"rho": float("nan")}, {"radius": 1}])
def test_bad_options_are_refused(text: str, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        registry.create(registry.find("regularizer", text), **options)


def test_bad_eta_is_refused() -> None:
    with pytest.raises(UsageError, match="eta is at least 0"):
        registry.create(registry.find("regularizer", "asam"), eta=-1)
