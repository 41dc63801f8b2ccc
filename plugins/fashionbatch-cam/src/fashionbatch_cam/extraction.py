"""What runs torchcam's methods with the options, captions and sheets of fashionbatch's heat maps.

torchcam computes the maps. This module runs the network as torchcam expects it, hands over maps of
transformers as ``[N, C, h, w]``, seeds the noise and leaves the network as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import fashionbatch
import torch
from PIL import Image
from torch import Tensor, nn

Extractor: TypeAlias = Any  # a context manager; called, it gives a list of one tensor of maps


class Logits(nn.Module):
    """The network as torchcam runs it: normalized images → one tensor of all logits.

    Masks and noise belong on normalized images, where 0 is the mean colour.
    """

    def __init__(self, explained: fashionbatch.Explained) -> None:
        super().__init__()
        self.backbone = explained.model.backbone
        self.head = explained.model.head
        self.bottleneck = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        """Float ``[N, 3, H, W]`` → ``[N, classes + attributes]``; keeps the bottleneck."""
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
        self, network: Logits, layer: nn.Module, maps: Callable[[Tensor], Tensor]
    ) -> Extractor:
        """Makes torchcam's extractor.

        Args:
            network: to explain.
            layer: with the last spatial map.
            maps: what turns the layer's output into ``[N, C, h, w]``.
        """
        raise NotImplementedError

    def extract(
        self,
        extractor: Extractor,
        network: Logits,
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
        network = Logits(explained)
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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generator of the CPU, from which torchcam draws, and puts it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
