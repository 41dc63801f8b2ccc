"""The loss: torch's own in one piece, and the same in pieces."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from fashionbatch.models.build import Outputs
from fashionbatch.training.targets import Loss, Targets


def outputs(rows: int = 7, classes: int = 4, attributes: int = 5, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator)
    marks = torch.randn(rows, attributes, generator=generator)
    return Outputs(logits, marks, torch.zeros(rows, 1), (torch.cat([logits, marks], 1),))


def part(made: Outputs, rows: slice) -> Outputs:
    return Outputs(made.logits[rows], made.attributes[rows], made.bottleneck[rows], ())


CATEGORY = torch.tensor([0, 3, 1, -1, 2, 2, 0])
ATTRIBUTES = (torch.arange(35).reshape(7, 5) % 3 == 0).float()
KNOWN = torch.arange(35).reshape(7, 5) % 4 != 1
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 4.0])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_category_is_torchs_cross_entropy(weights):
    """Unknown categories do not count, classes weigh as they are told to."""
    loss, targets = Loss(class_weights=weights), Targets(category=CATEGORY)
    made = outputs()
    expected = functional.cross_entropy(made.logits, CATEGORY, weight=weights, ignore_index=-1)
    assert loss(made, targets, loss.norms(targets)) == pytest.approx(expected.item(), abs=1e-6)
    soft = Targets(category=targets.shares(4))  # one-hot shares are the same thing
    assert loss(made, soft, loss.norms(soft)) == pytest.approx(expected.item(), abs=1e-6)


def test_attributes_count_where_they_are_known():
    """The mean of the binary cross-entropies that are known, whatever the others hold."""
    loss = Loss(attribute_weight=3.0)
    made = outputs()
    targets = Targets(attributes=ATTRIBUTES, known=KNOWN)
    expected = functional.binary_cross_entropy_with_logits(
        made.attributes, ATTRIBUTES, reduction="none"
    )
    mean = 3 * expected[KNOWN].mean().item()
    assert loss(made, targets, loss.norms(targets)) == pytest.approx(mean, abs=1e-6)
    made.attributes[~KNOWN] = math.inf
    assert loss(made, targets, loss.norms(targets)) == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("soft", [False, True])
def test_pieces_add_up(weights, soft):
    """A batch worked off in pieces has the loss that it has as a whole."""
    loss = Loss(class_weights=weights)
    made = outputs()
    whole = Targets(category=CATEGORY, attributes=ATTRIBUTES, known=KNOWN)
    if soft:
        whole = Targets(category=whole.shares(4), attributes=ATTRIBUTES, known=KNOWN)
    norms = loss.norms(whole)
    pieces = [slice(0, 1), slice(1, 4), slice(4, 7)]
    summed = sum(loss(part(made, rows), whole[rows], norms) for rows in pieces)
    assert torch.allclose(summed, loss(made, whole, norms), atol=1e-6)
    assert sum(len(whole[rows]) for rows in pieces) == len(whole) == 7


def test_nothing_known_is_no_loss():
    """Not NaN."""
    loss = Loss()
    targets = Targets(category=torch.full((7,), -1), attributes=ATTRIBUTES, known=KNOWN & False)
    assert loss(outputs(), targets, loss.norms(targets)) == 0
