"""Grad-CAM: where the network looked for its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from fashionbatch.errors import PluginError, UnknownNameError
from fashionbatch.explain.base import Explained, Photo, Picture, Visualizer
from fashionbatch.pipeline.transforms import placed

_CAPTION_SIZE = 16
_MARGIN = 6
#: below this many pixels nobody sees anything in a picture
_SMALLEST_SIDE = 160


class GradCam(Visualizer):
    """Gradient-weighted class activation maps (Selvaraju et al. 2017).

    The map is ``ReLU(Σ_k α_k A_k)`` over the channels of the last spatial map ``A``, where ``α_k``
    is the mean gradient of the answer's logit over channel ``k``; scaled to 0..1, put back onto the
    original image (crop and letterbox undone) and captioned with the answer and its probability.

    Args:
        intensity: of the map over the image; the paper's 0.4.
        target: name of the class or attribute to explain; by default the predicted class, or, of a
            model that learnt attributes only, the most probable one.
    """

    def __init__(self, intensity: float = 0.4, target: str | None = None) -> None:
        if not 0 <= intensity <= 1:
            raise ValueError(f"intensity is from 0 to 1, not {intensity}")
        self.intensity = intensity
        self.target = target

    def draw(self, explained: Explained, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        maps, chosen, probability = self.maps(explained, [photo.image for photo in photos])
        for i, photo in enumerate(photos):
            image = _readable(photo.image)
            heat = _onto_original(maps[i], image.size, explained)
            caption = f"{_answers(explained)[chosen[i]]}  {probability[i]:.1%}"
            yield Picture(name=photo.name, image=_overlay(image, heat, self.intensity, caption))

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
        answers = _answers(explained)
        if self.target is not None and self.target not in answers:
            raise UnknownNameError("class or attribute of the model", self.target, answers)
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            kept.append(output)

        hook = explained.cam_layer.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                # gradients must flow to the map even where every weight before it is frozen
                pixels = explained.inputs(images).float().requires_grad_()
                outputs = explained.model(pixels)
                logits = torch.cat([outputs.logits, outputs.attributes], dim=1)
                if self.target is None:
                    chosen = logits[:, : len(explained.classes) or None].argmax(dim=1)
                else:
                    number = answers.index(self.target)
                    chosen = torch.full((len(logits),), number, device=logits.device)
                score = logits.gather(1, chosen[:, None]).sum()
                activation = kept[-1]
                if activation.ndim != 4:
                    raise PluginError(
                        f"the backbone's cam_layer gives {list(activation.shape)}, not "
                        "[N, C, h, w]: Grad-CAM needs a spatial map"
                    )
                (gradient,) = torch.autograd.grad(score, activation)
        finally:
            hook.remove()
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        cam = (weights * activation).sum(dim=1, keepdim=True).relu()
        cam = cam / cam.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
        side = explained.preprocessing.size
        cam = nn.functional.interpolate(cam, (side, side), mode="bilinear", align_corners=False)
        each = torch.cat([outputs.logits.softmax(dim=1), outputs.attributes.sigmoid()], dim=1)
        probability = each.gather(1, chosen[:, None])[:, 0]
        values: npt.NDArray[np.float32] = cam[:, 0].detach().cpu().numpy()
        return values, chosen.tolist(), probability.tolist()


def _answers(explained: Explained) -> tuple[str, ...]:
    return explained.classes + explained.attributes


def _readable(image: Image.Image) -> Image.Image:
    """A small image several times as large, pixel by pixel; others as they are."""
    factor = -(-_SMALLEST_SIDE // max(image.size))
    if factor < 2:
        return image
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST)


def _onto_original(
    cam: npt.NDArray[np.float32], size: tuple[int, int], explained: Explained
) -> npt.NDArray[np.float32]:
    """From the network's input back to the image's own frame; 0 where the crop left it out."""
    left, top, width, height = placed(size, explained.preprocessing)
    scale_x, scale_y = width / size[0], height / size[1]
    # maps a pixel of the original to the input: x -> left + x * scale
    matrix = (scale_x, 0.0, left, 0.0, scale_y, top)
    source = Image.fromarray(cam)
    moved = source.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved)


def _overlay(
    image: Image.Image, heat: npt.NDArray[np.float32], intensity: float, caption: str
) -> Image.Image:
    colours = (matplotlib.colormaps["jet"](heat)[..., :3] * 255).astype(np.float32)
    mixed = np.asarray(image, np.float32) * (1 - intensity) + colours * intensity
    font = ImageFont.load_default(_CAPTION_SIZE)
    text_width = int(font.getlength(caption)) + 2 * _MARGIN
    bar = _CAPTION_SIZE + 2 * _MARGIN
    canvas = Image.new("RGB", (max(image.width, text_width), image.height + bar), "white")
    canvas.paste(Image.fromarray(mixed.clip(0, 255).astype(np.uint8)), (0, 0))
    ImageDraw.Draw(canvas).text((_MARGIN, image.height + _MARGIN - 2), caption, "black", font)
    return canvas
