"""Supervision of the attention by landmarks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import fashionbatch
import torch
from torch import Tensor

from fashionbatch_attention.pooling import AttentionPooling

if TYPE_CHECKING:
    from fashionbatch.models.build import Classifier, Head, Outputs

_VISIBLE = 0


class LandmarkAttention(fashionbatch.Regularizer):
    """``weight`` · cross-entropy between where the landmarks are and where the attention is.

    The attention is the mean over the heads. Of an image with ``V`` visible landmarks, the aim is
    the mean of ``V`` Gaussians around them, each scaled to 1 in sum over the centres of the map's
    places, and its term is ``-Σ aim · log attention``. The penalty is the mean over all images of
    the batch, those without a visible landmark with a term of 0. With the aim's own entropy taken
    off, which has no gradient, this is the Kullback-Leibler divergence.

    Args:
        weight: of the penalty in the loss.
        spread: standard deviation of the Gaussians, as a share of the input's side.

    Raises:
        ValueError: ``weight`` is below 0, or ``spread`` not above 0.

    Example:
        ``fashionbatch train --backbone attention-resnet50 --regularizer landmark-attention``
    """

    def __init__(self, weight: float = 0.1, spread: float = 0.1) -> None:
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight is a number from 0 on, not {weight}")
        if not 0 < spread < math.inf:
            raise ValueError(f"spread is a number above 0, not {spread}")
        self.weight = weight
        self.spread = spread

    def on_model(self, model: Classifier) -> None:
        """Finds the attention.

        Raises:
            ValueError: the backbone has none, or it is not trained.
        """
        self.attention = attention_of(model)
        if not any(p.requires_grad for p in self.attention.parameters()):
            raise ValueError("the attention is frozen: --unfreeze blocks:1 trains it")

    def penalty(self, head: Head, outputs: Outputs, targets: fashionbatch.Targets) -> Tensor | None:
        """See :class:`fashionbatch.Regularizer`; none while the attention is still frozen.

        Raises:
            ValueError: the targets have no landmarks any more.
        """
        scores = self.attention.scores
        if not self.attention.training or scores is None:
            return None
        if targets.landmarks is None:
            raise ValueError(
                "this batch has no landmarks, which mixed images lose: leave mixup and cutmix out"
            )
        height, width = scores.shape[2:]
        aims = self._aims(targets.landmarks.to(scores.device), height, width)
        each = scores.float().flatten(2).log_softmax(dim=2)
        mean = each.logsumexp(dim=1) - math.log(scores.shape[1])
        return -self.weight * (aims.flatten(1) * mean).sum() / len(scores)

    def _aims(self, landmarks: Tensor, height: int, width: int) -> Tensor:
        """Float32 ``[N, height, width]``, 1 in sum, or 0 where no landmark is visible."""
        visible = landmarks[:, :, 0] == _VISIBLE
        across = _gaussians(landmarks[:, :, 1], width, self.spread)
        down = _gaussians(landmarks[:, :, 2], height, self.spread)
        each = visible.float()[:, :, None, None] * down[:, :, :, None] * across[:, :, None, :]
        counts = visible.sum(dim=1).clamp(min=1)[:, None, None]
        return each.sum(dim=1) / counts


def _gaussians(places: Tensor, length: int, spread: float) -> Tensor:
    """Float ``[N, L]`` from 0 to 1 → ``[N, L, length]`` over cells' centres, 1 in sum each."""
    centres = (torch.arange(length, device=places.device) + 0.5) / length
    return (-((centres - places[:, :, None]) ** 2) / (2 * spread**2)).softmax(dim=2)


def attention_of(model: Classifier) -> AttentionPooling:
    """The attention of a model.

    Raises:
        ValueError: it has none.
    """
    for module in model.backbone.modules():
        if isinstance(module, AttentionPooling):
            return module
    raise ValueError("the network pools without attention: use a backbone attention-NAME")
