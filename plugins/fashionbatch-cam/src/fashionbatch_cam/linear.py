"""torchcam's method for networks whose head is one linear layer."""

from __future__ import annotations

from collections.abc import Callable

import fashionbatch
from torch import Tensor, nn
from torchcam import methods

from .extraction import Extractor, Logits, TorchCam

#: as a share of the bottleneck's largest value; rounding makes about 1e-6
_SAME = 1e-3


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
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
        """See :class:`TorchCam`."""
        if len(network.head.dense) > 1:
            raise ValueError("the head has hidden layers, CAM takes a linear one: use grad-cam")
        return methods.CAM(network, layer, fc_layer=network.head.dense[0], reshape_transform=maps)

    def extract(
        self,
        extractor: Extractor,
        network: Logits,
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
