"""What a visualizer gets and gives, and the base class of visualizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fashionbatch.drawing.catalogue import Catalogue
from fashionbatch.errors import PluginError, UnknownNameError
from fashionbatch.explanation.maps import channel_maps
from fashionbatch.models.build import Classifier, Outputs
from fashionbatch.pipeline.transforms import fit
from fashionbatch.specs import MapLayout, Preprocessing
from fashionbatch.store.reader import Predictions


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
            picture, and kept in its file. A keyword has 1 to 79 characters of Latin-1.

    Raises:
        ValueError: a keyword is none.

    Example:
        >>> Picture(name="1.jpg", image=heat, about={"Class": "dress"})  # doctest: +SKIP
    """

    name: str
    image: Image.Image
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.about:
            latin = key.isprintable() and all(ord(c) < 256 for c in key)
            if not latin or not 0 < len(key) < 80 or key != key.strip():
                raise ValueError(f"Picture.about: {key!r} is not 1 to 79 characters of Latin-1")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is explained of each image, see :meth:`Explained.answer`.

    Attributes:
        chosen: int64 ``[N]``, a class, or, counted on from the classes, an attribute.
        score: float ``[N]``, its logit; gradients flow through it where they are computed.
        probability: float ``[N]``, from 0 to 1: a class's among the classes, an attribute's own.
    """

    chosen: Tensor
    score: Tensor
    probability: Tensor


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What pictures are drawn of, as far as nothing has to be loaded for it.

    Attributes:
        sha256: of the file of the model's weights; empty where none is there yet.
        run: folder of the model; ``None`` where a prediction file was named, and no model.
        predictions: a file that the model made, where one was named; see
            :func:`fashionbatch.open_predictions`.
        catalogue: where its photographs lie; ``catalogue.read(row)`` gives the bytes of one.
    """

    sha256: str = ""
    run: Path | None = None
    predictions: Predictions | None = None
    catalogue: Catalogue | None = None


@dataclass(frozen=True, kw_only=True)
class Explained(Subject):
    """The model that is explained, and what belongs to it.

    Attributes:
        model: in evaluation mode, on ``device``.
        classes: logit ``i`` is ``classes[i]``; empty where it learnt no category.
        attributes: name of each of the attributes' logits; empty where it learnt none.
        preprocessing: fits images to the input.
        cam_layer: the module with the last spatial map.
        device: of the model.
        cam_layout: of that module's output; ``None`` where only its shape says it.
        shown_layers: names of modules of the backbone that stand for all of it.
        temperature: what divides the classes' logits, so that probabilities mean what they say.
    """

    model: Classifier
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    cam_layer: nn.Module
    device: torch.device
    attributes: tuple[str, ...] = ()
    cam_layout: MapLayout | None = None
    shown_layers: tuple[str, ...] = ()
    temperature: float = 1.0

    @property
    def answers(self) -> tuple[str, ...]:
        """Classes, then attributes: the names of all logits."""
        return self.classes + self.attributes

    def number(self, target: str) -> int:
        """The place of a class or attribute among all logits.

        Raises:
            UnknownNameError: the model has none of that name.
        """
        if target not in self.answers:
            raise UnknownNameError("class or attribute of the model", target, self.answers)
        return self.answers.index(target)

    def logits(self, images: Tensor) -> Tensor:
        """Runs the model.

        Args:
            images: uint8 or float ``[N, 3, size, size]`` from 0 to 255, as :meth:`inputs` gives
                them; gradients reach one that requires them, whatever of the model is frozen.

        Returns:
            float ``[N, classes + attributes]``, in the order of :attr:`answers`.
        """
        return all_logits(self.model(images))

    def answer(self, logits: Tensor, target: str | None = None) -> Answer:
        """What is explained of each image: the target, or else the model's answer.

        Args:
            logits: float ``[N, classes + attributes]``, as :meth:`logits` gives them.
            target: name of a class or attribute; without one, the most probable class, or, of a
                model that learnt attributes only, the most probable attribute.

        Raises:
            UnknownNameError: the model has no such target.
        """
        if target is not None:
            chosen = torch.full((len(logits),), self.number(target), device=logits.device)
        else:
            chosen = logits[:, : len(self.classes) or None].argmax(dim=1)
        return Answer(
            chosen=chosen,
            score=logits.gather(1, chosen[:, None])[:, 0],
            probability=self.probabilities(logits).gather(1, chosen[:, None])[:, 0],
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """float ``[N, classes + attributes]``, likewise: a class's among the classes, as
        ``predict`` gives it, and an attribute's own."""
        classes, attributes = logits.tensor_split([len(self.classes)], dim=1)
        shares = (classes / self.temperature).softmax(dim=1)
        return torch.cat([shares, attributes.sigmoid()], dim=1)

    def cam_maps(self, values: Tensor | None) -> Tensor:
        """What ``cam_layer`` gave, or a gradient of that, as maps.

        Args:
            values: float, as the layer gives them; ``None`` where it was never run.

        Returns:
            float ``[N, C, h, w]``, a view; the tokens of a transformer that stand for no place are
            left out.

        Raises:
            PluginError: they are no maps of ``cam_layout``.
        """
        maps = channel_maps(values, self.cam_layout) if isinstance(values, Tensor) else None
        if maps is None:
            given = "nothing: it is never run as a whole"
            if values is not None:
                given = str(list(getattr(values, "shape", ())) or f"a {type(values).__name__}")
            raise PluginError(
                f"the backbone's cam_layer gives {given}, not maps as its cam_layout "
                f"({self.cam_layout or 'any'}) says: a heat map needs a spatial map"
            )
        return maps

    def inputs(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images → uint8 ``[N, 3, size, size]`` on the device, as the model takes them."""
        pixels = np.stack([fit(image, self.preprocessing) for image in images])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)


def all_logits(outputs: Outputs) -> Tensor:
    """Those of classes, then of attributes: float ``[N, classes + attributes]``."""
    return torch.cat([outputs.logits, outputs.attributes], dim=1)


class Visualizer:
    """Base class; a subclass overrides :meth:`draw`, and :meth:`finish` if it has to.

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
            explained: the model; of a visualizer whose spec says that it needs none, a
                :class:`fashionbatch.Subject`.
            photos: the images.
        """
        raise NotImplementedError  # the one method a subclass must write

    def finish(self) -> Iterable[Picture]:
        """Draws what is of all images together; called once, behind the last of them."""
        return ()
