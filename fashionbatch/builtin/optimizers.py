"""Optimizers of torch whose defaults are not what people expect."""

from __future__ import annotations

from typing import Any

import torch


def sgd(params: Any, lr: float, momentum: float = 0.9, **options: Any) -> torch.optim.SGD:
    """Stochastic gradient descent; torch's own has no momentum unless it is asked for.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        momentum: share of the last step that is taken again.
        options: others of :class:`torch.optim.SGD`.
    """
    return torch.optim.SGD(params, lr=lr, momentum=momentum, **options)
