from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fashionbatch import registry
from fashionbatch.errors import UsageError
from fashionbatch.models.build import Head
from fashionbatch.parse import parse_choice
from fashionbatch.specs import HeadSpec


def schedule(text, epochs=30):
    name, options = parse_choice(text)
    return registry.create(registry.find("schedule", name), epochs, **options)


def regularizer(text):
    name, options = parse_choice(text)
    return registry.create(registry.find("regularizer", name), **options)


@pytest.mark.parametrize("epoch", [0, 0.5, 4.99, 5, 9.9, 10, 14, 25])
def test_schedules(epoch):
    """The schedules are the paper's formulas."""
    assert schedule("constant")(epoch) == 1
    assert schedule("step")(epoch) == 0.5 ** math.floor(epoch / 10)
    assert schedule("step:drop=0.2,epochs_drop=5")(epoch) == 0.2 ** math.floor(epoch / 5)
    assert schedule("exponential")(epoch) == pytest.approx(0.9 ** math.floor(epoch))
    assert schedule("exponential:gamma=0.5")(epoch) == 0.5 ** math.floor(epoch)
    assert schedule("cosine")(epoch) == pytest.approx((1 + math.cos(math.pi * epoch / 30)) / 2)


def test_cosine_ends_at_zero():
    """The cosine reaches 0 at the end and stays there."""
    assert schedule("cosine", 10)(10) == pytest.approx(0)
    assert schedule("cosine", 10)(11) == pytest.approx(0)


@pytest.mark.parametrize(
    "text", ["step:drop=0", "step:drop=2", "step:epochs_drop=0", "exponential:gamma=-1"]
)
def test_bad_schedules(text):
    """Values that make no schedule are refused."""
    with pytest.raises(UsageError):
        schedule(text)


def head_by_hand():
    head = Head(2, 2, HeadSpec(hidden=(2,)))
    with torch.no_grad():
        head.dense[0].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
        head.dense[0].bias.copy_(torch.tensor([0.0, 100.0]))
        head.dense[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
        head.dense[1].bias.copy_(torch.tensor([7.0, 0.0]))
    return head


def test_l2_kernel():
    """λ·Σw² over both kernels; the biases are free."""
    head = head_by_hand()
    outputs = head(torch.ones(3, 2))
    # 1 + 4 + 1 + 0.25 and 1 + 4
    assert regularizer("l2-kernel:weight=0.1").penalty(head, outputs).item() == pytest.approx(1.125)
    assert regularizer("l2-kernel").penalty(head, outputs).item() == pytest.approx(0.1125)


def test_l2_activity():
    """λ·Σy² over the outputs of every dense layer, as a mean over the images."""
    head = head_by_hand()
    outputs = head(torch.tensor([[1.0, 1.0], [0.0, -100.0]]))
    # image 1: hidden (3, 99.5), logits (10, -199); image 2: hidden (0, 50), logits (7, -100)
    first = 9 + 99.5**2 + 100 + 199**2
    second = 50**2 + 49 + 100**2
    value = regularizer("l2-activity:weight=0.01").penalty(head, outputs).item()
    assert value == pytest.approx(0.01 * (first + second) / 2, rel=1e-6)


def test_penalties_have_gradients():
    """The penalties train."""
    head = head_by_hand()
    outputs = head(torch.ones(3, 2))
    for text in ("l2-kernel", "l2-activity"):
        head.zero_grad()
        regularizer(text).penalty(head, outputs).backward(retain_graph=True)
        assert head.dense[0].weight.grad.abs().sum() > 0


def test_clip_grad():
    """All gradients together get the norm; short ones stay as they are."""
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    regularizer("clip-grad:max_norm=0.5").on_gradients([a, b])
    assert a.grad[0].item() == pytest.approx(0.3, rel=1e-4)
    assert b.grad[0].item() == pytest.approx(0.4, rel=1e-4)
    before = a.grad.clone(), b.grad.clone()
    regularizer("clip-grad:max_norm=5.0").on_gradients([a, b])
    assert torch.equal(a.grad, before[0])
    assert torch.equal(b.grad, before[1])


def test_early_stopping_counts():
    """It stops behind ``patience`` epochs in a row that are not lower by min_delta."""
    stop = regularizer("early-stopping:patience=2,min_delta=0.1")
    losses = [1.0, 0.95, 0.8, 0.75, 0.71]
    assert [stop.after_epoch(i, {"val_loss": v}) for i, v in enumerate(losses, 1)] == [
        False, False, False, False, True,
    ]  # fmt: skip
    other = regularizer("early-stopping:patience=2,min_delta=0.1")
    other.load_state_dict(stop.state_dict())
    assert (other.best, other.waited) == (0.8, 2)
    fresh = regularizer("early-stopping")
    other.load_state_dict(fresh.state_dict())
    assert other.best == math.inf


@pytest.mark.parametrize(
    "text", ["early-stopping:patience=0", "l2-kernel:weight=-1", "clip-grad:max_norm=x"]
)
def test_bad_regularizers(text):
    """Values that make no regularizer are refused."""
    with pytest.raises(UsageError):
        regularizer(text)
