"""Channel maps of chosen layers: what the network sees of an image on its way to the answer."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from fashionbatch.drawing.cells import INK, PALE
from fashionbatch.drawing.lettering import fitted, font
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.explain.base import Explained, Photo, Picture, Visualizer
from fashionbatch.explain.maps import channel_maps, standardized
from fashionbatch.pipeline.transforms import augment

#: maps to a row, as in the paper's figure 9
_ROW = 16
_TILE, _GAP, _MARGIN = 64, 2, 24
_HEADER, _LINE, _PHOTO = 52, 22, 256
_KEY = (
    "In each map, mid-grey is its own mean;",
    "black and white are 2.5 standard deviations from it.",
    "A map that is the same everywhere is black.",
    "The share of zeros is that of all maps of the layer.",
)
_WIDTH = _ROW * (_TILE + _GAP) - _GAP


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What a layer gave for one image.

    Attributes:
        layer: name of the module in the backbone.
        kind: of the module, such as ``MaxPool2d``.
        shape: ``(C, h, w)`` of all its maps.
        maps: float32 ``[c, h, w]``, those of the first channels.
        sparsity: share of zeros among all values, from 0 to 1.
    """

    layer: str
    kind: str
    shape: tuple[int, int, int]
    maps: npt.NDArray[np.float32]
    sparsity: float


