"""The attention as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import fashionbatch
import torch
from PIL import Image
from torch import Tensor, nn

from fashionbatch_attention.landmarks import attention_of


class Attention(fashionbatch.HeatVisualizer):
    """How much each place of the last map counts in the features, whatever the answer is.

    ``about`` tells the evenness: the entropy of the weights as a share of the largest that there
    can be, averaged over the heads that are shown. At 1 all places count the same, and the picture
    is hot all over.

    Args:
        head: number of one, from 1; by default the mean of all.
        intensity: see :class:`fashionbatch.HeatVisualizer`.
        target: likewise; it decides about the caption alone.
        sheet: likewise.

    Raises:
        ValueError: ``head`` is below 1.
    """

    name = "attention"
    title = "Attention"

    def __init__(
        self,
        head: int | None = None,
        intensity: float = 0.4,
        target: str | None = None,
        sheet: bool = False,
    ) -> None:
        super().__init__(intensity, target, sheet)
        if head is not None and head < 1:
            raise ValueError(f"head is a number from 1 on, not {head}")
        self.head = head

    def heat(
        self, explained: fashionbatch.Explained, images: Sequence[Image.Image]
    ) -> fashionbatch.Heat:
        """See :class:`fashionbatch.HeatVisualizer`.

        Raises:
            ValueError: the network has no attention, or not so many heads.
            UnknownNameError: the target is no class or attribute of the model.
        """
        attention = attention_of(explained.model)
        if self.head is not None and self.head > attention.heads:
            raise ValueError(f"head is from 1 to {attention.heads}, not {self.head}")
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Tensor]) -> None:
            kept.append(inputs[0])

        hook = attention.register_forward_pre_hook(keep)
        try:
            with torch.no_grad():
                answer = explained.answer(explained.logits(explained.inputs(images)), self.target)
                weights = attention.attention(kept[-1]).float()
        finally:
            hook.remove()
        if self.head is not None:
            weights = weights[:, self.head - 1 : self.head]
        flat = weights.flatten(2)
        most = max(math.log(flat.shape[2]), 1e-12)  # a map of one place
        evenness = (torch.special.entr(flat).sum(dim=2) / most).mean(dim=1)
        return fashionbatch.Heat(
            maps=weights.mean(dim=1),
            answer=answer,
            about=[{"Evenness": f"{value:.3f}"} for value in evenness.tolist()],
        )
