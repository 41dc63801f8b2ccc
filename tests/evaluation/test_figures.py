"""Figures against what others, or plain counting, make of the same items."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassCalibrationError

from fashionbatch.evaluation import calibration, coverage
from fashionbatch.evaluation.comparison import mcnemar
from fashionbatch.evaluation.figures import Cells, confused, known, per_class
from fashionbatch.evaluation.intervals import bootstrap
from fashionbatch.evaluation.outcomes import Outcomes

NAMES = ("a", "b", "c", "d")


def outcomes(
    labels: list[int], best: list[list[int]], confidence: list[float] | None = None
) -> Outcomes:
    known_labels = np.array(labels, np.int32)
    order = np.array(best, np.int32).reshape(len(labels), -1)
    hits = order == known_labels[:, None]
    return Outcomes(
        rows=np.arange(len(labels)),
        labels=known_labels,
        predicted=order[:, 0],
        ranks=np.where(hits.any(1), hits.argmax(1), -1).astype(np.int16),
        confidence=np.array(confidence or [0.5] * len(labels), np.float32),
        stored=order.shape[1],
        classes=NAMES,
    )


items = st.lists(
    st.tuples(st.integers(0, 3), st.permutations(range(4))), min_size=1, max_size=40
).map(lambda pairs: ([label for label, _ in pairs], [list(order) for _, order in pairs]))


@given(items, st.integers(1, 4))
def test_counted_one_by_one(drawn: tuple[list[int], list[list[int]]], stored: int) -> None:
    """Accuracies, and each class's recall and precision."""
    labels, orders = drawn[0], [order[:stored] for order in drawn[1]]
    cells = Cells.of(outcomes(labels, orders))
    pairs = list(zip(labels, orders, strict=True))
    for k in (1, 3, 5):
        share = sum(label in order[:k] for label, order in pairs) / len(pairs)
        if k <= stored or stored == 4:
            assert known(cells.top(k)) == pytest.approx(share)
        else:
            assert known(cells.top(k)) is None
    recalls, precisions = [], []
    for number, found in enumerate(per_class(cells, NAMES)):
        mine = [order[0] == number for label, order in pairs if label == number]
        taken = [label == number for label, order in pairs if order[0] == number]
        assert (found.name, found.support, found.predicted) == (
            NAMES[number], len(mine), len(taken),
        )  # fmt: skip
        assert found.recall == (pytest.approx(sum(mine) / len(mine)) if mine else None)
        assert found.precision == (pytest.approx(sum(taken) / len(taken)) if taken else None)
        recalls += [sum(mine) / len(mine)] if mine else []
        precisions += [sum(taken) / len(taken)] if taken else []
    assert known(cells.macro_recall()) == pytest.approx(sum(recalls) / len(recalls))
    assert known(cells.macro_precision()) == pytest.approx(sum(precisions) / len(precisions))
    matrix = cells.confusion()
    assert matrix.sum() == len(labels)
    assert all(
        matrix[a, b] == sum(label == a and order[0] == b for label, order in pairs)
        for a in range(4)
        for b in range(4)
    )


