"""Loss, accuracies and what is found of attributes, over a data set."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fashionbatch.models.build import Outputs
from fashionbatch.sources import Attribute
from fashionbatch.training.labels import ATTRIBUTES, CATEGORY
from fashionbatch.training.sums import (
    RECALL_K,
    TOP_K,
    AttributePrecision,
    AttributeRecall,
    CategoryCounts,
    MeanLoss,
    Sums,
)
from fashionbatch.training.targets import Targets

#: values that wait to be counted together: counting is many small operations, whatever the batch
_WAITING = 1 << 18


def rounded(value: float) -> float:
    """A figure for people: to seven digits, all that float32 knows; they read the rest as meant.

    Example:
        >>> rounded(0.15000000596046448)
        0.15
    """
    return float(f"{value:.7g}")


class ClassFigures(NamedTuple):
    """How well a class is told from the others, by the most probable class alone.

    Attributes:
        name: of the class.
        support: items that are of it.
        recall: how many of these were found, from 0 to 1; ``None`` where there are none.
        precision: how many of the items taken for it are of it; ``None`` where none was.
    """

    name: str
    support: int
    recall: float | None
    precision: float | None


class Metrics:
    """Figures over a data set; processes that train together get those of all their items.

    What an item does not know counts nowhere. A figure for which there is nothing to count, and a
    loss that was not finite once, is NaN.

    Args:
        tasks: what is learnt: ``"category"``, ``"attributes"``, or both.
        classes: names of the classes.
        attributes: names and types.
        device: where outputs and targets lie.
        full: also what takes long: macro recall, the figures of each class, mean average precision.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        classes: Sequence[str],
        attributes: Sequence[Attribute],
        device: torch.device,
        *,
        full: bool = True,
    ) -> None:
        self.classes = tuple(classes)
        self.full = full
        self._parts: dict[str, Sums] = {"loss": MeanLoss()}
        self._groups = _groups(attributes)
        if CATEGORY in tasks:
            self._parts["category"] = CategoryCounts(len(classes))
        if ATTRIBUTES in tasks:
            self._parts["recall"] = AttributeRecall(
                [places.to(device) for places in self._groups.values()]
            )
            if full:
                self._parts["precision"] = AttributePrecision(len(attributes))
        for part in self._parts.values():
            part.to(device)
        self._waiting: list[tuple[Tensor, Tensor, Targets]] = []
        self._values = 0

    def update(self, outputs: Outputs, targets: Targets, loss: float, weight: float) -> None:
        """Adds a batch.

        Args:
            outputs: of the model, without gradients; they must not be changed afterwards.
            targets: as the data set has them, categories as numbers; neither must these.
            loss: the mean over the batch.
            weight: what it is a mean of: of items, or of their weights.
        """
        self._parts["loss"].update(loss, weight, len(targets))
        self._waiting.append((outputs.logits, outputs.attributes, targets))
        self._values += outputs.logits.numel() + outputs.attributes.numel()
        if self._values >= _WAITING:
            self._count()

    @property
    def items(self) -> int:
        """How many were added by all processes, each of which must ask for it."""
        return int(self._summed("loss")[1])

    def compute(self) -> dict[str, float]:
        """All figures by name; every process must ask for them.

        ``loss``; of the category ``top1``, ``top3`` and ``top5``, how often the class is among the
        k highest, and ``macro_recall``, the mean of the recalls of the classes that occur. Of
        attributes ``attr_recall3`` and ``attr_recall5``: of the attributes that the images have,
        how many are among the k highest of their image (Liu et al., "DeepFashion", CVPR 2016);
        ``attr_recall3_texture`` and so on are the same among the attributes of a type alone.
        ``attr_map`` is the mean over the attributes that occur of their average precision.

        Average precision is that of logits rounded down to 1/64 (where they lie within ±16): no
        more than ``4096 · attributes`` counts are kept, however many images there are. Images that
        thereby share a place are taken together, as ties are; the figure moves by less than 0.002.
        """
        mean, _ = self._summed("loss")
        values = {"loss": mean}
        if "category" in self._parts:
            hits, found, support, _ = self._summed("category")
            values |= {f"top{k}": hit / support.sum() for k, hit in zip(TOP_K, hits, strict=True)}
            if self.full:
                occurs = support > 0
                values["macro_recall"] = (found[occurs] / support[occurs]).mean()
        if "recall" in self._parts:
            found, positive = self._summed("recall")
            for place, k in enumerate(RECALL_K):
                recalls = found[:, place] / positive
                values |= {
                    f"attr_recall{k}{suffix}": recall
                    for suffix, recall in zip(self._groups, recalls, strict=True)
                }
        if "precision" in self._parts:
            (values["attr_map"],) = self._summed("precision")
        return {name: float(value) for name, value in values.items()}

    def per_class(self) -> list[ClassFigures]:
        """Of each class, in order; empty where none are learnt, or not ``full``.

        Every process must ask for it.
        """
        if not self.full or "category" not in self._parts:
            return []
        _, found, support, predicted = (t.tolist() for t in self._summed("category"))
        return [
            ClassFigures(
                name=name,
                support=support[i],
                recall=found[i] / support[i] if support[i] else None,
                precision=found[i] / predicted[i] if predicted[i] else None,
            )
            for i, name in enumerate(self.classes)
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """All that was added by this process, for a checkpoint; copies."""
        self._count()
        return {
            f"{part}.{name}": state.detach().clone()
            for part, metric in self._parts.items()
            for name, state in metric.states().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from :meth:`state_dict`'s values; what was added here before is forgotten."""
        self._waiting, self._values = [], 0
        for part, metric in self._parts.items():
            metric.reset()
            for name, own in metric.states().items():
                own.copy_(state[f"{part}.{name}"])

    def _count(self) -> None:
        """Adds the batches that wait."""
        if not self._waiting:
            return
        logits, attributes, targets = zip(*self._waiting, strict=True)
        self._waiting, self._values = [], 0
        for name, part in self._parts.items():
            if name == "category":
                part.update(torch.cat(logits), torch.cat([t.category for t in targets]))
            elif name != "loss":
                values = torch.cat([t.attributes for t in targets])
                part.update(torch.cat(attributes), values, torch.cat([t.known for t in targets]))

    def _summed(self, part: str) -> tuple[Tensor, ...]:
        self._count()
        with warnings.catch_warnings():
            # fine here: a process may have got no items, or go on from a checkpoint
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            computed: tuple[Tensor, ...] = self._parts[part].compute()
        return computed


def _groups(attributes: Sequence[Attribute]) -> dict[str, Tensor]:
    """By suffix of a figure's name, the places of the attributes that it is about."""
    groups = {"": list(range(len(attributes)))}
    for place, attribute in enumerate(attributes):
        if attribute.type:
            groups.setdefault(f"_{attribute.type}", []).append(place)
    return {suffix: torch.tensor(places) for suffix, places in groups.items()}
