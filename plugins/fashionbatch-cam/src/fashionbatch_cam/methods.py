"""torchcam's methods, each with the options, captions and sheets of fashionbatch's heat maps.

torchcam computes the maps. This module runs the network as torchcam expects it, hands over maps of
transformers as ``[N, C, h, w]``, seeds the noise and leaves the network as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import fashionbatch
import torch
from PIL import Image
from torch import Tensor, nn
from torchcam import methods

_Extractor: TypeAlias = Any  # a context manager; called, it gives a list of one tensor of maps

#: as a share of the bottleneck's largest value; rounding makes about 1e-6
_SAME = 1e-3


class _Logits(nn.Module):
    """The network as torchcam runs it: normalized images → one tensor of all logits.

    Masks and noise belong on normalized images, where 0 is the mean colour.
    """

    def __init__(self, explained: fashionbatch.Explained) -> None:
        super().__init__()
        self.backbone = explained.model.backbone
        self.head = explained.model.head
        # torchcam puts a model back into the mode in which it found it; the children's stay as
        # they are
        self.training = False
        self.bottleneck = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.head(self.backbone(images))
        self.bottleneck = outputs.bottleneck.detach()
        return torch.cat([outputs.logits, outputs.attributes], dim=1)


class TorchCam(fashionbatch.HeatVisualizer):
    """Base class: a subclass makes torchcam's extractor and, where it must, calls it otherwise.

    Args: see :class:`fashionbatch.HeatVisualizer`.
    """

    #: whether the method needs gradients
    gradients: ClassVar[bool] = True
    #: of what noise there is
    seed: int = 0

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
        """Makes torchcam's extractor.

        Args:
            network: to explain.
            layer: with the last spatial map.
            maps: what turns the layer's output into ``[N, C, h, w]``.
        """
        raise NotImplementedError

    def extract(
        self,
        extractor: _Extractor,
        network: _Logits,
        explained: fashionbatch.Explained,
        logits: Tensor,
        answer: fashionbatch.Answer,
    ) -> Tensor:
        """Calls it: float ``[N, h, w]``, not scaled."""
        # one target for each image of the batch
        [found] = extractor(answer.chosen.tolist(), logits, normalized=False)
        return found  # type: ignore[no-any-return]

    def heat(
        self, explained: fashionbatch.Explained, images: Sequence[Image.Image]
    ) -> fashionbatch.Heat:
        """See :class:`fashionbatch.HeatVisualizer`.

        Raises:
            ValueError: the method cannot explain this network.
            fashionbatch.errors.PluginError: the backbone's ``cam_layer`` gives no spatial map.
        """
        network = _Logits(explained)
        layer = explained.cam_layer
        ran = False

        def maps(values: Tensor) -> Tensor:
            nonlocal ran
            ran = True
            return explained.cam_maps(values)

        if all(module is not layer for module in network.modules()):
            explained.cam_maps(None)
        with torch.set_grad_enabled(self.gradients), _seeded(self.seed):
            inputs = explained.model.normalized(explained.inputs(images))
            # gradients must flow to the map even where every weight before it is frozen
            inputs.requires_grad_(self.gradients)
            with self.extractor(network, layer, maps) as extractor:
                logits = network(inputs)
                if not ran:
                    explained.cam_maps(None)
                answer = explained.answer(logits, self.target)
                found = self.extract(extractor, network, explained, logits, answer)
        return fashionbatch.Heat(maps=found.detach(), answer=answer)


class GradCamPlusPlus(TorchCam):
    """Grad-CAM++ (Chattopadhay et al. 2018).

    The weight of a channel with activations ``A`` is ``Σ_ij ReLU(g_ij) g_ij² / (2 g_ij² + g_ij³
    Σ_ab A_ab)``, where ``g`` is the gradient of the answer's logit.

    Args: see :class:`fashionbatch.HeatVisualizer`.
    """

    name = "grad-cam-plus-plus"
    title = "Grad-CAM++"

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
        """See :class:`TorchCam`; only activations and gradients are taken from it."""
        return methods.GradCAM(network, layer, reshape_transform=maps)

    def extract(
        self,
        extractor: _Extractor,
        network: _Logits,
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
        self.num_samples = _count("num_samples", num_samples)
        self.std = _above_0("std", std)
        self.seed = _whole("seed", seed)

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
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
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
        """See :class:`TorchCam`."""
        return methods.XGradCAM(network, layer, reshape_transform=maps)


class LayerCam(TorchCam):
    """LayerCAM (Jiang et al. 2021): each place of a channel has its own weight.

    Args: see :class:`fashionbatch.HeatVisualizer`.
    """

    name = "layer-cam"
    title = "LayerCAM"

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
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
        if not _number(gamma) or gamma < 0:
            raise ValueError(f"gamma is a number of at least 0, not {gamma}")
        if base not in self._BASES:
            raise ValueError(f"base is {' or '.join(self._BASES)}, not {base!r}")
        self.gamma = gamma
        self.references = _count("references", references)
        self.base = base
        self.against = [] if against is None else list(dict.fromkeys(str(against).split("+")))
        if self.against and target is None:
            raise ValueError("against takes a target, such as target=coat,against=jacket")
        if target in self.against:
            raise ValueError(f"against names the target itself, {target!r}")

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
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
        extractor: _Extractor,
        network: _Logits,
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


class Cam(TorchCam):
    """Class activation maps (Zhou et al. 2016), without what is below 0.

    For networks whose head is one linear layer on the mean of the last maps; these alone have a
    weight of each channel for each class.

    Args: see :class:`fashionbatch.HeatVisualizer`.
    """

    name = "cam"
    title = "CAM"
    gradients = False

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
        """See :class:`TorchCam`."""
        if len(network.head.dense) > 1:
            raise ValueError("the head has hidden layers, CAM takes a linear one: use grad-cam")
        return methods.CAM(network, layer, fc_layer=network.head.dense[0], reshape_transform=maps)

    def extract(
        self,
        extractor: _Extractor,
        network: _Logits,
        explained: fashionbatch.Explained,
        logits: Tensor,
        answer: fashionbatch.Answer,
    ) -> Tensor:
        """See :class:`TorchCam`."""
        features = network.bottleneck
        means = extractor.hook_a[0].mean(dim=(2, 3))
        if means.shape != features.shape or (
            (means - features).abs().max() > _SAME * features.abs().max()
        ):
            raise ValueError("the features are not the means of the last maps: use grad-cam")
        return super().extract(extractor, network, explained, logits, answer)


class ScoreCam(TorchCam):
    """Score-CAM (Wang et al. 2020): a channel's weight is the score behind its map as a mask.

    An image takes as many passes through the network as the last map has channels.

    Args:
        batch_size: masked images that are run at once.
        intensity: see :class:`fashionbatch.HeatVisualizer`.
        target: likewise.
        sheet: likewise.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """

    name = "score-cam"
    title = "Score-CAM"
    gradients = False
    together = 1  # each takes hundreds of passes

    def __init__(
        self,
        batch_size: int = 32,
        intensity: float = 0.4,
        target: str | None = None,
        sheet: bool = False,
    ) -> None:
        super().__init__(intensity, target, sheet)
        self.batch_size = _count("batch_size", batch_size)

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
        """See :class:`TorchCam`."""
        return methods.ScoreCAM(network, layer, batch_size=self.batch_size, reshape_transform=maps)


class SsCam(ScoreCam):
    """SS-CAM (Wang et al. 2020), the variant that smooths the masks: Score-CAM over noisy masks.

    An image takes ``num_samples`` times the passes of Score-CAM.

    Args:
        num_samples: noisy copies of each mask; the paper's are 35.
        std: of the noise on masks from 0 to 1.
        seed: of the noise.
        batch_size: masked images that are run at once.
        intensity: see :class:`fashionbatch.HeatVisualizer`.
        target: likewise.
        sheet: likewise.

    Raises:
        ValueError: ``num_samples`` or ``batch_size`` is below 1, or ``std`` not above 0.
    """

    name = "ss-cam"
    title = "SS-CAM"

    def __init__(
        self,
        num_samples: int = 8,
        std: float = 2.0,
        seed: int = 0,
        batch_size: int = 32,
        intensity: float = 0.4,
        target: str | None = None,
        sheet: bool = False,
    ) -> None:
        super().__init__(batch_size, intensity, target, sheet)
        self.num_samples = _count("num_samples", num_samples)
        self.std = _above_0("std", std)
        self.seed = _whole("seed", seed)

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
        """See :class:`TorchCam`."""
        return methods.SSCAM(
            network,
            layer,
            batch_size=self.batch_size,
            num_samples=self.num_samples,
            std=self.std,
            reshape_transform=maps,
        )


class IsCam(ScoreCam):
    """IS-CAM (Naidu et al. 2020): Score-CAM, its scores averaged over ever brighter masks.

    An image takes ``num_samples`` times the passes of Score-CAM.

    Args:
        num_samples: steps; the paper's are 10.
        batch_size: masked images that are run at once.
        intensity: see :class:`fashionbatch.HeatVisualizer`.
        target: likewise.
        sheet: likewise.

    Raises:
        ValueError: ``num_samples`` or ``batch_size`` is below 1.
    """

    name = "is-cam"
    title = "IS-CAM"

    def __init__(
        self,
        num_samples: int = 10,
        batch_size: int = 32,
        intensity: float = 0.4,
        target: str | None = None,
        sheet: bool = False,
    ) -> None:
        super().__init__(batch_size, intensity, target, sheet)
        self.num_samples = _count("num_samples", num_samples)

    def extractor(
        self, network: _Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> _Extractor:
        """See :class:`TorchCam`."""
        return methods.ISCAM(
            network,
            layer,
            batch_size=self.batch_size,
            num_samples=self.num_samples,
            reshape_transform=maps,
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generator of the CPU, from which torchcam draws, and puts it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{name} is a whole number of at least 0, not {value}")
    return value


def _count(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is a whole number of at least 1, not {value}")
    return value


def _above_0(name: str, value: float) -> float:
    if not _number(value) or value <= 0:
        raise ValueError(f"{name} is a number above 0, not {value}")
    return value
