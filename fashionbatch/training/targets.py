"""What the items of a batch ought to be, and how far the answers are from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fashionbatch.models.build import Outputs
from fashionbatch.models.device import moved

#: category of an item whose category is not known: it does not count
UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Of a batch of ``N`` items; a field is ``None`` where that is not being learnt.

    Attributes:
        category: int64 ``[N]``, position in the classes or -1; or float32 ``[N, classes]``, shares
            of the classes that add up to 1 (or to 0 where it is not known).
        attributes: float32 ``[N, A]``, from 0 (does not have it) to 1 (has it).
        known: bool ``[N, A]``, whether the catalogue knows; what it does not know does not count.
        landmarks: float32 ``[N, L, 3]``, ``(visibility, x, y)`` each: ``x`` and ``y`` from 0 to 1
            over the width and height of the network's input; visibility 0 visible, 1 occluded, 2
            cut off, by the photograph or by the input's border. Items with fewer than ``L``, or
            with none, are filled up with such as are cut off. In training only, and only where a
            regularizer's spec says that it needs them.
    """

    category: Tensor | None = None
    attributes: Tensor | None = None
    known: Tensor | None = None
    landmarks: Tensor | None = None

    def __len__(self) -> int:
        present = self.category if self.category is not None else self.attributes
        return 0 if present is None else len(present)

    def to(self, device: torch.device | str) -> Targets:
        """The same on another device; see :func:`fashionbatch.models.device.moved`."""
        return self._each(lambda t: moved(t, torch.device(device)))

    def __getitem__(self, rows: slice) -> Targets:
        return self._each(lambda t: t[rows])

    def shares(self, classes: int) -> Tensor:
        """float32 ``[N, classes]``: the category as shares, one-hot where it is a number."""
        assert self.category is not None
        if self.category.is_floating_point():
            return self.category
        return shares(self.category, classes)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Targets:
        return Targets(
            **{name: None if t is None else function(t) for name, t in vars(self).items()}
        )


def shares(category: Tensor, classes: int) -> Tensor:
    """One-hot float32 ``[N, classes]`` of int64 ``[N]``; a row of zeros where it is -1.

    Example:
        >>> shares(torch.tensor([1, -1]), 3)
        tensor([[0., 1., 0.],
                [0., 0., 0.]])
    """
    known = category >= 0
    return functional.one_hot(category.clamp(min=0), classes).float() * known[:, None]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Cross-entropy of the category plus masked binary cross-entropy of the attributes.

    The first is a weighted mean over the items whose category is known, as in
    :class:`torch.nn.CrossEntropyLoss`; the second a mean over all that is known of attributes. Both
    are sums divided by :meth:`norms`, so that a batch may be worked off in pieces, or by several
    processes, and gives what it gives as a whole.

    Attributes:
        class_weights: float32 ``[classes]``, or ``None`` for 1 each.
        attribute_weight: of the attributes' part.
    """

    class_weights: Tensor | None = None
    attribute_weight: float = 1.0

    def norms(self, targets: Targets) -> Tensor:
        """float32 ``[2]``: what the sums over these items are to be divided by."""
        category = attributes = torch.zeros(())
        if targets.category is not None:
            if targets.category.is_floating_point():
                weights = targets.category
                if self.class_weights is not None:
                    weights = weights * self.class_weights
                category = weights.sum()
            else:
                known = targets.category >= 0
                category = (
                    known.sum()
                    if self.class_weights is None
                    else self.class_weights[targets.category[known]].sum()
                )
        if targets.known is not None:
            attributes = targets.known.sum()
        return torch.stack([category.float(), attributes.float().to(category.device)]).cpu()

    def parts(self, outputs: Outputs, targets: Targets) -> Tensor:
        """float32 ``[2]``: the sums of the category's and the attributes' losses of these items."""
        category = attributes = outputs.logits.new_zeros(())
        if targets.category is not None:
            aims = targets.category
            if aims.is_floating_point():
                weighted = aims if self.class_weights is None else aims * self.class_weights
                category = -(weighted * outputs.logits.log_softmax(dim=1)).sum()
            else:
                category = functional.cross_entropy(
                    outputs.logits,
                    aims,
                    weight=self.class_weights,
                    ignore_index=UNKNOWN,
                    reduction="sum",
                )
        if targets.attributes is not None:
            assert targets.known is not None
            each = functional.binary_cross_entropy_with_logits(
                outputs.attributes, targets.attributes, reduction="none"
            )
            # where, not a product: what is not known must not carry an infinity in either
            attributes = self.attribute_weight * torch.where(targets.known, each, 0.0).sum()
        return torch.stack([category, attributes])

    def __call__(self, outputs: Outputs, targets: Targets, norms: Tensor) -> Tensor:
        """The part that these items have in the loss: a scalar.

        Args:
            outputs: of the model, in float32.
            targets: of the same items.
            norms: of all items that make one step.
        """
        # where nothing is known, there is nothing to divide
        scale = torch.tensor([1 / n if n > 0 else 0.0 for n in norms.tolist()])
        return self.parts(outputs, targets) @ scale.to(outputs.logits.device)
