"""Features → a map on which items that the model takes for alike lie side by side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fashionbatch.evaluation.audit import probe
from fashionbatch.store.column import Column

#: points of a map: t-SNE takes seconds for so many, and more cannot be told apart
POINTS = 2000
_COMPONENTS = 50  # that t-SNE gets (van der Maaten & Hinton 2008 use 30, scikit-learn advises 50)
_PERPLEXITY = 30.0


class Embedding(NamedTuple):
    """Points on a map.

    Attributes:
        rows: int64 ``[n]``, of the file.
        places: float32 ``[n, 2]``, each from 0 to 1.
        method: ``t-SNE`` or ``PCA``.
    """

    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.float32]
    method: str


def embed(features: Column, rows: npt.NDArray[np.int64], seed: int) -> Embedding:
    """Lays out rows by the cosine of their features.

    With scikit-learn by t-SNE on the first 50 principal components, else by the first two of them.

    Args:
        features: ``[N, D]`` or ``[N, D, H, W]``, which are pooled.
        rows: int64, ascending, at least 3; of more than :data:`POINTS` some are drawn.
        seed: of the draw and of the layout.
    """
    if len(rows) > POINTS:
        drawn = np.random.default_rng(seed).choice(len(rows), POINTS, replace=False)
        rows = rows[np.sort(drawn)]
    values = probe.read(features, rows)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    values -= values.mean(axis=0)
    left, lengths, _ = np.linalg.svd(values, full_matrices=False)
    components = left[:, :_COMPONENTS] * lengths[:_COMPONENTS]
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # scikit-learn needs it, too
    except ImportError:
        return Embedding(rows, _scaled(components[:, :2]), "PCA")
    layout = TSNE(
        init=components[:, :2] / max(float(components[:, 0].std()), 1e-12) * 1e-4,
        perplexity=min(_PERPLEXITY, (len(rows) - 1) / 3),
        random_state=seed % 2**32,
    )
    # beside other work its threads wait for each other in loops: ten times as long
    with threadpool_limits(1):
        return Embedding(rows, _scaled(layout.fit_transform(components)), "t-SNE")


def _scaled(places: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    low, high = places.min(axis=0), places.max(axis=0)
    scaled: npt.NDArray[np.float32] = ((places - low) / np.maximum(high - low, 1e-12)).astype(
        np.float32
    )
    return scaled
