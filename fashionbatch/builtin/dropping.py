"""Regularizers that leave out parts of the network at random: dropout and stochastic depth."""

from __future__ import annotations

from torchvision.ops import StochasticDepth as DroppedBranch

from fashionbatch.models.build import Classifier
from fashionbatch.models.freeze import trained_modules
from fashionbatch.training.regularizer import Regularizer


class Dropout(Regularizer):
    """The head's dropout in front of its last layer (Srivastava et al. 2014).

    Args:
        p: share of the values set to 0; the paper's 0.5.

    Raises:
        ValueError: ``p`` is not in ``[0, 1)``.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _share(p)

    def on_model(self, model: Classifier) -> None:
        """See :class:`fashionbatch.Regularizer`."""
        model.head.dropout.p = self.p


class StochasticDepth(Regularizer):
    """Leaves out residual branches, the ``l``-th of ``L`` at ``p · l / L`` (Huang et al. 2016).

    For networks whose branches end in :class:`torchvision.ops.StochasticDepth`, such as
    EfficientNet, ConvNeXt and Swin; it replaces the rates that they were built with. Frozen
    branches are never left out, and count among the ``L``.

    Args:
        p: rate of the last branch.

    Raises:
        ValueError: ``p`` is not in ``[0, 1)``, or no such branch of the backbone is trained.
    """

    def __init__(self, p: float = 0.1) -> None:
        self.p = _share(p)

    def on_model(self, model: Classifier) -> None:
        """See :class:`fashionbatch.Regularizer`."""
        branches = [m for m in model.backbone.modules() if isinstance(m, DroppedBranch)]
        if not branches:
            raise ValueError(
                "the backbone has no branches to leave out; take one that has, "
                "such as efficientnet_b0, convnext_tiny or swin_t, or leave it out"
            )
        if trained_modules(model).isdisjoint(branches):
            raise ValueError(
                f"all {len(branches)} branches that could be left out are frozen: choose an "
                "--unfreeze that trains some, or leave it out"
            )
        for number, branch in enumerate(branches, 1):
            branch.p = self.p * number / len(branches)


def _share(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"p is at least 0 and below 1, not {value}")
    return value
