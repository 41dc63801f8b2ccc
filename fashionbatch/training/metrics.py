"""Loss and accuracies over a data set, by torchmetrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from fashionbatch.models.build import Outputs
from fashionbatch.training.targets import Targets

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

    def update(self, outputs: Outputs, targets: Targets, loss: float, weight: int) -> None:
        self.items += weight
        self.finite = self.finite and math.isfinite(loss)
        self.loss.update(loss, weight=weight)
        for metric in self.top.values():
            metric.update(outputs.logits, targets.category)

    def compute(self) -> dict[str, float]:
        if not self.items:
            return {}
        top = {name: float(metric.compute()) for name, metric in self.top.items()}
        # the mean leaves a NaN out; it must show instead
        loss = float(self.loss.compute()) if self.finite else math.nan
        return {"loss": loss, **top}

    def state_dict(self) -> dict[str, Tensor]:
        found = {"items": torch.tensor(self.items)}
        for name, metric in {"loss": self.loss, **self.top}.items():
            for key in metric._defaults:
                found[f"{name}.{key}"] = getattr(metric, key)
        return found

    def load_state_dict(self, state) -> None:
        self.items = int(state["items"])
        for name, metric in {"loss": self.loss, **self.top}.items():
            for key in metric._defaults:
                setattr(metric, key, state[f"{name}.{key}"])
            metric._update_count = 1

    def per_class(self):
        return []
