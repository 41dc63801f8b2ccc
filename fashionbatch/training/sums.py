"""What metrics are computed from: sums that torchmetrics adds up over processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

TOP_K = (1, 3, 5)
#: how many attributes of an image count as its answer, in DeepFashion's evaluation
RECALL_K = (3, 5)
#: average precision sorts logits from -16 to 16 into bins of 1/64
_REACH = 16
_BINS = 2048


class Sums(Metric):
    """States that start at zero and are summed over processes."""

    def __init__(self, **zeros: Tensor) -> None:
        super().__init__()
        for name, value in zeros.items():
            self.add_state(name, value, dist_reduce_fx="sum")

    def states(self) -> dict[str, Tensor]:
        """Those of this process by name; not copies."""
        states: dict[str, Tensor] = dict(self.metric_state)  # type: ignore[arg-type]  # no lists
        return states


class MeanLoss(Sums):
    """A weighted mean of batches' losses."""

    total: Tensor
    weight: Tensor
    items: Tensor

    def __init__(self) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        super().__init__(total=zero, weight=zero.clone(), items=_counts())

    def update(self, loss: float, weight: float, items: int) -> None:
        """Adds a batch of so many items, whose loss has the weight."""
        self.total.add_(loss * weight)
        self.weight.add_(weight)
        self.items.add_(items)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean, NaN if a loss was not finite; and how many items there were."""
        mean = self.total / self.weight
        return torch.where(mean.isfinite(), mean, math.nan), self.items


class CategoryCounts(Sums):
    """How often the right class was among the most probable ones.

    Args:
        classes: how many.
    """

    hits: Tensor
    found: Tensor
    support: Tensor
    predicted: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__(
            hits=_counts(len(TOP_K)),
            found=_counts(classes),
            support=_counts(classes),
            predicted=_counts(classes),
        )

    def update(self, logits: Tensor, category: Tensor) -> None:
        """Adds float ``[N, classes]`` and int64 ``[N]``, -1 where it is not known."""
        known = (category >= 0).long()
        best = logits.topk(min(TOP_K[-1], logits.shape[1])).indices
        right = best == category[:, None]  # never where it is -1
        self.hits += torch.stack([right[:, :k].sum() for k in TOP_K])
        self.found.scatter_add_(0, best[:, 0], right[:, 0].long())
        self.support.scatter_add_(0, category.clamp(min=0), known)
        self.predicted.scatter_add_(0, best[:, 0], known)

    def compute(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """int64: right within each of ``TOP_K``; per class right, of it, and taken for it."""
        return self.hits, self.found, self.support, self.predicted


class AttributeRecall(Sums):
    """How many of the images' attributes are among the highest of their image.

    Args:
        groups: int64 places of the attributes that are ranked together, on the device.
    """

    found: Tensor
    positive: Tensor

    def __init__(self, groups: Sequence[Tensor]) -> None:
        super().__init__(found=_counts(len(groups), len(RECALL_K)), positive=_counts(len(groups)))
        self.groups = groups

    def update(self, logits: Tensor, attributes: Tensor, known: Tensor) -> None:
        """Adds float ``[N, A]``, from 0 to 1 ``[N, A]`` and bool ``[N, A]``."""
        has = (attributes > 0.5) & known
        scores = torch.where(known, logits, -math.inf)
        for number, places in enumerate(self.groups):
            best = scores[:, places].topk(min(RECALL_K[-1], len(places))).indices
            hit = has[:, places].gather(1, best)
            self.found[number] += torch.stack([hit[:, :k].sum() for k in RECALL_K])
            self.positive[number] += has[:, places].sum()

    def compute(self) -> tuple[Tensor, Tensor]:
        """int64 ``[groups, RECALL_K]`` found, and ``[groups]`` of how many."""
        return self.found, self.positive


class AttributePrecision(Sums):
    """Mean average precision, from counts of logits in bins.

    Args:
        width: how many attributes; ``4096 · width`` numbers are kept.
    """

    counts: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(counts=_counts(width, 2, _BINS))

    def update(self, logits: Tensor, attributes: Tensor, known: Tensor) -> None:
        """Adds float ``[N, A]``, from 0 to 1 ``[N, A]`` and bool ``[N, A]``."""
        scores = logits.float().nan_to_num(nan=-_REACH).clamp(-_REACH, _REACH)
        bins = ((scores + _REACH) * (_BINS / (2 * _REACH))).long().clamp(max=_BINS - 1)
        width = torch.arange(logits.shape[1], device=logits.device)
        cells = (2 * width + (attributes > 0.5)) * _BINS + bins
        self.counts.view(-1).scatter_add_(0, cells.flatten(), known.long().flatten())

    def compute(self) -> tuple[Tensor]:
        """``Σ (R_n - R_n-1) · P_n`` of each attribute that occurs, as a mean over these."""
        counts = self.counts.cpu().double().flip(2)  # from the highest logits down
        negative, positive = counts.cumsum(2).unbind(1)
        precision = positive / (positive + negative).clamp(min=1)
        total = positive[:, -1]
        each = (counts[:, 1] * precision).sum(1) / total
        return (each[total > 0].mean(),)


def _counts(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)
