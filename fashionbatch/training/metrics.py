"""Loss and accuracies over a data set, by torchmetrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

TOP_K = (1, 3, 5)


class Metrics:
    """Mean cross-entropy and micro top-1, top-3 and top-5 accuracy, from 0 to 1.

    Args:
        classes: how many; with fewer than ``k``, top-k counts the right class among all: 1.
        device: where logits and targets lie.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.items = 0
        self.finite = True
        self.loss = MeanMetric(nan_strategy="ignore").to(device)
        self.top = {
            f"top{k}": MulticlassAccuracy(
                classes, top_k=min(k, classes), average="micro", validate_args=False
            ).to(device)
            for k in TOP_K
        }

    def update(self, logits: Tensor, targets: Tensor, loss: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            logits: float ``[N, classes]``.
            targets: int64 ``[N]``.
            loss: mean over the batch, where it is known already; else the cross-entropy.
        """
        self.items += len(targets)
        logits = logits.detach()
        if loss is None:
            loss = functional.cross_entropy(logits, targets)
        self.finite = self.finite and bool(loss.isfinite())
        self.loss.update(loss.detach(), weight=len(targets))
        for metric in self.top.values():
            metric.update(logits, targets)

    def compute(self) -> dict[str, float]:
        """``{"loss", "top1", "top3", "top5"}``."""
        top = {name: float(metric.compute()) for name, metric in self.top.items()}
        # the mean leaves a NaN out; it must show instead
        loss = float(self.loss.compute()) if self.finite else math.nan
        return {"loss": loss, **top}
