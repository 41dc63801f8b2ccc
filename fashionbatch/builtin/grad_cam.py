"""Grad-CAM: where the network looked for its class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from fashionbatch.explanation.base import Explained
from fashionbatch.explanation.heated import Heat, HeatVisualizer


class GradCam(HeatVisualizer):
    """Gradient-weighted class activation maps (Selvaraju et al. 2017).

    The map is ``ReLU(Σ_k α_k A_k)`` over the channels of the last spatial map ``A``, where ``α_k``
    is the mean gradient of the answer's logit over channel ``k``. The paper's intensity is 0.4.

    Args: see :class:`fashionbatch.HeatVisualizer`.
    """

    name = "grad-cam"
    title = "Grad-CAM"

    def heat(self, explained: Explained, images: Sequence[Image.Image]) -> Heat:
        """See :class:`fashionbatch.HeatVisualizer`.

        Raises:
            UnknownNameError: the target is no class or attribute of the model.
            PluginError: the backbone's ``cam_layer`` gives no spatial map.
        """
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            kept.append(output)

        hook = explained.cam_layer.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                # gradients must flow to the map even where every weight before it is frozen
                pixels = explained.inputs(images).float().requires_grad_()
                answer = explained.answer(explained.logits(pixels), self.target)
                activation = explained.cam_maps(kept[-1] if kept else None)
                (each,) = torch.autograd.grad(answer.score.sum(), kept[-1])
        finally:
            hook.remove()
        weights = explained.cam_maps(each).mean(dim=(2, 3), keepdim=True)
        return Heat(maps=(weights * activation).sum(dim=1).detach(), answer=answer)
