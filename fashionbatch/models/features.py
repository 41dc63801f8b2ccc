"""Logits and the output of any layer from one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.models.build import Classifier, Outputs

POOLED = "pooled"
NONE = "none"


class FeatureTap(nn.Module):
    """A model that gives a layer's output too: what engines run.

    Args:
        model: in evaluation mode.
        layer: ``pooled`` for the bottleneck, the name of a module of the backbone, or ``none``.

    Raises:
        UnknownNameError: the backbone has no such module.

    Example:
        >>> logits, attributes, features = FeatureTap(model, "layer4.2")(images)  # doctest: +SKIP
        >>> features.shape  # doctest: +SKIP
        torch.Size([32, 2048, 7, 7])
    """

    def __init__(self, model: Classifier, layer: str = POOLED) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        self._kept: list[Tensor] = []
        if layer not in (POOLED, NONE):
            find_layer(model, layer).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, output: object) -> None:
        # a copy: what follows may change it in place (ReLU, a shortcut's addition)
        self._kept = [output.clone()] if isinstance(output, Tensor) else []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 or float ``[N, 3, H, W]`` on the scale 0..255 → logits, attributes, features.

        Features ``[N, ...]`` are left out where the layer is ``none``.

        Raises:
            UsageError: the layer gives no tensor with a row per image.
        """
        self._kept = []
        outputs: Outputs = self.model(images)
        if self.layer == NONE:
            return outputs.logits, outputs.attributes
        if self.layer == POOLED:
            return outputs.logits, outputs.attributes, outputs.bottleneck
        if not self._kept or len(self._kept[0]) != len(images):
            raise UsageError(
                f"--features {self.layer}: this layer gives no tensor with a row per image; "
                "choose another one (`fashionbatch backbones show NAME` lists the blocks)"
            )
        features, self._kept = self._kept[0], []
        return outputs.logits, outputs.attributes, features


def try_out(tap: FeatureTap, size: int) -> tuple[tuple[int, ...], ...]:
    """The shape of each answer to one image, without its first dimension.

    Args:
        tap: to look at.
        size: height and width of its input.

    Raises:
        UsageError: the layer gives no tensor with a row per image.
    """
    with torch.inference_mode():
        answers = tap(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    return tuple(tuple(answer.shape[1:]) for answer in answers)


def find_layer(model: Classifier, name: str) -> nn.Module:
    """A module of the backbone by name.

    Raises:
        UnknownNameError: there is none.
    """
    modules = dict(model.backbone.named_modules())
    if not name or name not in modules:
        raise UnknownNameError("layer of the backbone", name, [POOLED, *filter(None, modules)])
    layer: nn.Module = modules[name]
    return layer
