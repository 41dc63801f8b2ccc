"""torchcam's methods without gradients, which try each map as a mask."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torchcam import methods

from . import checks
from .extraction import Extractor, Logits, TorchCam


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
        self.batch_size = checks.count("batch_size", batch_size)

    def extractor(
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
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
        self.num_samples = checks.count("num_samples", num_samples)
        self.std = checks.above_0("std", std)
        self.seed = checks.whole("seed", seed)

    def extractor(
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
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
        self.num_samples = checks.count("num_samples", num_samples)

    def extractor(
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
        """See :class:`TorchCam`."""
        return methods.ISCAM(
            network,
            layer,
            batch_size=self.batch_size,
            num_samples=self.num_samples,
            reshape_transform=maps,
        )
