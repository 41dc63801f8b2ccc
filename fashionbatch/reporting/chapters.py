"""The chapters of a report as plain values: what is counted of all items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fashionbatch.evaluation.audit.run import Findings
from fashionbatch.store.answers import Answers, most_mistaken

#: classes of a confusion matrix, and mistakes that are listed
_CLASSES, _MISTAKES = 40, 50
#: suspects, and pairs of twins; and outliers
_DOUBTS, _OUTLIERS = 500, 24
#: of the histogram of probabilities
_BINS = 20
_FIGURES = (
    ("top1", "Right (top-1)", "the most probable class is the label"),
    ("top3", "Top-3", "the label is among the three most probable"),
    ("top5", "Top-5", "the label is among the five most probable"),
    ("macro_recall", "Macro recall", "mean over the classes, rare ones count as much"),
    ("macro_precision", "Macro precision", "mean over the classes"),
    ("type_accuracy", "Type right", "the kind of garment, whatever the class"),
    ("attr_recall3", "Attributes, recall@3", "of those that the images have, in the first three"),
    ("attr_recall5", "Attributes, recall@5", "of those that the images have, in the first five"),
    ("attr_map", "Attributes, mAP", "mean average precision over the attributes"),
)
_OF_ATTRIBUTES = ("attr_recall3", "attr_recall5", "attr_map")


def figures(
    evaluation: Mapping[str, Any] | None, counts: Mapping[str, int]
) -> list[dict[str, str]]:
    """Headline figures: ``{"name", "text", "about"}`` each."""
    told = [
        {
            "name": "Items",
            "text": f"{counts['items']:,}",
            "about": f"{counts['predicted']:,} predicted, {counts['failed']:,} failed",
        }
    ]
    if evaluation is None:
        return told
    of_attributes = evaluation["attributes"] or {}
    values = {**evaluation, **{k: of_attributes.get(k) for k in _OF_ATTRIBUTES}}
    intervals = {**evaluation["intervals"], **of_attributes.get("intervals", {})}
    for key, name, about in _FIGURES:
        value = values.get(key)
        if value is None:
            continue
        ends = intervals.get(key)
        sure = f"{ends[0]:.1%} to {ends[1]:.1%} with 95% confidence; " if ends else ""
        told.append({"name": name, "text": f"{value:.1%}", "about": sure + about})
    return told


def histograms(answers: Answers, classes: int) -> dict[str, Any]:
    """Items by class, by prediction, and by probability (right, wrong, not known)."""
    known = answers.labels >= 0
    right = known & ~answers.wrong
    places = np.clip((answers.confidence * _BINS).astype(int), 0, _BINS - 1)
    by_answer = [
        np.bincount(places[chosen], minlength=_BINS) for chosen in (right, answers.wrong, ~known)
    ]
    return {
        "support": np.bincount(answers.labels[known], minlength=classes).tolist(),
        "predicted": np.bincount(
            answers.predicted[answers.predicted >= 0], minlength=classes
        ).tolist(),
        "confidence": np.stack(by_answer, axis=1).tolist(),
        "labelled": bool(known.any()),
    }


def confusion(evaluation: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The matrix, of too many classes those with the most mistakes, and the mistakes in order.

    Returns:
        ``{"shown", "cells", "left"}``: positions of the classes, ``[label, predicted, count]`` of
        all of them, and how many are not shown; ``{"label", "predicted", "count", "share"}``.
    """
    matrix = np.array(evaluation["confusion"]["counts"], np.int64)
    support = matrix.sum(axis=1)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    shown, left = most_mistaken(matrix, _CLASSES)
    labels, predicted = np.nonzero(matrix)
    cells = np.stack([labels, predicted, matrix[labels, predicted]], axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MISTAKES]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    listed = [
        {"label": a, "predicted": b, "count": int(wrong[a, b]), "share": wrong[a, b] / support[a]}
        for a, b in pairs
        if wrong[a, b]
    ]
    return {
        "shown": shown,
        "cells": cells.tolist(),
        "left": left,
    }, listed


def per_class(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figures of each class that occurs, with its position."""
    numbered: Sequence[Mapping[str, Any]] = evaluation["per_class"]
    return [
        {"number": number, **each}
        for number, each in enumerate(numbered)
        if each["support"] or each["predicted"]
    ]


def trust(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Whether probabilities mean what they say, and from which one on answers can be trusted."""
    calibration = evaluation["calibration"]
    return {
        "bins": calibration["bins"],
        "temperature": calibration["temperature"],
        **{name: evaluation[name] for name in ("ece", "threshold", "coverage")},
    }


def doubts(findings: Findings, places: Mapping[int, int]) -> dict[str, Any]:
    """What an audit found, as far as the items are listed.

    Args:
        findings: of the audit.
        places: from a row of the file to its place among the listed items.
    """

    def entries(kind: str, most: int) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        for entry in findings.listed[kind]:
            at = {"item": places.get(entry["row"])}
            if "twin_row" in entry:
                at["other"] = places.get(entry["twin_row"])
            if None not in at.values() and len(kept) < most:
                kept.append({**{k: v for k, v in entry.items() if not k.endswith("row")}, **at})
        return kept

    note = (
        "Each item was judged by a classifier that had learnt from other items only; it agrees "
        f"with {findings.agreement:.1%} of the labels."
    )
    if findings.no_pairs:
        note += f" {findings.no_pairs[0].upper()}{findings.no_pairs[1:]}."
    return {
        "note": note,
        "suspects": entries("suspects", _DOUBTS),
        "twins": entries("twins", _DOUBTS),
        "outliers": entries("outliers", _OUTLIERS),
        "total": {kind: len(found) for kind, found in findings.listed.items()},
    }


def attributes(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """How well attributes are found: ``{"note", "types", "each"}``."""
    found = evaluation["attributes"]
    if found is None:
        return None
    note = (
        f"Over {found['items']:,} items of which attributes are known, from {found['truth']}. "
        "Recall@k: of the attributes that the images have, how many are among the k most probable, "
        "of their type alone in the first table."
    )
    return {"note": note, "types": found["per_type"], "each": found["per_attribute"]}
