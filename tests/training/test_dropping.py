"""Dropout and stochastic depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from fashionbatch.errors import UsageError
from tests.training.components import Backbone, model, regularizer


class Residual(Backbone):
    """Four branches around a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(StochasticDepth(0.9, "row") for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        values = super().forward(images)
        for branch in self.branches:
            values = values + branch(torch.ones_like(values))
        return values


def test_dropout() -> None:
    """The rate is the head's; half of the last layer's inputs are 0 in training only."""
    made = model()
    regularizer("dropout:p=0.5", made)
    assert made.head.dropout.p == 0.5
    seen: list[Tensor] = []
    made.head.dropout.register_forward_hook(lambda m, given, found: seen.append(found))
    vectors = torch.ones(4000, 4)
    with torch.no_grad():
        made.head.dense[0].bias.fill_(10.0)
    made.head.train()(vectors)
    made.head.eval()(vectors)
    assert 0.45 < (seen[0] == 0).float().mean() < 0.55
    assert (seen[1] != 0).all()


def test_stochastic_depth_rises_with_depth() -> None:
    """The l-th of L branches is left out at p·l / L; in evaluation none is."""
    made = model(backbone=Residual())
    regularizer("stochastic-depth:p=0.4", made)
    assert [b.p for b in made.backbone.branches] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    made.eval()
    images = torch.zeros(3000, 3, 8, 8)
    whole = made.backbone(images)
    made.train()
    made.backbone.norm.eval()
    for branch, rate in zip(made.backbone.branches, (0.1, 0.2, 0.3, 0.4), strict=True):
        left_out = (branch(torch.ones(3000, 1)) == 0).float().mean()
        assert left_out == pytest.approx(rate, abs=0.04)
    assert not torch.equal(made.backbone(images), whole)


def test_stochastic_depth_needs_branches() -> None:
    """A network without them is refused with one line."""
    with pytest.raises(ValueError, match="no branches to leave out") as error:
        regularizer("stochastic-depth", model())
    assert "\n" not in str(error.value)


def test_stochastic_depth_needs_branches_that_are_trained() -> None:
    """Frozen ones are never left out: where all are, nothing would happen; some are enough."""
    made = model(backbone=Residual())
    made.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match="all 4 branches that could be left out are frozen"):
        regularizer("stochastic-depth", made)
    made.backbone.norm.bias.requires_grad_(True)
    regularizer("stochastic-depth:p=0.4", made)
    assert made.backbone.branches[0].p == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["dropout:p=1", "stochastic-depth:p=-0.1"])
def test_bad_values(text: str) -> None:
    """A rate is at least 0 and below 1."""
    with pytest.raises(UsageError, match="below 1"):
        regularizer(text)
