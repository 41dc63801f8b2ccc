"""What a visualizer gets and gives, and the base class of visualizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fashionbatch.models.build import Classifier
from fashionbatch.pipeline.transforms import fit
from fashionbatch.specs import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture to save.

    Attributes:
        name: of the file, without folder or extension; made safe when it is saved.
        image: of any mode that PNG has.
    """

    name: str
    image: Image.Image


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The model that is explained, and what belongs to it.

    Attributes:
        model: in evaluation mode, on ``device``.
        classes: logit ``i`` is ``classes[i]``; empty where it learnt no category.
        attributes: name of each of the attributes' logits; empty where it learnt none.
        preprocessing: fits images to the input.
        cam_layer: the module with the last spatial map.
        device: of the model.
    """

    model: Classifier
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    cam_layer: nn.Module
    device: torch.device
    attributes: tuple[str, ...] = ()

    def inputs(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images → uint8 ``[N, 3, size, size]`` on the device, as the model takes them."""
        pixels = np.stack([fit(image, self.preprocessing) for image in images])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)


class Visualizer:
    """Base class; a subclass overrides :meth:`draw`.

    Example::

        class Negative(fashionbatch.Visualizer):
            def draw(self, explained, images, names):
                for image, name in zip(images, names):
                    yield fashionbatch.Picture(name=name, image=PIL.ImageOps.invert(image))
    """

    def draw(
        self, explained: Explained, images: Sequence[Image.Image], names: Sequence[str]
    ) -> Iterable[Picture]:
        """Draws.

        Args:
            explained: the model.
            images: RGB, upright, of any size.
            names: of the images.
        """
        raise NotImplementedError  # the one method a subclass must write