def test_most_frequent_mistakes() -> None:
    """Wrong pairs only, the most frequent first, as a share of the class."""
    labels = [0] * 5 + [1] * 4 + [2]
    best = [[0], [0], [1], [1], [1], [1], [1], [1], [2], [2]]
    found = confused(Cells.of(outcomes(labels, best)), NAMES, 5)
    assert found == [
        {"label": "a", "predicted": "b", "count": 3, "share": 0.6},
        {"label": "b", "predicted": "c", "count": 1, "share": 0.25},
    ]


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 200))
def test_calibration_error_is_that_of_torchmetrics(seed: int, classes: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probability = (torch.randn(count, classes, generator=generator) * 2).softmax(1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    best = probability.max(1)
    bins = calibration.reliability(best.values.numpy(), (best.indices == labels).numpy())
    expected = MulticlassCalibrationError(classes, n_bins=calibration.BINS, norm="l1")
    assert calibration.expected_error(bins) == pytest.approx(
        float(expected(probability, labels)), abs=1e-5
    )
    assert sum(b.items for b in bins) == count


def test_borders_of_the_bins() -> None:
    """0 and 1 are in the first and the last; a border belongs to the bin below."""
    bins = calibration.reliability(np.array([0.0, 0.2, 0.21, 1.0]), np.ones(4, bool), bins=5)
    assert [b.items for b in bins] == [2, 1, 0, 0, 1]
    assert calibration.expected_error([]) is None


@pytest.mark.parametrize("heat", [0.4, 1.0, 2.5])
def test_temperature_is_found(heat: float) -> None:
    """Of labels drawn by probabilities, whose logits were then multiplied."""
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(20_000, 5)) * 2
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (true.cumsum(1) > draw.random((len(true), 1))).argmax(1).astype(np.int32)
    said = np.exp(logits * heat)
    said /= said.sum(1, keepdims=True)
    rows = np.flatnonzero(draw.random(len(true)) < 0.9)
    found = calibration.temperature(said.astype(np.float32), rows, labels[rows], seed=0)
    assert found.value == pytest.approx(heat, rel=0.05)
    assert found.ece < 0.02 and found.scaled_loss <= found.loss + 1e-9
    assert found.items == len(rows) and not found.edge
    # no other temperature is better
    for other in (found.value * 0.98, found.value * 1.02):
        scaled = said[rows] ** (1 / other)
        scaled /= scaled.sum(1, keepdims=True)
        loss = -np.log(scaled[np.arange(len(rows)), labels[rows]]).mean()
        assert loss >= found.scaled_loss - 1e-7


@pytest.mark.parametrize("right", [True, False])
def test_no_temperature_fits_where_all_is_right_or_all_wrong(right: bool) -> None:
    """The colder the better without end, or the hotter."""
    said = np.tile(np.array([[0.7, 0.2, 0.1]], np.float32), (30, 1))
    labels = np.full(30, 0 if right else 2, np.int32)
    found = calibration.temperature(said, np.arange(30), labels, seed=0)
    assert found.edge
    assert (found.value < 0.06) if right else (found.value > 19)


def test_intervals_are_those_of_drawing_items() -> None:
    """As wide as item by item, and they hold the figure; the seed decides every digit."""
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 4, 400).tolist()
    best = [draw.permutation(4).tolist() if draw.random() < 0.4 else [k, *{0, 1, 2, 3} - {k}]
            for k in labels]  # fmt: skip
    all_ = outcomes(labels, best)
    found = bootstrap(Cells.of(all_), seed=3)
    assert found == bootstrap(Cells.of(all_), seed=3) != bootstrap(Cells.of(all_), seed=4)
    samples: dict[str, list[float]] = {}
    for _ in range(600):
        picked = draw.integers(0, 400, 400)
        mine = outcomes([labels[i] for i in picked], [best[i] for i in picked])
        for name, value in Cells.of(mine).figures().items():
            samples.setdefault(name, []).append(float(value))
    for name, values in samples.items():
        low, high = np.percentile(values, [2.5, 97.5])
        ends = found[name]
        assert ends is not None
        assert ends == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))
        assert ends[0] <= float(Cells.of(all_).figures()[name]) <= ends[1]


def test_intervals_of_what_is_not_known() -> None:
    """Nothing stored, no interval; a figure without doubt has none either."""
    found = bootstrap(Cells.of(outcomes([0, 1], [[0], [1]])), seed=0)
    assert (found["top1"], found["top3"]) == ((1.0, 1.0), None)


confidences = st.lists(
    st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.booleans()), min_size=1, max_size=30
)


@given(confidences, st.floats(0, 1))
def test_threshold_is_the_lowest_that_will_do(
    drawn: list[tuple[float, bool]], precision: float
) -> None:
    """Tried out at every confidence there is."""
    confidence = np.array([c for c, _ in drawn])
    correct = np.array([r for _, r in drawn])
    fitting = [c for c in sorted(set(confidence.tolist()))
               if correct[confidence >= c].mean() >= precision]  # fmt: skip
    found = coverage.threshold(confidence, correct, precision)
    if not fitting:
        assert found is None
        return
    kept = confidence >= fitting[0]
    assert found is not None
    assert found.threshold == fitting[0]
    assert found.coverage == pytest.approx(kept.mean())
    assert found.accuracy == pytest.approx(correct[kept].mean())


@given(confidences)
def test_curve_ends_with_all(drawn: list[tuple[float, bool]]) -> None:
    """Each point is what its threshold gives; coverage never falls."""
    confidence = np.array([c for c, _ in drawn])
    correct = np.array([r for _, r in drawn])
    points = coverage.curve(confidence, correct)
    for point, share in zip(points, coverage.POINTS, strict=True):
        kept = confidence >= point.threshold
        assert point.coverage == pytest.approx(kept.mean())
        assert point.coverage >= share - 1e-9
        assert point.accuracy == pytest.approx(correct[kept].mean())
    assert points[-1].coverage == 1


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_game_of_coins(won: int, lost: int) -> None:
    total = won + lost
    tail = sum(Fraction(math.comb(total, k), 2**total) for k in range(min(won, lost) + 1))
    assert mcnemar(won, lost) == pytest.approx(min(1.0, float(2 * tail)))
