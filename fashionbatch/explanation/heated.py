"""The base class of visualizers that lay heat over photographs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn

from fashionbatch.drawing.cells import on_mat
from fashionbatch.errors import PluginError, UsageError
from fashionbatch.explanation import heat as drawing
from fashionbatch.explanation import sheet
from fashionbatch.explanation.base import Answer, Explained, Photo, Picture, Visualizer
from fashionbatch.explanation.sheet import Case

_T = TypeVar("_T")

_NOTHING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Heat:
    """What a :class:`HeatVisualizer` found out about some images.

    Attributes:
        maps: float ``[N, h, w]`` over the network's input, of any height and width. What is below
            0 is no heat; the largest value of an image is the hottest.
        answer: what they are of.
        captions: of each image, in place of the answer with its probability.
        about: of each image, what else to tell and to keep in the picture's file.
    """

    maps: Tensor
    answer: Answer
    captions: Sequence[str] = ()
    about: Sequence[Mapping[str, str]] = ()


class HeatVisualizer(Visualizer):
    """Base class; a subclass says in :meth:`heat` where the heat is, and this class does the rest.

    Each map is scaled so that its largest value is 1, enlarged to the network's input, put back
    onto the original image (crop and letterbox undone) and captioned with the answer and its
    probability, which are also kept in the picture's file.

    A subclass with options of its own takes these three too, and hands them on.

    Args:
        intensity: of the heat over the image, from 0 to 1.
        target: name of the class or attribute to explain; by default the predicted class, or, of a
            model that learnt attributes only, the most probable one.
        sheet: all images on sheets of at most 60 in place of a picture of each. Without a target,
            answers are told apart into wrong and right ones where the image's class is known.

    Attributes:
        name: as in its spec; of the sheets' files.
        title: of the sheets; by default the name.
        together: how many images :meth:`heat` gets at once, 1 where each takes long; by default
            all there are, up to 16.

    Raises:
        ValueError: the intensity is not from 0 to 1.

    Example::

        class Saliency(fashionbatch.HeatVisualizer):
            name, title = "saliency", "Saliency"

            def heat(self, explained, images):
                pixels = explained.inputs(images).float().requires_grad_()
                answer = explained.answer(explained.logits(pixels), self.target)
                (gradient,) = torch.autograd.grad(answer.score.sum(), pixels)
                return fashionbatch.Heat(maps=gradient.abs().amax(dim=1), answer=answer)
    """

    name: ClassVar[str] = "heat"
    title: ClassVar[str] = ""
    together: ClassVar[int | None] = None
    # of a subclass whose own __init__ does not hand them on
    intensity: float = 0.4
    target: str | None = None
    sheet: bool = False

    def __init__(
        self, intensity: float = 0.4, target: str | None = None, sheet: bool = False
    ) -> None:
        if not 0 <= intensity <= 1:
            raise ValueError(f"intensity is from 0 to 1, not {intensity}")
        self.intensity = intensity
        self.target = target
        self.sheet = sheet

    def heat(self, explained: Explained, images: Sequence[Image.Image]) -> Heat:
        """Finds where the heat is; the one method that a subclass must write.

        Args:
            explained: the model; leave it as it is.
            images: RGB, upright, of any size; ``explained.inputs(images)`` fits them.

        Returns:
            of each image, in their order.

        Raises:
            ValueError: one line: it cannot work with this model.
            UnknownNameError: the target is no class or attribute of the model.
        """
        raise NotImplementedError  # the one method a subclass must write

    def maps(
        self, explained: Explained, images: Sequence[Image.Image]
    ) -> tuple[npt.NDArray[np.float32], list[int], list[float]]:
        """The maps themselves.

        Returns:
            float32 ``[N, size, size]`` from 0 to 1 over the network's input, what is explained
            of each image (a class, or, counted on from the classes, an attribute), and its
            probability.

        Raises:
            UnknownNameError: the target is no class or attribute of the model.
            UsageError: it cannot work with this model.
            PluginError: :meth:`heat` gives no maps, or the backbone's ``cam_layer`` does not.
        """
        side = explained.preprocessing.size
        maps = [np.empty((0, side, side), np.float32)]
        chosen: list[int] = []
        probability: list[float] = []
        for some in self._groups(images):
            heat = self._heat(explained, some)
            maps.append(self._scaled(heat, explained))
            chosen += heat.answer.chosen.tolist()
            probability += heat.answer.probability.tolist()
        return np.concatenate(maps), chosen, probability

    def draw(self, explained: Explained, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        for some in self._groups(photos):
            heat = self._heat(explained, [photo.image for photo in some])
            maps = self._scaled(heat, explained)
            chosen, probability = heat.answer.chosen.tolist(), heat.answer.probability.tolist()
            for i, photo in enumerate(some):
                answer = explained.answers[chosen[i]]
                about = {"Class": answer, "Probability": f"{probability[i]:.4f}"}
                caption = f"{answer}  {probability[i]:.1%}"
                wrong = f"  (labelled {photo.label})"
                if heat.about:
                    about.update(heat.about[i])
                if heat.captions:
                    caption, wrong = heat.captions[i], ""
                image = drawing.readable(photo.image)
                over = drawing.onto_original(maps[i], image.size, explained.preprocessing)
                mixed = drawing.overlay(image, over, self.intensity)
                right = None
                if self.target is None and photo.label in explained.classes:
                    right = answer == photo.label
                if self.sheet:
                    yield from self._collect(mixed, photo, caption, right)
                    continue
                if right is False:
                    caption += wrong
                yield Picture(name=photo.name, image=drawing.captioned(mixed, caption), about=about)

    def finish(self) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        if self._collected:
            yield self._sheet()

    @functools.cached_property
    def _collected(self) -> list[Case]:
        """For a sheet."""
        return []

    def _groups(self, items: Sequence[_T]) -> Iterator[Sequence[_T]]:
        step = self.together or max(1, len(items))
        for first in range(0, len(items), step):
            yield items[first : first + step]

    def _heat(self, explained: Explained, images: Sequence[Image.Image]) -> Heat:
        try:
            heat = self.heat(explained, images)
        except ValueError as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"{self.name}: {reason[0]}") from error
        shape = tuple(heat.maps.shape)
        if len(shape) != 3 or shape[0] != len(images) or not heat.maps.isfinite().all():
            what = "values that are not finite" if len(shape) == 3 else "no maps"
            raise PluginError(
                f"visualizer {self.name!r} gives {what} ({list(shape)} of {len(images)} images): "
                "tell its author"
            )
        return heat

    @staticmethod
    def _scaled(heat: Heat, explained: Explained) -> npt.NDArray[np.float32]:
        maps = heat.maps.detach().float()[:, None].relu()
        maps = maps / maps.amax(dim=(2, 3), keepdim=True).clamp_min(_NOTHING)
        side = explained.preprocessing.size
        maps = nn.functional.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
        values: npt.NDArray[np.float32] = maps[:, 0].cpu().numpy()
        return values

    def _collect(
        self, mixed: Image.Image, photo: Photo, caption: str, right: bool | None
    ) -> Iterator[Picture]:
        cell = on_mat(mixed, sheet.CELL)
        self._collected.append(
            Case(cell=cell, name=photo.name, answer=caption, label=photo.label, right=right)
        )
        if len(self._collected) == sheet.MOST:
            yield self._sheet()

    def _sheet(self) -> Picture:
        cases = self._collected.copy()
        self._collected.clear()
        judged = [case.right for case in cases if case.right is not None]
        what = "the predicted class" if self.target is None else self.target
        about = f"what speaks for {what}, from blue (nothing) to red (most), in each image"
        told = {}
        if judged:
            told["Right"] = f"{sum(judged)} of {len(judged)}"
            about = f"{told['Right']} right; {about}"
        title = self.title or self.name
        return Picture(name=self.name, image=sheet.draw(cases, title, about), about=told)
