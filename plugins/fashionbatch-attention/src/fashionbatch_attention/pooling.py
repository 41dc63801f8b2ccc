"""Attention pooling: a mean of a feature map in which some places count more than others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class AttentionPooling(nn.Module):
    """Each group of channels is averaged with weights of its own over the places of the map.

    A 1 x 1 convolution over all channels, divided by the square root of their number, gives each
    head a score for each place; softmax over the places makes weights of the scores, and head ``k``
    averages the ``k``-th of ``heads`` equal groups of channels: multi-head attention (Vaswani et
    al. 2017) with one learnt query for each head, and with the map itself as keys and values. The
    features are as many as those of average pooling.

    The convolution begins with zeros: all places count the same, which *is* average pooling.

    Args:
        channels: of the map.
        heads: a divisor of ``channels``.

    Attributes:
        score: the convolution.
        heads: as given.
        scores: float ``[N, heads, h, w]``, with gradients: those of the last batch that was run in
            training mode; ``None`` before. They are no part of the module's state.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.

    Example:
        >>> maps = torch.rand(2, 8, 7, 7)
        >>> torch.allclose(AttentionPooling(8)(maps), maps.mean(dim=(2, 3), keepdim=True))
        True
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads divide the {channels} channels, which {heads} does not")
        self.heads = heads
        # a bias would be of no effect: softmax takes a constant out
        self.score = nn.Conv2d(channels, heads, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.scores: Tensor | None = None

    def forward(self, maps: Tensor) -> Tensor:
        """Float ``[N, channels, h, w]`` → float ``[N, channels, 1, 1]``."""
        scores = self._scores(maps)
        if self.training:
            self.scores = scores
        groups = torch.unflatten(maps, 1, (self.heads, -1))
        pooled: Tensor = (groups * shares(scores)[:, :, None]).sum(dim=(3, 4))
        return pooled.flatten(1)[:, :, None, None]

    def attention(self, maps: Tensor) -> Tensor:
        """Float ``[N, channels, h, w]`` → the weights of places ``[N, heads, h, w]``, 1 in sum."""
        return shares(self._scores(maps))

    def _scores(self, maps: Tensor) -> Tensor:
        scores: Tensor = self.score(maps) / math.sqrt(maps.shape[1])
        return scores

    def __getstate__(self) -> dict[str, Any]:
        # a copy of the module is none of the batch, and torch copies no tensor with a history
        return {**self.__dict__, "scores": None}

    def extra_repr(self) -> str:
        """In what is printed of the module."""
        return f"heads={self.heads}"


def shares(scores: Tensor) -> Tensor:
    """Softmax over the places of float ``[N, heads, h, w]``; of the same shape."""
    return scores.flatten(2).softmax(dim=2).view(scores.shape)
