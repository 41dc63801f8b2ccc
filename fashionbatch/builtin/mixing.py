"""Regularizers that change a batch: mixed images, cut and erased ones, softer targets.

Every random number comes from torch's generator of the CPU, whatever the device of the batch: its
state is in the checkpoints, so a resumed run draws what an uninterrupted one does.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torchvision import transforms

from fashionbatch.models.build import Classifier
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.targets import Targets

#: of the erased part: share of the image's area, and height to width (Zhong et al. 2017)
ERASED_AREA, ERASED_ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)


class _ForClasses(Regularizer):
    """Knows how many classes there are, to turn their numbers into shares."""

    classes = 0

    def on_model(self, model: Classifier) -> None:
        """See :class:`fashionbatch.Regularizer`."""
        self.classes = model.head.classes


class LabelSmoothing(_ForClasses):
    """``(1 - weight) · target + weight / classes`` (Szegedy et al. 2016, section 7).

    An attribute has two outcomes, so its target is drawn towards 1/2. What is not known stays so.

    Args:
        weight: ε there, from 0 to 1; their 0.1.

    Raises:
        ValueError: ``weight`` is not in ``[0, 1]``.
    """

    def __init__(self, weight: float = 0.1) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight is from 0 to 1, not {weight}")
        self.weight = weight

    def on_batch(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """See :class:`fashionbatch.Regularizer`."""
        category, attributes = None, None
        if targets.category is not None:
            shares = targets.shares(self.classes)
            known = shares.sum(dim=1, keepdim=True)  # 1, or 0 where the category is not known
            category = shares * (1 - self.weight) + known * self.weight / self.classes
        if targets.attributes is not None:
            attributes = targets.attributes * (1 - self.weight) + self.weight / 2
        return images, replace(targets, category=category, attributes=attributes)


class Mixup(_ForClasses):
    """``λ · one + (1 - λ) · another`` of images and targets (Zhang et al. 2018).

    One λ from Beta(alpha, alpha) and one permutation for a batch, as in their code. Computed
    features are mixed as images are. A target counts where both items know it.

    Args:
        alpha: above 0; theirs for ImageNet is 0.2.

    Raises:
        ValueError: ``alpha`` is not above 0.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        self.alpha = _above_zero("alpha", alpha)

    def on_batch(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """See :class:`fashionbatch.Regularizer`; images become floats."""
        share, order = _drawn(self.alpha, len(images), images.device)
        pixels = images if images.is_floating_point() else images.float()
        return torch.lerp(pixels[order], pixels, share), _mixed(targets, order, share, self.classes)


class Cutmix(_ForClasses):
    """A rectangle of each image is another's; targets are mixed by area (Yun et al. 2019).

    One λ from Beta(alpha, alpha), one rectangle of the share 1 - λ and one permutation for a batch,
    as in their code; where the edge cuts the rectangle, λ is what is left. A target counts where
    both items know it.

    Args:
        alpha: above 0; theirs is 1.

    Raises:
        ValueError: ``alpha`` is not above 0, or, on a batch, there is no height and width to cut.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _above_zero("alpha", alpha)

    def on_batch(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """See :class:`fashionbatch.Regularizer`."""
        if images.ndim != 4:
            raise ValueError(
                f"cutmix cuts images or maps [N, C, height, width], not {list(images.shape)} as "
                "computed by the frozen part: use mixup instead"
            )
        share, order = _drawn(self.alpha, len(images), images.device)
        height, width = images.shape[2:]
        rows = _span(height, math.sqrt(1 - share))
        columns = _span(width, math.sqrt(1 - share))
        cut = images.clone()
        cut[:, :, rows, columns] = images[order, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return cut, _mixed(targets, order, 1 - area / (height * width), self.classes)


class RandomErasing(Regularizer):
    """Random pixels over a random rectangle of some images (Zhong et al. 2017).

    Args:
        p: share of the images; theirs is 0.5, timm's recipes have 0.25.

    Raises:
        ValueError: ``p`` is not in ``[0, 1]``, or, on a batch, these are no images.
    """

    def __init__(self, p: float = 0.25) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p is from 0 to 1, not {p}")
        self.p = p

    def on_batch(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """See :class:`fashionbatch.Regularizer`."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"random-erasing erases pixels of images [N, 3, height, width], not "
                f"{list(images.shape)} as computed by the frozen part: leave it out"
            )
        erased = images.clone()
        for number in torch.nonzero(torch.rand(len(images)) < self.p).flatten().tolist():
            image = erased[number]
            top, left, height, width, value = transforms.RandomErasing.get_params(
                image, scale=ERASED_AREA, ratio=ERASED_ASPECT, value=[0.0]
            )
            if value is image:  # ten rectangles did not fit: this one stays whole
                continue
            pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
            image[:, top : top + height, left : left + width] = pixels.to(image)
        return erased, targets


def _drawn(alpha: float, count: int, device: torch.device) -> tuple[float, Tensor]:
    """λ of Beta(alpha, alpha), and the partner of each item."""
    # G / (G + G') of two gammas, by logarithms: with a small alpha both round to 0. Gamma(alpha) is
    # Gamma(alpha + 1) · U^(1 / alpha) (Marsaglia & Tsang 2000, section 6).
    shape = torch.tensor([alpha + 1, alpha + 1], dtype=torch.float64)
    gammas = torch.distributions.Gamma(shape, 1.0).sample()
    logarithms = gammas.log() + torch.rand(2, dtype=torch.float64).log() / alpha
    share = logarithms.softmax(dim=0)[0].item()
    return share, torch.randperm(count).to(device)


def _span(length: int, share: float) -> slice:
    """So much of a length around a random place, cut off at its ends."""
    half = int(length * share) // 2
    middle = int(torch.randint(length, (1,)))
    return slice(max(middle - half, 0), min(middle + half, length))


def _mixed(targets: Targets, order: Tensor, share: float, classes: int) -> Targets:
    """``share`` of each item's own targets, and the rest of its partner's."""
    category, attributes, known = None, None, None
    if targets.category is not None:
        shares = targets.shares(classes)
        counts = shares.sum(dim=1) > 0
        both = counts & counts[order]
        category = torch.lerp(shares[order], shares, share) * both[:, None]
    if targets.attributes is not None:
        attributes = torch.lerp(targets.attributes[order], targets.attributes, share)
    if targets.known is not None:
        known = targets.known & targets.known[order]
    # a mixed image has no landmarks of its own
    return Targets(category=category, attributes=attributes, known=known)


def _above_zero(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} is above 0, not {value}")
    return value
