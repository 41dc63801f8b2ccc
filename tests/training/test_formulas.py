from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from fashionbatch.errors import UsageError
from fashionbatch.models.build import Head
from fashionbatch.specs import HeadSpec
from fashionbatch.training.schedule import with_warmup
from fashionbatch.training.targets import Targets
from tests.training.components import regularizer, schedule


@pytest.mark.parametrize("epoch", [0, 0.5, 4.99, 5, 9.9, 10, 14, 25])
def test_schedules(epoch):
    """The schedules are the paper's formulas."""
    assert schedule("constant")(epoch) == 1
    assert schedule("step")(epoch) == 0.5 ** math.floor(epoch / 10)
    assert schedule("step:drop=0.2,epochs_drop=5")(epoch) == 0.2 ** math.floor(epoch / 5)
    assert schedule("exponential")(epoch) == pytest.approx(0.9 ** math.floor(epoch))
    assert schedule("exponential:gamma=0.5")(epoch) == 0.5 ** math.floor(epoch)
    assert schedule("cosine")(epoch) == pytest.approx((1 + math.cos(math.pi * epoch / 30)) / 2)
    assert schedule("polynomial")(epoch) == pytest.approx(1 - epoch / 30)
    assert schedule("polynomial:power=2")(epoch) == pytest.approx((1 - epoch / 30) ** 2)


@pytest.mark.parametrize("name", ["cosine", "polynomial", "polynomial:power=0.5"])
def test_ends_at_zero(name):
    """It reaches 0 at the end and stays there."""
    assert schedule(name, 10)(10) == pytest.approx(0)
    assert schedule(name, 10)(11) == pytest.approx(0)


def factors(plateau, losses):
    """The factor behind each epoch."""
    found = []
    for epoch, loss in enumerate(losses, 1):
        plateau.after_epoch(epoch, {"val_loss": loss})
        found.append(plateau(epoch))
    return found


def test_plateau():
    """Lower behind patience epochs in a row without a lower loss, and again behind as many."""
    text = "plateau:factor=0.5,patience=2,min_delta=0.1"
    plateau = schedule(text)
    assert plateau(0) == 1
    losses = [1.0, 0.95, 0.8, 0.75, 0.71, math.nan, 0.9, 0.6, 0.6, 0.6]
    assert factors(plateau, losses) == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert factors(schedule(text), [math.nan, math.inf, 5.0, 4.0]) == [1, 0.5, 0.5, 0.5]


def test_plateau_remembers():
    """Wherever it is saved and restored, as JSON, it goes on the same."""
    text = "plateau:patience=2"
    losses = [math.inf, 1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 1.0]
    for cut in range(len(losses)):
        whole, first, second = schedule(text), schedule(text), schedule(text)
        factors(first, losses[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        assert factors(whole, losses)[cut:] == factors(second, losses[cut:])


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (2, 5), (0.5, 4), (1.5, 10)])
def test_warmup(epochs, steps):
    """Equal rises from above 0 up to the schedule's own rate, and that from then on."""
    warm = with_warmup(schedule("cosine"), epochs, steps)
    count = round(epochs * steps)
    for step in range(3 * count):
        rise = min((step + 1) / count, 1)
        assert warm(step / steps) == pytest.approx(rise * schedule("cosine")(step / steps))


def test_warmup_of_nothing():
    """Without epochs to warm up in, the schedule is as it was; a function has no memory."""
    plain = with_warmup(schedule("step"), 0, 7)
    assert [plain(e) for e in (0, 9.9, 10)] == [1, 1, 0.5]
    plain.after_epoch(1, {"val_loss": 1.0})
    assert plain.state_dict() == {}
    plain.load_state_dict({})


def test_warmup_keeps_the_memory_within():
    """What a schedule remembers goes through its warm-up."""
    text = "plateau:factor=0.5,patience=1"
    warm = with_warmup(schedule(text), 1, 4)
    assert factors(warm, [1.0, 1.0, 1.0]) == [1, 0.5, 0.25]
    other = with_warmup(schedule(text), 1, 4)
    other.load_state_dict(warm.state_dict())
    assert other(3) == 0.25
    assert warm(0) == 0.25 / 4


@pytest.mark.parametrize(
    "text",
    [
        "step:drop=0", "step:drop=2", "step:epochs_drop=0", "exponential:gamma=-1",
        "polynomial:power=0", "plateau:factor=1", "plateau:patience=0", "plateau:min_delta=-1",
    ],
)  # fmt: skip
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
    assert regularizer("l2-kernel:weight=0.1").penalty(
        head, outputs, Targets()
    ).item() == pytest.approx(1.125)
    assert regularizer("l2-kernel").penalty(head, outputs, Targets()).item() == pytest.approx(
        0.1125
    )


def test_l2_activity():
    """λ·Σy² over the outputs of every dense layer, as a mean over the images."""
    head = head_by_hand()
    outputs = head(torch.tensor([[1.0, 1.0], [0.0, -100.0]]))
    # image 1: hidden (3, 99.5), logits (10, -199); image 2: hidden (0, 50), logits (7, -100)
    first = 9 + 99.5**2 + 100 + 199**2
    second = 50**2 + 49 + 100**2
    value = regularizer("l2-activity:weight=0.01").penalty(head, outputs, Targets()).item()
    assert value == pytest.approx(0.01 * (first + second) / 2, rel=1e-6)


def test_penalties_have_gradients():
    """The penalties train."""
    head = head_by_hand()
    outputs = head(torch.ones(3, 2))
    for text in ("l2-kernel", "l2-activity"):
        head.zero_grad()
        regularizer(text).penalty(head, outputs, Targets()).backward(retain_graph=True)
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
