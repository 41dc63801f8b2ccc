"""torchcam's methods that need gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import fashionbatch
from torch import Tensor, nn
from torchcam import methods

from . import checks
from .extraction import Extractor, Logits, TorchCam


class GradCamPlusPlus(TorchCam):
    """Grad-CAM++ (Chattopadhay et al. 2018).

    The weight of a channel with activations ``A`` is ``Σ_ij ReLU(g_ij) g_ij² / (2 g_ij² + g_ij³
    Σ_ab A_ab)``, where ``g`` is the gradient of the answer's logit.

    Args: see :class:`fashionbatch.HeatVisualizer`.
    """

    name = "grad-cam-plus-plus"
    title = "Grad-CAM++"

    def extractor(
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
        """See :class:`TorchCam`; only activations and gradients are taken from it."""
        return methods.GradCAM(network, layer, reshape_transform=maps)

    def extract(
        self,
        extractor: Extractor,
        network: Logits,
        explained: fashionbatch.Explained,
        logits: Tensor,
        answer: fashionbatch.Answer,
    ) -> Tensor:
        """See :class:`TorchCam`.

        The weights of torchcam 0.5.0's ``GradCAMpp`` are other ones: it divides a copy of its
        coefficients (an indexed tensor) and goes on with the undivided, and it sums ``A g³`` where
        the paper has ``g³ Σ A``.
        """
        super().extract(extractor, network, explained, logits, answer)
        activation, gradient = extractor.hook_a[0], extractor.hook_g[0]
        # both sides of the fraction without g², which is 0 in float32 where g is small
        alpha = 1 / (2 + gradient * activation.sum(dim=(2, 3), keepdim=True))
        weights = (alpha * gradient.relu()).sum(dim=(2, 3), keepdim=True)
        found: Tensor = (weights * activation).sum(dim=1)
        return found


class SmoothGradCamPlusPlus(TorchCam):
    """Smooth Grad-CAM++ (Omeiza et al. 2019): Grad-CAM++ of gradients averaged over noisy copies.

    As torchcam computes it: powers of the gradient are averaged, ``A g³`` is summed in the
    denominator, and the gradient of the last copy is the one that is weighed.

    Args:
        num_samples: noisy copies of the image.
        std: of the noise, where 1 is the standard deviation of what the network was trained on.
        seed: of the noise.
        intensity: see :class:`fashionbatch.HeatVisualizer`.
        target: likewise.
        sheet: likewise.

    Raises:
        ValueError: ``num_samples`` is below 1, or ``std`` not above 0.
    """

    name = "smooth-grad-cam-plus-plus"
    title = "Smooth Grad-CAM++"
    together = 1  # an image's noise must not depend on its place among others

    def __init__(
        self,
        num_samples: int = 16,
        std: float = 0.3,
        seed: int = 0,
        intensity: float = 0.4,
        target: str | None = None,
        sheet: bool = False,
    ) -> None:
        super().__init__(intensity, target, sheet)
        self.num_samples = checks.count("num_samples", num_samples)
        self.std = checks.above_0("std", std)
        self.seed = checks.whole("seed", seed)

    def extractor(
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
        """See :class:`TorchCam`."""
        return methods.SmoothGradCAMpp(
            network, layer, num_samples=self.num_samples, std=self.std, reshape_transform=maps
        )


class XGradCam(TorchCam):
    """XGrad-CAM (Fu et al. 2020): gradients weighed by the activations.

    Args: see :class:`fashionbatch.HeatVisualizer`.
    """

    name = "x-grad-cam"
    title = "XGrad-CAM"

    def extractor(
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
        """See :class:`TorchCam`."""
        return methods.XGradCAM(network, layer, reshape_transform=maps)


class LayerCam(TorchCam):
    """LayerCAM (Jiang et al. 2021): each place of a channel has its own weight.

    Args: see :class:`fashionbatch.HeatVisualizer`.
    """

    name = "layer-cam"
    title = "LayerCAM"

    def extractor(
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
        """See :class:`TorchCam`."""
        return methods.LayerCAM(network, layer, reshape_transform=maps)


class FinerCam(TorchCam):
    """Finer-CAM (Zhang et al. 2025): what speaks for an answer and not for those most like it.

    The score that is explained is the answer's logit less ``gamma`` times the mean of the others';
    a class is compared with classes, an attribute with attributes.

    Args:
        gamma: weight of the others; with 0 the map is that of ``base``.
        references: with how many others, those of the nearest logits, it is compared.
        against: names of those to compare with instead, with ``+`` between them; takes a target.
        base: ``grad-cam`` or ``layer-cam``.
        intensity: see :class:`fashionbatch.HeatVisualizer`.
        target: likewise.
        sheet: likewise.

    Raises:
        ValueError: ``gamma`` is below 0, ``references`` below 1, ``base`` is another, or
            ``against`` goes without a target or names it.
    """

    name = "finer-cam"
    title = "Finer-CAM"
    _BASES: ClassVar[dict[str, Any]] = {"grad-cam": methods.GradCAM, "layer-cam": methods.LayerCAM}

    def __init__(
        self,
        gamma: float = 0.6,
        references: int = 3,
        against: str | None = None,
        base: str = "grad-cam",
        intensity: float = 0.4,
        target: str | None = None,
        sheet: bool = False,
    ) -> None:
        super().__init__(intensity, target, sheet)
        if not checks.number(gamma) or gamma < 0:
            raise ValueError(f"gamma is a number of at least 0, not {gamma}")
        if base not in self._BASES:
            raise ValueError(f"base is {' or '.join(self._BASES)}, not {base!r}")
        self.gamma = gamma
        self.references = checks.count("references", references)
        self.base = base
        self.against = [] if against is None else list(dict.fromkeys(str(against).split("+")))
        if self.against and target is None:
            raise ValueError("against takes a target, such as target=coat,against=jacket")
        if target in self.against:
            raise ValueError(f"against names the target itself, {target!r}")

    def extractor(
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
        """See :class:`TorchCam`."""
        return methods.FinerCAM(
            network,
            layer,
            base_method=self._BASES[self.base],
            gamma=self.gamma,
            num_references=self.references,
            reshape_transform=maps,
        )

    def extract(
        self,
        extractor: Extractor,
        network: Logits,
        explained: fashionbatch.Explained,
        logits: Tensor,
        answer: fashionbatch.Answer,
    ) -> Tensor:
        """See :class:`TorchCam`."""
        classes, chosen = len(explained.classes), answer.chosen.tolist()
        # all are of one kind: the target's, or the one that a model without a target answers with
        of_class = chosen[0] < classes
        first, last = (0, classes) if of_class else (classes, logits.shape[1])
        if last - first < 2:
            raise ValueError(
                f"the model knows one {'class' if of_class else 'attribute'} only, and nothing to "
                "compare it with: use grad-cam"
            )
        others = None
        if self.against:
            others = [explained.number(name) - first for name in self.against]
            if not all(0 <= other < last - first for other in others):
                raise ValueError("against compares a class with classes, or attributes likewise")
        [found] = extractor(
            [place - first for place in chosen], logits[:, first:last], others, normalized=False
        )
        return found  # type: ignore[no-any-return]
