"""What a visualizer gets and gives, and the base class of visualizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fashionbatch.models.build import Classifier
from fashionbatch.pipeline.transforms import fit
from fashionbatch.specs import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Photo:
    """An image to explain.

    Attributes:
        image: RGB, upright, of any size.
        name: what its catalogue calls it.
        label: its class as far as its data set, or else its folder's name, says; not necessarily
            one of the model's.
    """

    image: Image.Image
    name: str
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture to save.

    Attributes:
        name: of the file, without folder or extension; made safe when it is saved.
        image: of any mode that PNG has.
        about: what it shows, in words for people, such as ``{"Class": "dress"}``; told with the
            picture.

    Example:
        >>> Picture(name="1.jpg", image=heat, about={"Class": "dress"})  # doctest: +SKIP
    """

    name: str
    image: Image.Image
    about: Mapping[str, str] = field(default_factory=dict)


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
        shown_layers: names of modules of the backbone that stand for all of it.
    """

    model: Classifier
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    cam_layer: nn.Module
    device: torch.device
    attributes: tuple[str, ...] = ()
    shown_layers: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """Classes, then attributes: the names of all logits."""
        return self.classes + self.attributes

    def inputs(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images → uint8 ``[N, 3, size, size]`` on the device, as the model takes them."""
        pixels = np.stack([fit(image, self.preprocessing) for image in images])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)


class Visualizer:
    """Base class; a subclass overrides :meth:`draw`.

    Example::

        class Negative(fashionbatch.Visualizer):
            def draw(self, explained, photos):
                for photo in photos:
                    negative = PIL.ImageOps.invert(photo.image)
                    yield fashionbatch.Picture(name=photo.name, image=negative)
    """

    def draw(self, explained: Explained, photos: Sequence[Photo]) -> Iterable[Picture]:
        """Draws some of the images; called several times where there are many.

        Args:
            explained: the model.
            photos: the images.
        """
        raise NotImplementedError  # the one method a subclass must write
