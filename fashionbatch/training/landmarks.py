"""Where the landmarks of a data set's images lie in the network's input."""

from __future__ import annotations

import tarfile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.errors import ImageError, SourceError, UsageError
from fashionbatch.pipeline.decode import open_image, orientation
from fashionbatch.pipeline.transforms import placed
from fashionbatch.shards.read import ShardSet
from fashionbatch.specs import Preprocessing

#: visibility of a landmark that the input does not show
CUT_OFF = 2
#: random views whose place is known exactly
FOLLOWED = ("none", "flip", "paper")

Rows = npt.NDArray[np.int64]
Points = npt.NDArray[np.float32]


class Landmarks:
    """Reads them from the JSON beside the images, and remembers what it has read.

    Args:
        shards: the data set, one that ``shard`` wrote.
        preprocessing: fits images to the input.

    Example:
        >>> landmarks = Landmarks(shards, spec.preprocessing)  # doctest: +SKIP
        >>> landmarks(shards.select("train")[:128]).shape  # doctest: +SKIP
        torch.Size([128, 8, 3])
    """

    def __init__(self, shards: ShardSet, preprocessing: Preprocessing) -> None:
        self.shards = shards
        self.preprocessing = preprocessing
        self._known: dict[int, Points] = {}

    def __call__(self, rows: Rows, views: Tensor | None = None) -> Tensor:
        """The landmarks of some images.

        Args:
            rows: int64 ``[N]``.
            views: float32 ``[N, 2, 3]``, from views of the images to the images, as
                :func:`fashionbatch.pipeline.transforms.view_matrices` gives them.

        Returns:
            float32 ``[N, L, 3]``, see :attr:`fashionbatch.Targets.landmarks`; ``L`` is the largest
            number that one of these images has.

        Raises:
            SourceError: the JSON of an image is damaged.
        """
        found = [self._of(row) for row in rows.tolist()]
        most = max(map(len, found), default=0)
        values = torch.zeros(len(found), most, 3)
        values[:, :, 0] = CUT_OFF
        for number, points in enumerate(found):
            values[number, : len(points)] = torch.from_numpy(points)
        if views is not None:
            values[:, :, 1:] = _seen(values[:, :, 1:], views)
        places = values[:, :, 1:]
        outside = ((places < 0) | (places > 1)).any(dim=2)
        values[:, :, 0][outside] = CUT_OFF
        return values

    def require(self, rows: Rows, augment: str, *, kept: bool) -> None:
        """Makes sure that there is something to learn from.

        Args:
            rows: of training.
            augment: the random views of these images.
            kept: what the network makes of the views is computed once.

        Raises:
            UsageError: none of the images has landmarks, or their places in the views are not
                known.
            SourceError: the JSON of an image is damaged.
        """
        if kept and augment != "none":
            raise UsageError(
                f"--prefix-cache does not keep where landmarks lie in the views of --augment "
                f"{augment}: add --augment none, or leave --prefix-cache out"
            )
        if augment not in FOLLOWED:
            raise UsageError(
                f"--augment {augment} moves landmarks nobody knows where: choose one of "
                f"{', '.join(FOLLOWED)}, or leave the regularizer out that needs landmarks"
            )
        if not self.shards.is_ours or not any(self._stated(row) for row in rows.tolist()):
            raise UsageError(
                f"{self.shards.path} has no landmarks to train with: leave the regularizer out "
                "that needs them, or name a data set that has some, such as DeepFashion's"
            )

    def _of(self, row: int) -> Points:
        """float32 ``[L, 3]`` of an image, in the input without random views."""
        if row not in self._known:
            self._known[row] = self._fitted(row)
        return self._known[row]

    def _fitted(self, row: int) -> Points:
        points = np.array(self._stated(row), np.float32).reshape(-1, 3)
        if not len(points):
            return points
        try:
            image = open_image(self.shards.read(row, check=False))
        except ImageError:  # it cannot be trained on either
            return points[:0]
        width, height = image.size
        if orientation(image) >= 5:  # lying: landmarks are of the upright image
            width, height = height, width
        beyond = (points[:, 1:] < 0) | (points[:, 1:] >= (width, height))
        points[beyond.any(axis=1), 0] = CUT_OFF
        left, top, across, down = placed((width, height), self.preprocessing)
        # a pixel's centre lies half a pixel from its edges
        points[:, 1] = (left + (points[:, 1] + 0.5) / width * across) / self.preprocessing.size
        points[:, 2] = (top + (points[:, 2] + 0.5) / height * down) / self.preprocessing.size
        return points

    def _stated(self, row: int) -> list[Any]:
        """``[visibility, x, y]`` each, in pixels of the upright image."""
        try:
            stated = self.shards.about(row).get("landmarks", [])
            if not isinstance(stated, list) or any(
                not isinstance(p, list) or [type(v) for v in p] != [int] * 3 for p in stated
            ):
                raise ValueError("its landmarks are none")
        except (ValueError, RecursionError, tarfile.TarError) as error:
            raise SourceError(
                f"the JSON of {self.shards.name(row)!r} in {self.shards.path} is damaged "
                f"({error}): take the shard from another copy"
            ) from error
        return stated


def _seen(places: Tensor, views: Tensor) -> Tensor:
    """``[N, L, 2]`` of images, from 0 to 1, in views of them."""
    moved = (places * 2 - 1) - views[:, None, :, 2]
    inverse = torch.linalg.inv(views[:, :, :2])
    return (torch.einsum("nij,nlj->nli", inverse, moved) + 1) / 2
