"""Evaluates a prediction file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.config import EvaluateConfig
from fashionbatch.errors import UsageError
from fashionbatch.evaluation import categories, truth
from fashionbatch.evaluation.attributes import run as attributes
from fashionbatch.evaluation.attributes.truth import AttributeTruth
from fashionbatch.evaluation.attributes.truth import find as find_attributes
from fashionbatch.evaluation.datasets import DataSets
from fashionbatch.evaluation.outcomes import gather
from fashionbatch.evaluation.truth import Truth
from fashionbatch.store.reader import Predictions, open_predictions


def evaluate(
    path: Path, config: EvaluateConfig, find_model: Callable[[str], Path]
) -> dict[str, Any]:
    """Counts what is right in a prediction file, and calibrates the model if that is asked for.

    Args:
        path: of the file.
        config: of the job.
        find_model: gives the run of weights of a hash; asked if it is to be calibrated.

    Returns:
        what :func:`judge` does, and under ``calibration`` in ``stored`` which model was calibrated:
        ``{"model", "temperature"}`` or ``None``.

    Raises:
        UsageError: as :func:`judge`, or there is nothing to calibrate by.
        ShardError: a data set that the user names is damaged.
        StoreError: the file is damaged.
    """
    with open_predictions(path) as predictions:
        judged = judge(predictions, config)
        stored = None
        if config.calibrate:
            fitted = judged["calibration"]["temperature"]
            stored = categories.calibrate(predictions, fitted, find_model)
        judged["calibration"]["stored"] = stored
    return judged


def judge(predictions: Predictions, config: EvaluateConfig) -> dict[str, Any]:
    """Counts what is right.

    Args:
        predictions: the file.
        config: of the job.

    Returns:
        ``{"predictions", "items", "unlabelled", "failed", "top1", "top3", "top5",
        "macro_recall", "macro_precision", "ece", "intervals", "per_class", "category_types",
        "type_accuracy", "confused", "confusion", "calibration", "coverage", "threshold", "slices",
        "against", "foreign", "trained_on", "attributes", "no_attributes"}``. ``items`` have a
        known class and a prediction, and all figures of categories are over these; a figure that
        is not known is ``None``. ``trained_on`` counts what is evaluated in shards of a train
        split. For ``category_types`` and ``type_accuracy`` see :func:`.category_types.evaluate`,
        for ``attributes`` :func:`.attributes.run.evaluate`; without them ``no_attributes`` says
        why in a line, where the model learnt some.

    Raises:
        UsageError: of no item anything is known that the model learnt, or a table or data set does
            not fit.
        ShardError: a data set that the user names is damaged.
        StoreError: the file is damaged.
    """
    labels = truth.named(config)
    known_truth = truth.of(predictions, labels, config)
    data_sets = DataSets(predictions)
    known_attributes: AttributeTruth | str | None = None
    if predictions.attributes:
        known_attributes = find_attributes(
            predictions,
            data_sets,
            labels,
            image_column=config.image_column,
            label_column=config.label_column,
        )
    outcomes = gather(predictions, known_truth.labels)
    found = None
    if isinstance(known_attributes, AttributeTruth):
        found = attributes.evaluate(predictions, known_attributes, seed=config.seed)
        if not found["items"]:
            found, known_attributes = None, "of no item is an attribute known"
    reason = known_attributes if isinstance(known_attributes, str) else None
    if not len(outcomes):
        if found is None:
            raise UsageError(_nothing(predictions, known_truth, reason))
        _refuse_of_classes(predictions, config)
    types = known_truth.class_types
    if not types and len(outcomes):
        types = data_sets.class_types
    counted = np.zeros(len(predictions), np.bool_)
    counted[outcomes.rows] = True
    if found is not None and isinstance(known_attributes, AttributeTruth):
        counted |= known_attributes.rows >= 0
    return {
        "predictions": str(predictions.path),
        "items": len(outcomes),
        "unlabelled": len(predictions) - len(outcomes),
        "failed": len(predictions.failures),
        **categories.evaluate(predictions, known_truth, outcomes, types, config),
        "trained_on": _trained_on(predictions, counted),
        "attributes": found,
        "no_attributes": reason,
    }


def _nothing(predictions: Predictions, known_truth: Truth, reason: str | None) -> str:
    if not predictions.classes:
        return f"{predictions.path} is of a model that learnt no category, and {reason}"
    if known_truth.foreign:
        names = ", ".join(repr(name) for name, _ in known_truth.foreign[:3])
        return (
            f"{predictions.path}: no label is a class of the model (--labels says {names}, the "
            f"model {', '.join(map(repr, predictions.classes[:3]))}): name a table's column of "
            "labels with --label-column, or other labels"
        )
    return (
        f"{predictions.path} holds {len(predictions):,} predictions, and of none is the class "
        "known: give a table or a packed data set of them with --labels"
    )


def _refuse_of_classes(predictions: Predictions, config: EvaluateConfig) -> None:
    """Options that mean nothing where no class is known."""
    for name in ("by", "against", "calibrate"):
        if getattr(config, name):
            raise UsageError(
                f"--{name} is about classes, and of no item of {predictions.path} is it known: "
                "leave it out"
            )


def _trained_on(predictions: Predictions, counted: npt.NDArray[np.bool_]) -> int:
    """Items in shards of ours that are of the train split."""
    train = np.array([name.startswith("train-") for name in predictions.shard_names], np.bool_)
    if not train.any():
        return 0
    return sum(
        int((train[batch.shards] & counted[batch.start : batch.stop]).sum())
        for batch in predictions.batches()
    )
