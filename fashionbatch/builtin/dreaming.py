"""Inputs that a network makes up: of a class as surely as it can, or of what a layer looks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from fashionbatch.errors import UsageError
from fashionbatch.explanation import heat
from fashionbatch.explanation.ascent import Ascent
from fashionbatch.explanation.base import (
    Explained,
    Photo,
    Picture,
    Visualizer,
)
from fashionbatch.models.features import find_layer
from fashionbatch.pipeline.transforms import placed

#: of a picture at least, and between two, in pixels
_SIDE, _GAP = 320, 8


class ClassMaximization(Visualizer):
    """Gradient ascent on the input for a class's logit (Simonyan et al. 2014, section 2).

    Without images it begins with noise, and there is a picture of each class; otherwise it begins
    with each image, which is shown beside what became of it.

    Args:
        target: name of a class or attribute; by default every class in turn, or, of an image, the
            predicted one.
        steps: of gradient ascent.
        rate: of each step.
        seed: of noise and of small moves; the same one gives the same pictures.
    """

    def __init__(
        self, target: str | None = None, steps: int = 128, rate: float = 0.05, seed: int = 0
    ) -> None:
        self.target = target
        self.ascent = Ascent(steps=steps, rate=rate, seed=seed)

    def draw(self, explained: Explained, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        if not photos:
            noise = self.ascent.noise(explained.preprocessing.size, explained.device)
            numbers = range(len(explained.classes or explained.answers))
            if self.target is not None:
                numbers = range(first := explained.number(self.target), first + 1)
            for number in numbers:
                yield self._picture(explained, noise, number, None)
        for photo in photos:
            start = explained.inputs([photo.image]).float()
            with torch.inference_mode():
                number = int(explained.answer(explained.logits(start), self.target).chosen[0])
            yield self._picture(explained, start, number, photo)

    def _picture(
        self, explained: Explained, start: Tensor, number: int, photo: Photo | None
    ) -> Picture:
        made = self.ascent.run(
            lambda pixels: explained.logits(pixels)[0, number], start
        ).round()  # as it is saved
        with torch.inference_mode():
            both = explained.probabilities(explained.logits(torch.cat([start, made])))[:, number]
        before, after = both.tolist()
        answer = explained.answers[number]
        about = {"Class": answer, "Probability": f"{after:.4f}"}
        if photo is None:
            image = heat.captioned(heat.readable(_image(made), _SIDE), f"{answer}  {after:.1%}")
            return Picture(name=answer, image=image, about=about)
        caption = f"{answer}  {before:.1%} → {after:.1%}"
        pair = _pair(explained, photo, start, made)
        return Picture(name=photo.name, image=heat.captioned(pair, caption), about=about)


class DeepDream(Visualizer):
    """Gradient ascent on an image for the norm of a layer (Mordvintsev et al. 2015, Inceptionism).

    What the layer faintly finds in the image comes out; the image is shown beside it.

    Args:
        layer: name of a module of the backbone; by default one in the middle.
        steps: of gradient ascent.
        rate: of each step.
        seed: of small moves; the same one gives the same pictures.
    """

    def __init__(
        self, layer: str | None = None, steps: int = 64, rate: float = 0.05, seed: int = 0
    ) -> None:
        self.layer = layer
        self.ascent = Ascent(steps=steps, rate=rate, seed=seed)

    def draw(self, explained: Explained, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`.

        Raises:
            UnknownNameError: the backbone has no such layer.
            UsageError: the layer gives no tensor.
        """
        name = self.layer or explained.shown_layers[len(explained.shown_layers) // 2]
        layer = find_layer(explained.model, name)
        kept: list[object] = []

        def keep(module: nn.Module, inputs: object, output: object) -> None:
            # a copy: what follows may change it in place
            kept[:] = [output.clone() if isinstance(output, Tensor) else output]

        def norm(pixels: Tensor) -> Tensor:
            """Root of the mean square of the layer's values."""
            kept.clear()
            explained.model(pixels)
            if not kept or not isinstance(kept[0], Tensor):
                raise UsageError(f"deep-dream: layer {name} gives no tensor: choose another one")
            return kept[0].square().mean().sqrt()

        hook = layer.register_forward_hook(keep)
        try:
            for photo in photos:
                start = explained.inputs([photo.image]).float()
                made = self.ascent.run(norm, start).round()
                with torch.inference_mode():
                    before, after = norm(start).item(), norm(made).item()
                caption = f"norm of {name}  {before:.3g} → {after:.3g}"
                yield Picture(
                    name=photo.name,
                    image=heat.captioned(_pair(explained, photo, start, made), caption),
                    about={"Layer": name, "Norm": f"{before:.4g} to {after:.4g}"},
                )
        finally:
            hook.remove()


def _image(pixels: Tensor) -> Image.Image:
    """Float ``[1, 3, h, w]`` from 0 to 255 → RGB."""
    return Image.fromarray(pixels[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy())


def _pair(explained: Explained, photo: Photo, start: Tensor, made: Tensor) -> Image.Image:
    """The network's input and what became of it side by side, without the letterbox."""
    left, top, width, height = placed(photo.image.size, explained.preprocessing)
    side = explained.preprocessing.size
    box = (
        max(0, int(left)),
        max(0, int(top)),
        min(side, int(left + width)),
        min(side, int(top + height)),
    )
    images = [heat.readable(_image(pixels).crop(box), _SIDE) for pixels in (start, made)]
    page = Image.new("RGB", (2 * images[0].width + _GAP, images[0].height), "white")
    for place, image in enumerate(images):
        page.paste(image, (place * (image.width + _GAP), 0))
    return page
