"""Occlusion: how much less probable the class gets where a grey square hides the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fashionbatch.errors import UsageError
from fashionbatch.explanation.base import Explained
from fashionbatch.explanation.heated import Heat, HeatVisualizer
from fashionbatch.pipeline.transforms import placed
from fashionbatch.specs import Preprocessing

#: hidden views that are run at once
_BATCH = 32
#: of the input's side, without an option: 32 of 224 pixels
_SHARE = 7


class Occlusion(HeatVisualizer):
    """A grey square slides over the network's input (Zeiler & Fergus 2014, section 4.2).

    The heat of a pixel is the mean, over the squares that hide it, of how much the probability
    falls; where it rises, there is no heat. The caption says how low the probability got. Squares
    that lie on the letterbox alone are left out.

    Args:
        patch: side of the square, in pixels of the input; by default a seventh of the input's.
        stride: from one square to the next; by default half a square.
        target: see :class:`fashionbatch.HeatVisualizer`.
        intensity: likewise.
        sheet: likewise.
    """

    name = "occlusion"
    title = "Occlusion"
    together = 1  # each takes hundreds of passes

    def __init__(
        self,
        patch: int | None = None,
        stride: int | None = None,
        target: str | None = None,
        intensity: float = 0.4,
        sheet: bool = False,
    ) -> None:
        if patch is not None and patch < 1:
            raise ValueError(f"patch is at least 1 pixel, not {patch}")
        if stride is not None and stride < 1:
            raise ValueError(f"stride is at least 1 pixel, not {stride}")
        super().__init__(intensity, target, sheet)
        self.patch = patch
        self.stride = stride

    def heat(self, explained: Explained, images: Sequence[Image.Image]) -> Heat:
        """See :class:`fashionbatch.HeatVisualizer`; see :meth:`falls` for its errors."""
        with torch.inference_mode():
            answer = explained.answer(explained.logits(explained.inputs(images)), self.target)
        found = [self.falls(explained, image) for image in images]
        return Heat(
            maps=torch.from_numpy(np.stack([falls for falls, _, _, _ in found])),
            answer=answer,
            captions=[
                f"{explained.answers[chosen]}  {before:.1%}, down to {min(before, lowest):.1%}"
                for _, chosen, before, lowest in found
            ],
            about=[{"Lowest": f"{lowest:.4f}"} for _, _, _, lowest in found],
        )

    def falls(
        self, explained: Explained, image: Image.Image
    ) -> tuple[npt.NDArray[np.float32], int, float, float]:
        """How much the probability falls.

        Returns:
            float32 ``[size, size]`` over the network's input, from -1 to 1, 0 where no square
            was; what is explained (a class, or, counted on from the classes, an attribute); its
            probability, and the lowest one under a square.

        Raises:
            UnknownNameError: the target is no class or attribute of the model.
            UsageError: the squares leave gaps, or are larger than the input.
        """
        side = explained.preprocessing.size
        patch = self.patch or max(1, side // _SHARE)
        stride = self.stride or max(1, patch // 2)
        if patch > side:
            raise UsageError(f"occlusion:patch={patch}: the network's input has {side} pixels")
        if stride > patch:
            raise UsageError(
                f"occlusion:stride={stride}: squares of {patch} pixels would leave gaps; "
                f"use at most {patch}"
            )
        pixels = explained.inputs([image])
        mean = torch.tensor(explained.preprocessing.mean, device=pixels.device)
        grey = (mean * 255).round().to(torch.uint8)[:, None, None]
        rows, columns = _starts(image.size, explained.preprocessing, patch, stride)
        corners = [(row, column) for row in rows for column in columns]
        with torch.inference_mode():
            answer = explained.answer(explained.logits(pixels), self.target)
            chosen, before = int(answer.chosen[0]), float(answer.probability[0])
            found: list[float] = []
            for first in range(0, len(corners), _BATCH):
                some = corners[first : first + _BATCH]
                hidden = pixels.repeat(len(some), 1, 1, 1)
                for view, (row, column) in zip(hidden, some, strict=True):
                    view[:, row : row + patch, column : column + patch] = grey
                found += explained.probabilities(explained.logits(hidden))[:, chosen].tolist()
        total, count = np.zeros((2, side, side))
        for (row, column), after in zip(corners, found, strict=True):
            total[row : row + patch, column : column + patch] += before - after
            count[row : row + patch, column : column + patch] += 1
        falls = (total / count.clip(1)).astype(np.float32)
        return falls, chosen, before, min(found)


def _starts(
    size: tuple[int, int], preprocessing: Preprocessing, patch: int, stride: int
) -> tuple[list[int], list[int]]:
    """Rows and columns of the squares' corners: they hide all of the image that the input has."""
    left, top, width, height = placed(size, preprocessing)

    def along(begin: float, length: float) -> list[int]:
        first = max(0, int(begin))
        last = max(first, min(preprocessing.size, int(begin + length)) - patch)
        # in an image thinner than the square, it must still lie on the input
        starts = [*range(first, last, stride), last]
        return [min(start, preprocessing.size - patch) for start in starts]

    return along(top, height), along(left, width)
