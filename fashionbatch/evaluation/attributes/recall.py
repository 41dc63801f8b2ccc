"""How many of the images' attributes are among the most probable ones of their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fashionbatch.evaluation.attributes.blocks import Block
from fashionbatch.evaluation.attributes.truth import Mask
from fashionbatch.evaluation.figures import share
from fashionbatch.evaluation.intervals import Interval, resampled

#: how many attributes of an image count as its answer, in DeepFashion's evaluation
RECALL_K = (3, 5)

Counts = npt.NDArray[np.int64]


class Recall:
    """Recall@k (Liu et al., "DeepFashion", CVPR 2016) of attributes that are ranked together.

    Of all attributes that the images are known to have, the share that is among the ``k`` most
    probable ones of its image. Those of which it is not known take no place among these. Of equal
    probabilities, which float16 has more often than the network, the first attribute goes before.

    Args:
        places: int64 ``[G]``, positions of the attributes; there are at most 65,536.
    """

    def __init__(self, places: Counts) -> None:
        self.places = places
        #: int64 ``[len(RECALL_K), G]``, how often each attribute was found
        self.hits = np.zeros((len(RECALL_K), len(places)), np.int64)
        #: items by what was found of them, for each k, and by how many attributes they have
        self._shape = (*(k + 1 for k in RECALL_K), len(places) + 1)
        self._cells = np.zeros(int(np.prod(self._shape)), np.int64)

    def add(self, block: Block) -> None:
        """Counts the rows."""
        has = block.has[:, self.places]
        keys = _keys(block.levels[:, self.places], block.known[:, self.places])
        found = []
        for number, k in enumerate(RECALL_K):
            last = max(0, len(self.places) - k)
            hit = has & (keys >= np.partition(keys, last, axis=1)[:, last, None])
            self.hits[number] += hit.sum(axis=0)
            found.append(hit.sum(axis=1))
        codes = np.ravel_multi_index((*found, has.sum(axis=1)), self._shape)
        self._cells += np.bincount(codes, minlength=len(self._cells))

    def figures(self) -> dict[str, float]:
        """``recall3, recall5``; NaN where no image has such an attribute."""
        cells, counts = self._occurring()
        return {name: float(value) for name, value in _recalls(cells, counts).items()}

    def positive(self) -> int:
        """How many attributes the images have, all together."""
        cells, counts = self._occurring()
        return int((counts * cells[-1]).sum())

    def intervals(self, seed: int) -> dict[str, Interval]:
        """Bootstrap intervals of the figures, over images; see :func:`resampled`."""
        cells, counts = self._occurring()
        return resampled(counts, lambda drawn: _recalls(cells, drawn), seed=seed)

    def _occurring(self) -> tuple[Sequence[Counts], Counts]:
        """What was found of the items of each cell and how many they have; how many items."""
        there = np.flatnonzero(self._cells)
        return np.unravel_index(there, self._shape), self._cells[there]


def _recalls(cells: Sequence[Counts], counts: Counts) -> Mapping[str, npt.NDArray[np.float64]]:
    *found, positive = cells
    total = (counts * positive).sum(-1)
    return {
        f"recall{k}": share((counts * hits).sum(-1), total)
        for k, hits in zip(RECALL_K, found, strict=True)
    }


def _keys(levels: npt.NDArray[np.uint16], known: Mask) -> npt.NDArray[np.uint32]:
    """Numbers in the order of the answers of an image, no two of a row the same."""
    width = levels.shape[1]
    order = np.arange(width - 1, -1, -1, dtype=np.uint32)
    high = np.where(known, levels.astype(np.uint32) + 1, np.uint32(0))
    return (high << np.uint32(16)) | order
