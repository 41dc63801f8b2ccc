"""The base class of everything that tempers training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fashionbatch.models.build import Classifier, Head, Outputs
from fashionbatch.training.targets import Targets


class Regularizer:
    """Does nothing; a subclass overrides what it needs.

    :meth:`on_model` comes once, before the first step. Within a step the methods are called in this
    order: :meth:`on_batch`, forward pass, :meth:`penalty`, backward pass, :meth:`after_backward`,
    :meth:`on_gradients`, optimizer step, :meth:`after_step`. :meth:`evaluated` comes before each
    validation.

    Example::

        class L1(fashionbatch.Regularizer):
            def __init__(self, weight=0.001):
                self.weight = weight

            def penalty(self, head, outputs, targets):
                return self.weight * sum(k.abs().sum() for k in head.kernels)
    """

    def on_model(self, model: Classifier) -> None:
        """Changes the model once, such as the rate of a dropout; not what its weights are.

        Raises:
            ValueError: the model has nothing that could be changed so.
        """

    def on_batch(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """Changes a batch.

        Args:
            images: on the training device: uint8 or float32 ``[N, 3, H, W]`` on the scale 0..255;
                where the frozen part's outputs were computed before, those, float ``[N, ...]``.
            targets: of the same items, on the same device.

        Returns:
            images and targets; of the same number.
        """
        return images, targets

    def penalty(self, head: Head, outputs: Outputs, targets: Targets) -> Tensor | None:
        """A term to add to the loss: a scalar, or ``None``.

        A step that is worked off in pieces adds up those of the pieces, each by its share of the
        items: a mean over items is then that of the whole.

        Args:
            head: its ``kernels`` are the weight matrices of its dense layers.
            outputs: of the forward pass, with gradients.
            targets: of the same items, as :meth:`on_batch` left them.

        Raises:
            ValueError: it cannot be computed of this batch.
        """
        return None

    def after_backward(self, parameters: Sequence[nn.Parameter], again: Callable[[], None]) -> None:
        """Looks at the gradients of the whole step, and may have them computed at other weights.

        ``again()`` computes the gradients of the same batch anew, at the weights as they are now:
        forward pass, penalties and backward pass, in as many pieces and processes as the first
        time, and whatever regularizers given before this one do in this method. Dropout draws anew;
        running statistics stay as the first pass left them, and what is reported of the step is
        that of the first pass. The step is made with the gradients that are left in the end.

        Put changed weights back, also where ``again`` raises an error: it does so when the loss at
        these weights is not finite. In several processes, each must call it equally often.

        Args:
            parameters: those that are trained, with their gradients; ``None`` where one has none.
            again: computes gradients; costs as much as the first pass.
        """

    def on_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Changes the gradients of the trained parameters in place."""

    def after_step(self, model: nn.Module) -> None:
        """Looks at or changes the model after the optimizer's step."""

    def evaluated(self, model: nn.Module) -> Mapping[str, Tensor] | None:
        """Weights to validate and to save in place of the model's: names and values of its
        ``state_dict``, all or some; ``None`` for its own."""
        return None

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether to stop now.

        Args:
            epoch: counted from 1.
            metrics: ``train_loss``, ``val_loss``, ``val_top1``, ``val_top3``, ``val_top5``.
        """
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: JSON values and tensors, in one flat mapping."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back :meth:`state_dict`."""
