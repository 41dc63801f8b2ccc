"""Evaluates the categories of a prediction file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fashionbatch.config import EvaluateConfig
from fashionbatch.errors import UsageError
from fashionbatch.evaluation import calibration, category_types, coverage
from fashionbatch.evaluation.comparison import compare
from fashionbatch.evaluation.figures import Cells, confused, known, per_class
from fashionbatch.evaluation.intervals import bootstrap
from fashionbatch.evaluation.outcomes import Outcomes
from fashionbatch.evaluation.truth import Truth
from fashionbatch.models import card as cards
from fashionbatch.store.copy import copied
from fashionbatch.store.reader import Predictions, open_predictions

#: mistakes that are listed
_CONFUSED = 20


def evaluate(
    predictions: Predictions,
    known_truth: Truth,
    outcomes: Outcomes,
    class_types: Mapping[str, str],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Counts what is right.

    Args:
        predictions: the file.
        known_truth: of its rows.
        outcomes: what came of them; where there are none, all figures are ``None``.
        class_types: from classes to their types; empty where these are not known.
        config: of the job.

    Returns:
        see :func:`fashionbatch.evaluation.run.judge`.

    Raises:
        UsageError: the file that it is compared with is of other classes or items.
    """
    cells = Cells.of(outcomes)
    bins = calibration.reliability(outcomes.confidence, outcomes.correct)
    against = None
    if config.against is not None:
        with copied(config.against) as path, open_predictions(path) as other:
            against = compare(predictions, outcomes, known_truth.labels, other).to_json()
        against["predictions"] = str(config.against)
    temperature = _temperature(predictions, outcomes, config.seed)
    trusted = coverage.threshold(outcomes.confidence, outcomes.correct, config.precision)
    by_type, type_accuracy = category_types.evaluate(
        cells, outcomes.classes, class_types, seed=config.seed
    )
    return {
        **{name: known(value) for name, value in cells.figures().items()},
        "ece": calibration.expected_error(bins),
        "intervals": bootstrap(cells, seed=config.seed),
        "per_class": [c._asdict() for c in per_class(cells, outcomes.classes)],
        "category_types": by_type,
        "type_accuracy": type_accuracy,
        "confused": confused(cells, outcomes.classes, _CONFUSED),
        "confusion": {
            "classes": list(outcomes.classes),
            "counts": cells.confusion().tolist(),
        },
        "calibration": {
            "bins": [b._asdict() for b in bins],
            "temperature": temperature,
        },
        "coverage": [c._asdict() for c in coverage.curve(outcomes.confidence, outcomes.correct)],
        "threshold": {
            "precision": config.precision,
            **(trusted._asdict() if trusted else {"coverage": 0.0, "threshold": None}),
        },
        "slices": _slices(outcomes, known_truth, config.seed),
        "against": against,
        "foreign": [{"label": name, "items": count} for name, count in known_truth.foreign],
    }


def _temperature(predictions: Predictions, outcomes: Outcomes, seed: int) -> dict[str, Any] | None:
    """Only of files that hold the probability of every class."""
    if not len(outcomes) or "predictions/probability" not in predictions.columns("predictions"):
        return None
    found = calibration.temperature(
        predictions.probability, outcomes.rows, outcomes.labels, seed=seed
    )
    return found._asdict()


def calibrate(
    predictions: Predictions,
    fitted: dict[str, Any] | None,
    find_model: Callable[[str], Path],
) -> dict[str, Any]:
    """Stores a temperature with the model that predicted.

    Args:
        predictions: its file.
        fitted: under ``calibration`` in ``temperature`` of :func:`evaluate`.
        find_model: gives the run of weights of a hash.

    Returns:
        ``{"model", "temperature"}``: its folder, and what is stored now.

    Raises:
        UsageError: there is no temperature that fits.
    """
    if fitted is None:
        raise UsageError(
            f"--calibrate: {predictions.path} holds the best classes only: predict with "
            "--probabilities"
        )
    if fitted["edge"]:
        raise UsageError(
            f"--calibrate: no temperature fits {predictions.path}: its {fitted['items']:,} items "
            "with a known class are too few or too alike, or the model has learnt from them"
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
