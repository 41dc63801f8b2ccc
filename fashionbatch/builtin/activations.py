"""Channel maps of chosen layers: what the network sees of an image on its way to the answer."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.explanation import grid
from fashionbatch.explanation.base import Explained, Photo, Picture, Visualizer
from fashionbatch.explanation.grid import Activation
from fashionbatch.explanation.maps import channel_maps
from fashionbatch.pipeline.transforms import augment


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
                image=grid.draw(photo, seen, found),
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
