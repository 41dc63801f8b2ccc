"""The moving average of the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from fashionbatch.errors import UsageError
from fashionbatch.models import freeze
from fashionbatch.models.build import Classifier
from tests.training.components import model, regularizer


def step(made: Classifier, number: int) -> None:
    """Changes weights and running statistics."""
    freeze.train_mode(made)
    torch.manual_seed(number)
    made(torch.randint(0, 256, (4, 3, 8, 8)))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


def by_hand(history: list[Tensor], decay: float, first: int = 0) -> Tensor:
    """The formula in float64; the average starts with the first value, at step ``first``."""
    average = history[0].double()
    for t, value in enumerate(history[1:], first + 1):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * value.double()
    return average


@pytest.mark.parametrize("decay", [0.999, 0.3])
def test_average_is_the_formula(decay: float) -> None:
    """Weights and running statistics by the formula with its warm-up; counts as they are."""
    made = model()
    ema = regularizer(f"ema:decay={decay}", made)
    assert ema.evaluated(made) is None
    history: list[dict[str, Tensor]] = []
    for number in range(8):
        step(made, number)
        ema.after_step(made)
        history.append({k: v.clone() for k, v in made.state_dict().items()})
    found = ema.evaluated(made)
    assert set(found) == set(made.state_dict())
    assert found["backbone.norm.num_batches_tracked"] == 8
    for name, value in found.items():
        if value.is_floating_point():
            expected = by_hand([h[name] for h in history], decay)
            assert torch.allclose(value.double(), expected, atol=1e-5), name
    assert all(torch.equal(v, history[-1][k]) for k, v in made.state_dict().items())


def test_frozen_is_left_alone() -> None:
    """Frozen weights and statistics have no average; what is unfrozen later gets one then."""
    made = model()
    ema = regularizer("ema", made)
    freeze.unfreeze(made, (), 0)
    for number in range(3):
        step(made, number)
        ema.after_step(made)
    assert set(ema.evaluated(made)) == {k for k in made.state_dict() if k.startswith("head.")}
    freeze.unfreeze(made, (), None)
    history = []
    for number in range(3):
        step(made, number)
        ema.after_step(made)
        history.append(made.backbone.conv.weight.detach().clone())
    found = ema.evaluated(made)
    assert set(found) == set(made.state_dict())
    expected = by_hand(history, 0.999, first=3)
    assert torch.allclose(found["backbone.conv.weight"].double(), expected, atol=1e-5)


def test_average_survives_a_checkpoint(tmp_path: Path) -> None:
    """Through a file and into another one, it goes on bit for bit; neither changes the other."""
    made = model()
    ema = regularizer("ema", made)
    for number in range(3):
        step(made, number)
        ema.after_step(made)
    state = ema.state_dict()
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    safetensors.torch.save_file(tensors, tmp_path / "state.safetensors")
    saved = {"steps": state["steps"], **safetensors.torch.load_file(tmp_path / "state.safetensors")}
    other = regularizer("ema", made)
    other.load_state_dict(saved)
    kept = {k: v.clone() for k, v in saved.items() if isinstance(v, Tensor)}
    step(made, 3)
    for average in (ema, other):
        average.after_step(made)
    one, two = ema.evaluated(made), other.evaluated(made)
    assert set(one) == set(two) and all(torch.equal(one[k], two[k]) for k in one)
    assert all(torch.equal(saved[k], v) for k, v in kept.items())


@pytest.mark.parametrize("decay", [1, -0.1])
def test_bad_decays(decay: float) -> None:
    """A decay that never learns, or is none, is refused."""
    with pytest.raises(UsageError, match="below 1"):
        regularizer(f"ema:decay={decay}")
