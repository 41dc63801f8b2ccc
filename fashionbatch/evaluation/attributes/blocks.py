"""Attributes as predicted and as they are, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import StoreError
from fashionbatch.evaluation.attributes.truth import AttributeTruth, Mask
from fashionbatch.store.reader import Predictions

#: different float16 from 0 to 1: their bits, as numbers, count them in their order
LEVELS = int(np.array(1, np.float16).view(np.uint16)) + 1
#: probabilities that are looked at together
_AT_ONCE = 1 << 21


class Block(NamedTuple):
    """Rows of which an attribute is known at least.

    Attributes:
        rows: int64 ``[n]``, of the prediction file.
        levels: uint16 ``[n, A]``, the probabilities as numbers from 0 to ``LEVELS - 1``: there are
            no others between, so that what is counted by them is exact.
        has: bool ``[n, A]``, the attributes that the items are known to have.
        known: bool ``[n, A]``, the attributes of which it is known.
    """

    rows: npt.NDArray[np.int64]
    levels: npt.NDArray[np.uint16]
    has: Mask
    known: Mask


def blocks(predictions: Predictions, truth: AttributeTruth) -> Iterator[Block]:
    """All rows of which something is known; some tens of MB at a time.

    Raises:
        StoreError: the file is damaged.
    """
    for batch in predictions.batches(max(1, _AT_ONCE // len(predictions.attributes))):
        has, known = truth.block(batch.start, batch.stop)
        mine = np.flatnonzero(known.any(axis=1))
        if not len(mine):
            continue
        levels = np.ascontiguousarray(batch.attribute_probability).view(np.uint16)
        if levels.max() >= LEVELS:
            raise StoreError(
                f"{predictions.path} is damaged: it holds probabilities of attributes that are not "
                "from 0 to 1; copy the file again, or predict again"
            )
        yield Block(mine + batch.start, levels[mine], has[mine], known[mine])
