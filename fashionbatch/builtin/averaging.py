"""Averages of the weights over the steps of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fashionbatch.training.regularizer import Regularizer

_PREFIX = "average."


class Ema(Regularizer):
    """An exponential moving average of the weights, to be validated and saved in their place.

    ``average = d · average + (1 - d) · weight`` after each step (Polyak & Juditsky 1992), with
    ``d = min(decay, (1 + t) / (10 + t))`` at step ``t``, so that the first steps are soon forgotten
    (as in TensorFlow's ``ExponentialMovingAverage``). Running statistics are averaged too; whole
    numbers, such as a count of batches, are copied. What is frozen has no average.

    Args:
        decay: at least 0 and below 1.

    Raises:
        ValueError: ``decay`` is not in ``[0, 1)``.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is at least 0 and below 1, not {decay}")
        self.decay = decay
        self.steps = 0
        self.averages: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """See :class:`fashionbatch.Regularizer`."""
        averages, values = [], []
        for name, value in _trained(model):
            value = value.detach()
            average = self.averages.get(name)
            if average is None or not value.is_floating_point():
                self.averages[name] = value.clone()  # the average of what is new starts here
                continue
            if average.device != value.device:  # it comes from a checkpoint
                average = self.averages[name] = average.to(value.device)
            averages.append(average)
            values.append(value)
        if averages:
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            average_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's
            average_fn(averages, values, self.steps)
        self.steps += 1

    def evaluated(self, model: nn.Module) -> Mapping[str, Tensor] | None:
        """See :class:`fashionbatch.Regularizer`."""
        return self.averages or None

    def state_dict(self) -> dict[str, Any]:
        """See :class:`fashionbatch.Regularizer`."""
        return {"steps": self.steps, **{_PREFIX + k: v for k, v in self.averages.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`fashionbatch.Regularizer`."""
        self.steps = state["steps"]
        # copies: the average is changed in place, and the state is not ours
        self.averages = {
            k.removeprefix(_PREFIX): v.clone() for k, v in state.items() if k.startswith(_PREFIX)
        }


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What training changes of the model's state: weights, and buffers such as statistics."""
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter):
            trained = value.requires_grad
        else:
            trained = model.get_submodule(name.rpartition(".")[0]).training
        if trained:
            yield name, value