class Activations(Visualizer):
    """The image, the network's input, and a grid of channel maps of each layer.

    Figure 9 of the paper: 16 maps to a row, each map standardized, so that a channel that stayed
    silent is black. Each layer's caption says how many of all its values are zero.

    Args:
        layers: names of modules of the backbone, several joined by ``+``; ``*`` and ``?`` as in
            file names, and match dots too. By default those that stand for the backbone: of
            VGG-16 the paper's, of others four blocks and the last map.
        channels: at most so many maps of a layer, the first ones.
        augment: a random view as in training (``paper``, ``flip``, ``trivial``, ``rand``), which
            the network then gets; or ``none``.
        seed: of the random view.
    """

    def __init__(
        self, layers: str = "", channels: int = 64, augment: str = "none", seed: int = 0
    ) -> None:
        if channels < 1:
            raise ValueError(f"channels is at least 1, not {channels}")
        if augment not in (views := ("none", "paper", "flip", "trivial", "rand")):
            raise ValueError(f"augment is one of {', '.join(views)}, not {augment}")
        self.layers = layers
        self.channels = channels
        self.augment = augment
        self.seed = seed

    def draw(self, explained: Explained, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`.

        Raises:
            UnknownNameError: no layer of the backbone has such a name.
            UsageError: none of the layers gives maps.
        """
        chosen = self._choose(explained)
        for photo in photos:
            generator = torch.Generator().manual_seed(self.seed)  # an image's view is its own
            pixels = explained.inputs([photo.image])
            pixels = augment(pixels.cpu(), self.augment, generator).to(explained.device)
            found = self.activations(explained, pixels, chosen)
            seen = Image.fromarray(pixels[0].permute(1, 2, 0).cpu().numpy())
            sparsity = ", ".join(f"{a.layer} {a.sparsity:.1%}" for a in found)
            yield Picture(
                name=photo.name,
                image=_page(photo, seen, found),
                about={"Sparsity": sparsity},
            )

    def activations(
        self, explained: Explained, pixels: Tensor, layers: Sequence[str]
    ) -> list[Activation]:
        """Those of one image, from one forward pass.

        Args:
            explained: the model.
            pixels: uint8 ``[1, 3, size, size]``.
            layers: names of modules. One that gives no maps of more than one position is passed
                over; of one that runs several times the last time counts.

        Returns:
            in the order in which the layers ran.

        Raises:
            UsageError: none of them gives maps.
        """
        modules = dict(explained.model.backbone.named_modules())
        found: dict[str, Activation] = {}

        def keep(name: str) -> Callable[[nn.Module, object, object], None]:
            def hook(module: nn.Module, inputs: object, output: object) -> None:
                maps = channel_maps(output) if isinstance(output, Tensor) else None
                if maps is None or maps.shape[2] * maps.shape[3] == 1:
                    return
                _, count, height, width = maps.shape
                found[name] = Activation(
                    layer=name,
                    kind=type(module).__name__,
                    shape=(count, height, width),
                    # a copy: what follows may change it in place (ReLU, a shortcut's addition)
                    maps=maps[0, : self.channels].float().cpu().numpy().copy(),
                    sparsity=(maps == 0).float().mean().item(),
                )

            return hook

        hooks = [modules[name].register_forward_hook(keep(name)) for name in layers]
        try:
            with torch.inference_mode():
                explained.model(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            raise UsageError(
                f"none of the layers {', '.join(layers[:5])} gives maps: choose others "
                "(`fashionbatch backbones show NAME` lists the blocks)"
            )
        return list(found.values())

    def _choose(self, explained: Explained) -> list[str]:
        if not self.layers:
            return list(explained.shown_layers)
        names = [name for name, _ in explained.model.backbone.named_modules() if name]
        chosen: dict[str, None] = {}
        for pattern in self.layers.split("+"):
            matching = fnmatch.filter(names, pattern)
            if not matching:
                raise UnknownNameError("layer of the backbone", pattern, names)
            chosen |= dict.fromkeys(matching)
        return list(chosen)


def _page(photo: Photo, seen: Image.Image, activations: Sequence[Activation]) -> Image.Image:
    grids = [_grid(standardized(activation.maps)) for activation in activations]
    top = _HEADER + _LINE + _PHOTO + _MARGIN
    height = top + sum(_LINE + grid.height + _MARGIN for grid in grids)
    page = Image.new("RGB", (_WIDTH + 2 * _MARGIN, height), "white")
    pen = ImageDraw.Draw(page)
    pen.text(
        (_MARGIN, 16), fitted(photo.name, font(18, bold=True), _WIDTH), INK, font(18, bold=True)
    )
    for left, word, picture in (
        (_MARGIN, "original", photo.image),
        (2 * _MARGIN + _PHOTO, "as the network sees it", seen),
    ):
        _letter(pen, (left, _HEADER), word, f"{picture.width} × {picture.height}")
        scale = _PHOTO / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        # pixels of a small input are to be seen as such
        resample = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
        page.paste(picture.resize(size, resample), (left, _HEADER + _LINE))
    left = 3 * _MARGIN + 2 * _PHOTO
    for number, line in enumerate(_KEY):
        pen.text((left, _HEADER + _LINE + 18 * number), line, PALE, font(13))
    for activation, grid in zip(activations, grids, strict=True):
        count, high, wide = activation.shape
        shown = f"{len(activation.maps)} of {count}" if len(activation.maps) < count else count
        about = (
            f"{activation.kind}, {shown} maps of {wide} × {high}, {activation.sparsity:.1%} zeros"
        )
        _letter(pen, (_MARGIN, top), activation.layer, about)
        page.paste(grid, (_MARGIN, top + _LINE))
        top += _LINE + grid.height + _MARGIN
    return page


def _letter(pen: ImageDraw.ImageDraw, corner: tuple[int, int], word: str, about: str) -> None:
    bold = fitted(word, font(13, bold=True), _WIDTH // 2)
    pen.text(corner, bold, INK, font(13, bold=True))
    left = corner[0] + font(13, bold=True).getlength(bold) + 10
    pen.text((left, corner[1]), about, PALE, font(13))


def _grid(maps: npt.NDArray[np.uint8]) -> Image.Image:
    """Grey maps ``[c, h, w]`` side by side, 16 to a row."""
    step = _TILE + _GAP
    across, down = min(_ROW, len(maps)), -(-len(maps) // _ROW)
    page = Image.new("RGB", (across * step - _GAP, down * step - _GAP), "white")
    for place, values in enumerate(maps):
        row, column = divmod(place, _ROW)
        small = min(values.shape) < _TILE
        resample = Image.Resampling.NEAREST if small else Image.Resampling.BOX
        tile = Image.fromarray(values).resize((_TILE, _TILE), resample)
        page.paste(tile, (column * step, row * step))
    return page
