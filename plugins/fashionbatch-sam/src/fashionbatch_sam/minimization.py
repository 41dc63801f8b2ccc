"""Steps with the gradient at the worst weights near by, so that training ends in a flat minimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import fashionbatch
import torch
from torch import Tensor, nn


class Sam(fashionbatch.Regularizer):
    """Sharpness-aware minimization (Foret et al. 2021, equation 2).

    The step is made with the gradient at ``w + rho · g / ‖g‖``, where ``g`` is the gradient at the
    weights ``w``; norm and direction are of all trained weights together.

    Args:
        rho: radius; 0.05 in the paper, 0 for none.

    Raises:
        ValueError: ``rho`` is negative or no number.
    """

    def __init__(self, rho: float = 0.05) -> None:
        if not 0 <= rho < math.inf:
            raise ValueError(f"rho is at least 0, not {rho}")
        self.rho = rho

    @torch.no_grad()
    def after_backward(self, parameters: Sequence[nn.Parameter], again: Callable[[], None]) -> None:
        """See :class:`fashionbatch.Regularizer`."""
        moved: list[Tensor] = [p for p in parameters if p.grad is not None]
        if not self.rho or not moved:
            return
        steps, length = self.ascent(moved)
        if length == 0:
            return  # the loss is flat already, and has no direction
        # copies, as what is added and taken away again is rounded
        weights = [p.clone() for p in moved]
        torch._foreach_mul_(steps, self.rho / length)
        torch._foreach_add_(moved, steps)
        try:
            again()
        finally:
            torch._foreach_copy_(moved, weights)

    def ascent(self, parameters: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        """Which way the loss rises within the radius.

        Args:
            parameters: with their gradients.

        Returns:
            new tensors, one of each parameter, and what to divide them by to reach radius 1.
        """
        steps = [_gradient(p).clone() for p in parameters]
        return steps, _length(steps)


class Asam(Sam):
    """Adaptive sharpness-aware minimization (Kwon et al. 2021, equation 6).

    As :class:`Sam`, within a radius that is measured in shares of each weight: the gradient at
    ``w + rho · T² g / ‖T g‖`` with ``T = |w| + eta``. What the weights of a layer and of the next
    one are multiplied and divided by makes no difference then.

    Args:
        rho: radius; the paper's 0.5.
        eta: least of ``T``; the paper's 0.01.

    Raises:
        ValueError: one of them is negative or no number.
    """

    def __init__(self, rho: float = 0.5, eta: float = 0.01) -> None:
        super().__init__(rho)
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta is at least 0, not {eta}")
        self.eta = eta

    def ascent(self, parameters: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        """See :class:`Sam`."""
        scales = [p.abs().add_(self.eta) for p in parameters]
        steps = [_gradient(p) * scale for p, scale in zip(parameters, scales, strict=True)]
        length = _length(steps)
        torch._foreach_mul_(steps, scales)
        return steps, length


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _length(tensors: Sequence[Tensor]) -> float:
    """The norm of all together."""
    norms = torch.stack(torch._foreach_norm(list(tensors)))
    return float(torch.linalg.vector_norm(norms))
