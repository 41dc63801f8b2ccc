"""Evaluates the attributes of a prediction file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.evaluation.attributes.blocks import blocks
from fashionbatch.evaluation.attributes.precision import TOGETHER, Precision, interval
from fashionbatch.evaluation.attributes.recall import RECALL_K, Recall
from fashionbatch.evaluation.attributes.truth import AttributeTruth
from fashionbatch.evaluation.figures import known
from fashionbatch.store.reader import Predictions


def evaluate(predictions: Predictions, truth: AttributeTruth, *, seed: int) -> dict[str, Any]:
    """Counts which attributes are found, reading the file some rows at a time.

    The figures are those of the training (:class:`fashionbatch.training.metrics.Metrics`), of the
    stored probabilities. What is unknown of an attribute counts nowhere. Memory is about 300 MB
    and 8 bytes a row, with however many attributes.

    Args:
        predictions: the file, of a model that learnt attributes.
        truth: what is known of its rows.
        seed: of the bootstrap.

    Returns:
        ``{"truth", "items", "unlabelled", "foreign", "attr_recall3", "attr_recall5", "attr_map",
        "intervals", "per_type", "per_attribute"}``: ``items`` are those of which an attribute is
        known, ``foreign`` attributes that the model does not know; intervals are of the three
        figures, see :func:`.intervals.resampled` and :func:`.precision.interval`. A type has
        ``type``, ``attributes``, ``support``, ``recall3``, ``recall5`` (among its own attributes
        alone), ``map`` and ``intervals`` of the recalls. An attribute has ``name``, ``type``,
        ``known`` (items of which it is known), ``support`` (those that have it),
        ``average_precision``, and ``hits3`` and ``hits5``: those of the support for which it is
        among the most probable 3 or 5 of all attributes. A figure without anything to count is
        ``None``.

    Raises:
        StoreError: the file is damaged.
    """
    width = len(predictions.attributes)
    groups = _types(predictions)
    pooled = Recall(np.arange(width))
    by_type = {kind: Recall(places) for kind, places in groups.items()}
    average = np.full(width, np.nan)
    counts = np.zeros((2, width), np.int64)
    influences = np.zeros(len(predictions))
    items = 0
    for start in range(0, width, TOGETHER):
        places = np.arange(start, min(start + TOGETHER, width))
        precision = Precision(places)
        for block in blocks(predictions, truth):
            precision.add(block)
            if not start:
                items += len(block.rows)
                for recall in (pooled, *by_type.values()):
                    recall.add(block)
        average[places] = precision.average()
        counts[:, places] = precision.known, precision.support
        table = precision.influence()
        for block in blocks(predictions, truth):
            influences[block.rows] += precision.moved(table, block)
    occurs = ~np.isnan(average)
    figures = {f"attr_{name}": value for name, value in pooled.figures().items()}
    mean = _mean(average)
    return {
        "truth": str(truth.where),
        "items": items,
        "unlabelled": len(predictions) - items,
        "foreign": truth.foreign,
        **{name: known(value) for name, value in figures.items()},
        "attr_map": known(mean),
        "intervals": {
            **{f"attr_{name}": ends for name, ends in pooled.intervals(seed).items()},
            "attr_map": interval(mean, influences / max(1, int(occurs.sum()))),
        },
        "per_type": [
            {
                "type": kind,
                "attributes": len(recall.places),
                "support": recall.positive(),
                **{name: known(value) for name, value in recall.figures().items()},
                "map": known(_mean(average[recall.places])),
                "intervals": recall.intervals(seed),
            }
            for kind, recall in by_type.items()
        ],
        "per_attribute": [
            {
                "name": attribute.name,
                "type": attribute.type,
                "known": int(counts[0, place]),
                "support": int(counts[1, place]),
                "average_precision": known(average[place]),
                **{
                    f"hits{k}": int(pooled.hits[number, place]) for number, k in enumerate(RECALL_K)
                },
            }
            for place, attribute in enumerate(predictions.attributes)
        ],
    }


def _types(predictions: Predictions) -> dict[str, npt.NDArray[np.int64]]:
    """The places of each type's attributes, in the order of the types."""
    groups: dict[str, list[int]] = {}
    for place, attribute in enumerate(predictions.attributes):
        if attribute.type:
            groups.setdefault(attribute.type, []).append(place)
    return {kind: np.array(places, np.int64) for kind, places in groups.items()}


def _mean(average: npt.NDArray[np.float64]) -> float:
    """Over the attributes that occur."""
    there = average[~np.isnan(average)]
    return float(there.mean()) if len(there) else float("nan")
