"""Grad-CAM: where the network looked for its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from fashionbatch.drawing.cells import on_mat
from fashionbatch.errors import PluginError
from fashionbatch.explain import heat, sheet
from fashionbatch.explain.base import (
    Explained,
    Photo,
    Picture,
    Visualizer,
    all_logits,
    probabilities,
)
from fashionbatch.explain.maps import channel_maps
from fashionbatch.explain.sheet import Case


class GradCam(Visualizer):
    """Gradient-weighted class activation maps (Selvaraju et al. 2017).

    The map is ``ReLU(Σ_k α_k A_k)`` over the channels of the last spatial map ``A``, where ``α_k``
    is the mean gradient of the answer's logit over channel ``k``; scaled to 0..1, put back onto the
    original image (crop and letterbox undone) and captioned with the answer and its probability.

    Args:
        intensity: of the map over the image; the paper's 0.4.
        target: name of the class or attribute to explain; by default the predicted class, or, of a
            model that learnt attributes only, the most probable one.
        sheet: all images on sheets of at most 60 in place of a picture of each. Without a target,
            answers are told apart into wrong and right ones where the image's class is known.
    """

    def __init__(
        self, intensity: float = 0.4, target: str | None = None, sheet: bool = False
    ) -> None:
        if not 0 <= intensity <= 1:
            raise ValueError(f"intensity is from 0 to 1, not {intensity}")
        self.intensity = intensity
        self.target = target
        self.sheet = sheet
        self._cases: list[Case] = []

    def draw(self, explained: Explained, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        maps, chosen, probability = self.maps(explained, [photo.image for photo in photos])
        for i, photo in enumerate(photos):
            image = heat.readable(photo.image)
            over = heat.onto_original(maps[i], image.size, explained.preprocessing)
            mixed = heat.overlay(image, over, self.intensity)
            answer = explained.answers[chosen[i]]
            caption = f"{answer}  {probability[i]:.1%}"
            right = None
            if self.target is None and photo.label in explained.classes:
                right = answer == photo.label
            if self.sheet:
                cell = on_mat(mixed, sheet.CELL)
                self._cases.append(
                    Case(cell=cell, name=photo.name, answer=caption, label=photo.label, right=right)
                )
                if len(self._cases) == sheet.MOST:
                    yield self._sheet()
                continue
            if right is False:
                caption += f"  (labelled {photo.label})"
            about = {"Class": answer, "Probability": f"{probability[i]:.4f}"}
            yield Picture(name=photo.name, image=heat.captioned(mixed, caption), about=about)

    def finish(self) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        if self._cases:
            yield self._sheet()

    def _sheet(self) -> Picture:
        cases, self._cases = self._cases, []
        judged = [case.right for case in cases if case.right is not None]
        what = "the predicted class" if self.target is None else self.target
        about = f"what speaks for {what}, from blue (nothing) to red (most), in each image"
        told = {}
        if judged:
            told["Right"] = f"{sum(judged)} of {len(judged)}"
            about = f"{told['Right']} right; {about}"
        return Picture(name="grad-cam", image=sheet.draw(cases, "Grad-CAM", about), about=told)

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
                outputs = explained.model(pixels)
                chosen = explained.choose(outputs, self.target)
                score = all_logits(outputs).gather(1, chosen[:, None]).sum()
                activation = channel_maps(kept[-1], explained.cam_layout) if kept else None
                if activation is None:
                    shape = list(kept[-1].shape) if kept else "nothing: it is never run as a whole"
                    raise PluginError(
                        f"the backbone's cam_layer gives {shape}, not maps as its cam_layout "
                        f"({explained.cam_layout or 'any'}) says: Grad-CAM needs a spatial map"
                    )
                (each,) = torch.autograd.grad(score, kept[-1])
        finally:
            hook.remove()
        gradient = channel_maps(each, explained.cam_layout)
        assert gradient is not None  # of the activation's shape
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        cam = (weights * activation).sum(dim=1, keepdim=True).relu()
        cam = cam / cam.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
        side = explained.preprocessing.size
        cam = nn.functional.interpolate(cam, (side, side), mode="bilinear", align_corners=False)
        values: npt.NDArray[np.float32] = cam[:, 0].detach().cpu().numpy()
        probability = probabilities(outputs).gather(1, chosen[:, None])[:, 0]
        return values, chosen.tolist(), probability.tolist()
