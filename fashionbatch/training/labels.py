"""What a data set says of its items, as targets of a training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.errors import ShardError, SourceError
from fashionbatch.shards.read import ShardSet
from fashionbatch.training.targets import Targets

CATEGORY = "category"
ATTRIBUTES = "attributes"

Rows = npt.NDArray[np.int64]


class Labels:
    """Makes the targets of any rows of a data set.

    Args:
        shards: the data set, restricted to the classes that are learnt; a label of another class
            is unknown.
        tasks: what is learnt: ``"category"``, ``"attributes"``, or both.

    Raises:
        SourceError: attributes are to be learnt, and the data set has none.
        ShardError: its index names attributes that it does not have.

    Example:
        >>> labels = Labels(shards, ("category", "attributes"))  # doctest: +SKIP
        >>> labels(shards.select("val")[:128]).attributes.shape  # doctest: +SKIP
        torch.Size([128, 1000])
    """

    def __init__(self, shards: ShardSet, tasks: Sequence[str]) -> None:
        self.shards = shards
        self.tasks = tuple(tasks)
        self.width = len(shards.manifest.attributes)
        if ATTRIBUTES not in self.tasks:
            return
        if not self.width:
            raise SourceError(
                f"{shards.path} has no attributes to train on: leave --task {ATTRIBUTES} out, or "
                "name a data set that has some, such as DeepFashion's"
            )
        for column in (shards.index.positive, shards.index.unknown):
            if len(column.values) and int(column.values.max()) >= self.width:
                raise ShardError(
                    f"the index of {shards.path} names attribute {column.values.max()} of "
                    f"{self.width}: pack the catalogue again"
                )

    def __call__(self, rows: Rows) -> Targets:
        """int64 ``[N]`` → the targets of these rows, in their order; see :class:`Targets`.

        What is not learnt is ``None``. An attribute that an item neither has nor leaves open is
        one that it does not have.
        """
        category = attributes = known = None
        if CATEGORY in self.tasks:
            category = torch.from_numpy(self.shards.labels[rows].astype(np.int64))
        if ATTRIBUTES in self.tasks:
            values = np.zeros((len(rows), self.width), np.float32)
            values[self.shards.index.positive.cells(rows)] = 1
            stated = np.ones((len(rows), self.width), np.bool_)
            stated[self.shards.index.unknown.cells(rows)] = False
            attributes, known = torch.from_numpy(values), torch.from_numpy(stated)
        return Targets(category=category, attributes=attributes, known=known)

    def usable(self, rows: Rows) -> Rows:
        """Those of the rows that something can be learnt from, in their order.

        To learn the category its class must be known; to learn attributes, one of them at least:
        an item all of whose attributes are unknown was never annotated. To learn both, either.
        """
        useful = np.zeros(len(rows), np.bool_)
        if CATEGORY in self.tasks:
            useful |= self.shards.labels[rows] >= 0
        if ATTRIBUTES in self.tasks:
            starts, ends = self.shards.index.unknown.spans(rows)
            useful |= ends - starts < self.width
        return rows[useful]

    def class_counts(self, rows: Rows) -> npt.NDArray[np.int64]:
        """int64 ``[classes]``: how many of the rows each class has."""
        labels = self.shards.labels[rows]
        counts = np.bincount(labels[labels >= 0], minlength=len(self.shards.classes))
        return counts.astype(np.int64)


def balanced_weights(counts: npt.NDArray[np.int64]) -> Tensor:
    """Weights of classes under which each has the same part in the loss.

    ``n / (classes that occur · n_c)``, as scikit-learn's ``class_weight="balanced"``, which is
    after King and Zeng, "Logistic Regression in Rare Events Data" (2001). The mean over the items
    is 1; a class without an item weighs 0.

    Args:
        counts: int64 ``[classes]``, items of each.

    Returns:
        float32 ``[classes]``.

    Example:
        >>> balanced_weights(np.array([1, 3, 0]))
        tensor([2.0000, 0.6667, 0.0000])
    """
    present = counts > 0
    weights = np.zeros(len(counts), np.float64)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.from_numpy(weights.astype(np.float32))
