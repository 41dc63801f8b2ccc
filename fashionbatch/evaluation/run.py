"""Evaluates a prediction file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fashionbatch.config import EvaluateConfig
from fashionbatch.errors import UsageError
from fashionbatch.evaluation import calibration, coverage, truth
from fashionbatch.evaluation.comparison import compare
from fashionbatch.evaluation.figures import Cells, confused, known, per_class
from fashionbatch.evaluation.intervals import bootstrap
from fashionbatch.evaluation.outcomes import Outcomes, gather
from fashionbatch.evaluation.truth import Truth
from fashionbatch.models import card as cards
from fashionbatch.store.reader import Predictions, open_predictions

#: mistakes that are listed
_CONFUSED = 20


def evaluate(
    path: Path, config: EvaluateConfig, find_model: Callable[[str], Path]
) -> dict[str, Any]:
    """Counts what is right in a prediction file.

    Args:
        path: of the file.
        config: of the job.
        find_model: gives the run of weights of a hash; asked if it is to be calibrated.

    Returns:
        ``{"predictions", "items", "unlabelled", "failed", "top1", "top3", "top5",
        "macro_recall", "macro_precision", "ece", "intervals", "per_class", "confused",
        "confusion", "calibration", "coverage", "threshold", "slices", "against", "foreign",
        "trained_on"}``. ``items`` have a known class and a prediction, and all figures are over
        these; a figure that is not known is ``None``. ``trained_on`` counts those in shards of a
        train split.

    Raises:
        UsageError: no item has a known class, or the model learnt no category.
    """
    with ExitStack() as stack:
        predictions = stack.enter_context(open_predictions(path))
        if not predictions.classes:
            raise UsageError(f"{path} is of a model that learnt no category: nothing to evaluate")
        known_truth = _truth(predictions, config)
        outcomes = gather(predictions, known_truth.labels)
        if not len(outcomes):
            raise UsageError(_nothing(predictions, known_truth))
        cells = Cells.of(outcomes)
        bins = calibration.reliability(outcomes.confidence, outcomes.correct)
        against = None
        if config.against is not None:
            other = stack.enter_context(open_predictions(config.against))
            against = compare(predictions, outcomes, known_truth.labels, other).to_json()
            against["predictions"] = str(config.against)
        temperature = _temperature(predictions, outcomes, config.seed)
        calibrated = None
        if config.calibrate:
            calibrated = _calibrate(predictions, temperature, find_model)
        trusted = coverage.threshold(outcomes.confidence, outcomes.correct, config.precision)
        return {
            "predictions": str(path),
            "items": len(outcomes),
            "unlabelled": len(predictions) - len(outcomes),
            "failed": len(predictions.failures),
            **{name: known(value) for name, value in cells.figures().items()},
            "ece": calibration.expected_error(bins),
            "intervals": bootstrap(cells, seed=config.seed),
            "per_class": [c._asdict() for c in per_class(cells, outcomes.classes)],
            "confused": confused(cells, outcomes.classes, _CONFUSED),
            "confusion": {
                "classes": list(outcomes.classes),
                "counts": cells.confusion().tolist(),
            },
            "calibration": {
                "bins": [b._asdict() for b in bins],
                "temperature": temperature,
                "stored": calibrated,
            },
            "coverage": [
                c._asdict() for c in coverage.curve(outcomes.confidence, outcomes.correct)
            ],
            "threshold": {
                "precision": config.precision,
                **(trusted._asdict() if trusted else {"coverage": 0.0, "threshold": None}),
            },
            "slices": _slices(outcomes, known_truth, config.seed),
            "against": against,
            "trained_on": _trained_on(predictions, outcomes),
            "foreign": [{"label": name, "items": count} for name, count in known_truth.foreign],
        }


def _truth(predictions: Predictions, config: EvaluateConfig) -> Truth:
    if config.labels is None:
        return truth.of_items(predictions)
    return truth.of_table(
        predictions,
        config.labels,
        image_column=config.image_column,
        label_column=config.label_column,
        by=config.by,
    )


def _nothing(predictions: Predictions, known_truth: Truth) -> str:
    if known_truth.foreign:
        names = ", ".join(repr(name) for name, _ in known_truth.foreign[:3])
        return (
            f"{predictions.path}: no label is a class of the model (the table says {names}, the "
            f"model {', '.join(map(repr, predictions.classes[:3]))}): name the labels' column with "
            "--label-column"
        )
    return (
        f"{predictions.path} holds {len(predictions):,} predictions, and of none is the class "
        "known: give a table of them with --labels"
    )


def _trained_on(predictions: Predictions, outcomes: Outcomes) -> int:
    """Items in shards of ours that are of the train split."""
    train = np.array([name.startswith("train-") for name in predictions.shard_names], np.bool_)
    if not train.any():
        return 0
    count = 0
    for batch in predictions.batches():
        low, high = np.searchsorted(outcomes.rows, [batch.start, batch.stop])
        count += int(train[batch.shards[outcomes.rows[low:high] - batch.start]].sum())
    return count


def _temperature(predictions: Predictions, outcomes: Outcomes, seed: int) -> dict[str, Any] | None:
    """Only of files that hold the probability of every class."""
    if "predictions/probability" not in predictions.columns("predictions"):
        return None
    found = calibration.temperature(
        predictions.probability, outcomes.rows, outcomes.labels, seed=seed
    )
    return found._asdict()


def _calibrate(
    predictions: Predictions,
    fitted: dict[str, Any] | None,
    find_model: Callable[[str], Path],
) -> dict[str, Any]:
    """Stores the temperature with the model; ``{"model", "temperature"}``."""
    if fitted is None:
        raise UsageError(
            f"--calibrate: {predictions.path} holds the best classes only: predict with "
            "--probabilities"
        )
    run = find_model(str(predictions.model["sha256"]))
    # the file's probabilities may have been divided by one already
    whole = float(predictions.model.get("temperature", 1.0)) * fitted["value"]
    cards.calibrate(run, whole)
    return {"model": str(run), "temperature": whole}


def _slices(outcomes: Outcomes, known_truth: Truth, seed: int) -> list[dict[str, Any]]:
    """The figures of each value of a column, the largest slice first."""
    if known_truth.slice is None:
        return []
    numbers = known_truth.slice[outcomes.rows]
    found = []
    for number, value in enumerate(known_truth.slices):
        mine = outcomes.chosen(numbers == number)
        if not len(mine):
            continue
        cells = Cells.of(mine)
        figures = {name: known(v) for name, v in cells.figures().items()}
        bins = calibration.reliability(mine.confidence, mine.correct)
        found.append(
            {
                "value": value,
                "items": len(mine),
                **figures,
                "ece": calibration.expected_error(bins),
                "intervals": bootstrap(cells, seed=seed),
            }
        )
    return sorted(found, key=lambda each: (-each["items"], each["value"]))
