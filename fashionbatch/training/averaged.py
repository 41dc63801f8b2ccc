"""Optimizers that train other weights than those to be kept, as schedule-free ones do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Averaging(Protocol):
    """What an optimizer has beside ``step`` where it is one of those.

    ``eval`` puts the weights to be validated and saved into the parameters, ``train`` those to go
    on with. Both change nothing where they have been called before.
    """

    def train(self) -> object:
        """Called before the first step, and behind each validation."""
        ...

    def eval(self) -> object:
        """Called before each validation."""
        ...


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Tells an optimizer, new or restored, that steps will follow."""
    if isinstance(optimizer, Averaging):
        optimizer.train()


def settle(optimizer: torch.optim.Optimizer) -> None:
    """Leaves the weights to be kept in the parameters: no step of this optimizer follows."""
    if isinstance(optimizer, Averaging):
        optimizer.eval()


@contextmanager
def kept(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The parameters hold the weights to be kept; behind it, bit for bit what they held before."""
    if not isinstance(optimizer, Averaging):
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = [p.detach().clone() for p in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        # it computes them back, and rounds: a run would depend on how often it was looked at
        with torch.no_grad():
            for parameter, value in zip(parameters, own, strict=True):
                parameter.copy_(value)
