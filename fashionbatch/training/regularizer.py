"""The base class of everything that tempers training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fashionbatch.models.build import Head, Outputs


class Regularizer:
    """Does nothing; a subclass overrides what it needs.

    Within a step the methods are called in this order: :meth:`on_batch`, forward pass,
    :meth:`penalty`, backward pass, :meth:`on_gradients`, optimizer step, :meth:`after_step`.

    Example::

        class L1(fashionbatch.Regularizer):
            def __init__(self, weight=0.001):
                self.weight = weight

            def penalty(self, head, outputs):
                return self.weight * sum(k.abs().sum() for k in head.kernels)
    """

    def on_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Changes a batch.

        Args:
            images: on the training device: uint8 or float32 ``[N, 3, H, W]`` on the scale 0..255;
                in bottleneck mode the features, float32 ``[N, D]``.
            targets: int64 ``[N]``.

        Returns:
            images, and targets ``[N]`` (int64) or ``[N, classes]`` (float, rows add up to 1).
        """
        return images, targets

    def penalty(self, head: Head, outputs: Outputs) -> Tensor | None:
        """A term to add to the loss: a scalar, or ``None``.

        Args:
            head: its ``kernels`` are the weight matrices of its dense layers.
            outputs: of the forward pass, with gradients.
        """
        return None

    def on_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Changes the gradients of the trained parameters in place."""

    def after_step(self, model: nn.Module) -> None:
        """Looks at or changes the model after the optimizer's step."""

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether to stop now.

        Args:
            epoch: counted from 1.
            metrics: ``train_loss``, ``val_loss``, ``val_top1``, ``val_top3``, ``val_top5``.
        """
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back :meth:`state_dict`."""
