"""The paper's regularizers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch.models.build import Head, Outputs
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.targets import Targets


class L2Kernel(Regularizer):
    """``weight · Σw²`` over the kernels of the head's dense layers; biases are free.

    Args:
        weight: λ; the paper's 0.01.
    """

    def __init__(self, weight: float = 0.01) -> None:
        self.weight = _not_negative("weight", weight)

    def penalty(self, head: Head, outputs: Outputs, targets: Targets) -> Tensor:
        """See :class:`fashionbatch.Regularizer`."""
        return self.weight * torch.stack([k.square().sum() for k in head.kernels]).sum()


class L2Activity(Regularizer):
    """``weight · Σy²`` over the outputs of the head's dense layers, averaged over the images.

    Args:
        weight: λ; the paper's 0.01.
    """

    def __init__(self, weight: float = 0.01) -> None:
        self.weight = _not_negative("weight", weight)

    def penalty(self, head: Head, outputs: Outputs, targets: Targets) -> Tensor:
        """See :class:`fashionbatch.Regularizer`."""
        per_image = torch.stack([y.square().sum(dim=1) for y in outputs.dense]).sum(dim=0)
        return self.weight * per_image.mean()


class ClipGrad(Regularizer):
    """Scales all gradients together so that their common norm is at most ``max_norm``.

    Args:
        max_norm: the paper's clipnorm 0.5.
    """

    def __init__(self, max_norm: float = 0.5) -> None:
        self.max_norm = _not_negative("max_norm", max_norm)

    def on_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """See :class:`fashionbatch.Regularizer`."""
        nn.utils.clip_grad_norm_(parameters, self.max_norm)


class EarlyStopping(Regularizer):
    """Stops when the validation loss has not fallen for ``patience`` epochs.

    Args:
        patience: the paper's 10.
        min_delta: how much lower counts as lower.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience is at least 1, not {patience}")
        self.patience = patience
        self.min_delta = _not_negative("min_delta", min_delta)
        self.best = math.inf
        self.waited = 0

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """See :class:`fashionbatch.Regularizer`."""
        if metrics["val_loss"] < self.best - self.min_delta:
            self.best, self.waited = metrics["val_loss"], 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """See :class:`fashionbatch.Regularizer`."""
        return {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`fashionbatch.Regularizer`."""
        self.best = math.inf if state["best"] is None else state["best"]
        self.waited = state["waited"]


def _not_negative(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{name} is at least 0, not {value}")
    return value
