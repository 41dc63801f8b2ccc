"""Runs a model over batches: logits and features from one forward pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.models.build import Classifier
from fashionbatch.models.features import NONE, FeatureTap


class Answer(NamedTuple):
    """Of a batch of ``N``.

    Attributes:
        probability: float32 ``[N, classes]``, rows add up to 1.
        attributes: float32 ``[N, A]``, the probability of each on its own.
        features: float32 ``[N, ...]``, or ``None``.
        finite: bool ``[N]``; where it is false the network gave NaN or infinity.
    """

    probability: npt.NDArray[np.float32]
    attributes: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None
    finite: npt.NDArray[np.bool_]


class EagerEngine:
    """PyTorch as it is, channels last.

    Args:
        model: on its device, in evaluation mode.
        layer: whose output is kept: ``pooled``, a module's name, or ``none``.
        device: of the model.
    """

    name = "eager"

    def __init__(self, model: Classifier, layer: str, device: torch.device) -> None:
        self.device = device
        self.keep = layer != NONE
        self.tap = FeatureTap(model, layer)

    def __call__(self, images: Tensor) -> Answer:
        """uint8 ``[N, 3, H, W]`` → :class:`Answer`."""
        with torch.inference_mode():
            answers = self.tap(images.to(self.device, non_blocking=True))
            logits, attributes, *features = (answer.float() for answer in answers)
            finite = logits.isfinite().all(dim=1) & attributes.isfinite().all(dim=1)
            for kept in features:
                finite &= kept.flatten(1).isfinite().all(dim=1)
            return Answer(
                probability=logits.softmax(dim=1).cpu().numpy(),
                attributes=attributes.sigmoid().cpu().numpy(),
                features=features[0].cpu().numpy() if features else None,
                finite=finite.cpu().numpy(),
            )
