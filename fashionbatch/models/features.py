"""Logits and the output of any layer from one forward pass."""

from __future__ import annotations

from types import TracebackType

from torch import Tensor, nn

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.models.build import Classifier, Outputs

POOLED = "pooled"


class FeatureTap:
    """Runs a model and keeps a layer's output; a context manager that removes its hook.

    Args:
        model: in evaluation mode.
        layer: ``pooled`` for the bottleneck, or the name of a module of the backbone.

    Raises:
        UnknownNameError: the backbone has no such module.

    Example:
        >>> with FeatureTap(model, "layer4.2") as tap:  # doctest: +SKIP
        ...     outputs, features = tap(images)  # features: [N, 2048, 7, 7]
    """

    def __init__(self, model: Classifier, layer: str = POOLED) -> None:
        self.model = model
        self.layer = layer
        self._kept: Tensor | None = None
        self._hook = None
        if layer != POOLED:
            self._hook = find_layer(model, layer).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        # a copy: what follows may change it in place (ReLU, a shortcut's addition)
        self._kept = output.clone() if isinstance(output, Tensor) else None

    def __call__(self, images: Tensor) -> tuple[Outputs, Tensor]:
        """uint8 or float ``[N, 3, H, W]`` → outputs, and features ``[N, ...]``."""
        self._kept = None
        outputs: Outputs = self.model(images)
        if self.layer == POOLED:
            return outputs, outputs.bottleneck
        if not isinstance(self._kept, Tensor) or len(self._kept) != len(images):
            raise UsageError(
                f"--features {self.layer}: this layer gives no tensor with a row per image; "
                "choose another one (`fashionbatch backbones show NAME` lists the blocks)"
            )
        return outputs, self._kept

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hook is not None:
            self._hook.remove()


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
