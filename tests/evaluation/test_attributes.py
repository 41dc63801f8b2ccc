"""Figures of attributes against what others, or plain counting, make of the same probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_average_precision

from fashionbatch.errors import StoreError
from fashionbatch.evaluation.attributes import blocks, run
from fashionbatch.evaluation.attributes.blocks import LEVELS, Block
from fashionbatch.evaluation.attributes.precision import Precision, interval
from fashionbatch.evaluation.attributes.recall import Recall
from fashionbatch.evaluation.attributes.truth import AttributeTruth
from fashionbatch.models.build import Outputs
from fashionbatch.shards.ragged import Ragged
from fashionbatch.sources import Attribute
from fashionbatch.store.reader import open_predictions
from fashionbatch.training.metrics import Metrics
from fashionbatch.training.targets import Targets

WIDTH = 12
TYPES = ("texture", "part", "")


def block(probability: np.ndarray, has: np.ndarray, known: np.ndarray) -> Block:
    values = np.ascontiguousarray(probability, np.float16)
    return Block(np.arange(len(values)), values.view(np.uint16), has & known, known)


def made(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, all different within an image; what it has; what is known."""
    draw = np.random.default_rng(seed)
    values = np.linspace(0.01, 0.99, 200).astype(np.float16)
    probability = np.array([draw.permutation(values)[:WIDTH] for _ in range(count)])
    has = draw.random((count, WIDTH)) < probability.astype(float) * 0.5
    has[:, 5] = False  # an attribute that does not occur
    return probability, has, draw.random((count, WIDTH)) < 0.8


def average_precision(probability: np.ndarray, has: np.ndarray, known: np.ndarray) -> list[float]:
    """Exact, of each attribute that occurs."""
    return [
        float(
            binary_average_precision(
                torch.tensor(probability[known[:, a], a].astype(np.float64)),
                torch.tensor(has[known[:, a], a].astype(np.int64)),
            )
        )
        for a in range(probability.shape[1])
        if (has & known)[:, a].any()
    ]


images = st.integers(1, 7).flatmap(
    lambda width: st.lists(
        st.lists(
            st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.booleans(), st.booleans()),
            min_size=width,
            max_size=width,
        ),
        min_size=1,
        max_size=12,
    )
)


@given(images)
def test_counted_one_by_one(drawn: list[list[tuple[float, bool, bool]]]) -> None:
    """Recall with ties and unknowns; the first of equals goes before."""
    probability, has, known = (np.array([[c[i] for c in row] for row in drawn]) for i in range(3))
    recall = Recall(np.arange(probability.shape[1]))
    recall.add(block(probability, has.astype(bool), known.astype(bool)))
    hits = np.zeros((2, probability.shape[1]), int)
    total = 0
    for row in drawn:
        answers = sorted((i for i, c in enumerate(row) if c[2]), key=lambda i, r=row: (-r[i][0], i))
        mine = [i for i in answers if row[i][1]]
        total += len(mine)
        for number, k in enumerate((3, 5)):
            for i in mine:
                hits[number, i] += i in answers[:k]
    assert recall.hits.tolist() == hits.tolist()
    assert recall.positive() == total
    for number, k in enumerate((3, 5)):
        found = recall.figures()[f"recall{k}"]
        assert found == pytest.approx(hits[number].sum() / total) if total else np.isnan(found)


@given(images)
def test_average_precision_is_exact(drawn: list[list[tuple[float, bool, bool]]]) -> None:
    """As torchmetrics has it without bins."""
    probability, has, known = (np.array([[c[i] for c in row] for row in drawn]) for i in range(3))
    stored, has, known = probability.astype(np.float16), has.astype(bool), known.astype(bool)
    precision = Precision(np.arange(probability.shape[1]))
    precision.add(block(stored, has, known))
    found = precision.average()
    assert found[~np.isnan(found)].tolist() == pytest.approx(
        average_precision(stored, has, known), abs=1e-6
    )
    assert precision.known.tolist() == known.sum(0).tolist()
    assert precision.support.tolist() == (has & known).sum(0).tolist()


@pytest.fixture
def stored(predictions: Callable[..., Path]) -> Callable[..., tuple[Path, AttributeTruth]]:
    """``stored(probability, has, known)`` → a prediction file, and the truth of it."""

    def write(
        probability: np.ndarray, has: np.ndarray, known: np.ndarray
    ) -> tuple[Path, AttributeTruth]:
        names = [f"{i:05d}" for i in range(len(has))]
        attributes = [f"a{i}" for i in range(WIDTH)]
        path = predictions("a.h5", {"s": (names, [])}, classes=(), attributes=attributes)
        with h5py.File(path, "r+") as file:
            file["predictions/attribute_probability"][...] = probability
            file["attributes/type"][...] = [TYPES[i % 3] for i in range(WIDTH)]
        # backwards, with one item more, and numbered anew: as another data set may have it
        order = np.arange(WIDTH)[::-1]
        rows = [[], *(np.flatnonzero(row).tolist() for row in (has & known)[::-1, order])]
        unknown = [[], *(np.flatnonzero(~row).tolist() for row in known[::-1, order])]
        return path, AttributeTruth(
            where=Path("set"),
            rows=np.arange(len(has), 0, -1),
            positive=Ragged.of(rows, np.uint16),
            unknown=Ragged.of(unknown, np.uint16),
            places=order,
            stated=np.ones(WIDTH, np.bool_),
        )

    return write


def evaluated(path: Path, truth: AttributeTruth, seed: int = 0) -> dict[str, Any]:
    with open_predictions(path) as predictions:
        found = run.evaluate(predictions, truth, seed=seed)
    json.dumps(found, allow_nan=False)
    return found


def test_as_the_training_counts(
    stored: Callable[..., tuple[Path, AttributeTruth]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of Metrics, pooled and of each type, whatever is read together."""
    probability, has, known = made(300)
    known[7] = False  # nothing is known of this one
    path, truth = stored(probability, has, known)
    found = evaluated(path, truth)
    values = torch.tensor(probability.astype(np.float32))
    attributes = [Attribute(name=f"a{i}", type=TYPES[i % 3] or None) for i in range(WIDTH)]
    metrics = Metrics(("attributes",), (), attributes, torch.device("cpu"))
    metrics.update(
        Outputs(torch.empty(0, 0), values.logit(), torch.empty(0), ()),
        Targets(attributes=torch.tensor(has & known).float(), known=torch.tensor(known)),
        0.0,
        1.0,
    )
    wanted = metrics.compute()
    types = {t["type"]: t for t in found["per_type"]}
    assert list(types) == ["texture", "part"]
    for k in (3, 5):
        assert found[f"attr_recall{k}"] == pytest.approx(wanted[f"attr_recall{k}"], abs=1e-6)
        for kind, figures in types.items():
            assert figures[f"recall{k}"] == pytest.approx(wanted[f"attr_recall{k}_{kind}"])
    assert found["attr_map"] == pytest.approx(wanted["attr_map"], abs=2e-3)
    exact = average_precision(probability, has, known)
    assert found["attr_map"] == pytest.approx(np.mean(exact), abs=1e-6)
    each = found["per_attribute"]
    assert [a["average_precision"] for a in each if a["support"]] == pytest.approx(exact, abs=1e-6)
    assert each[5]["average_precision"] is None and each[5]["support"] == 0
    assert [a["known"] for a in each] == known.sum(0).tolist()
    assert sum(a["hits3"] for a in each) == pytest.approx(
        found["attr_recall3"] * (has & known).sum()
    )
    assert (found["items"], found["unlabelled"]) == (299, 1)
    assert types["texture"]["support"] == (has & known)[:, ::3].sum()
    for name, ends in found["intervals"].items():
        assert ends[0] < found[name] < ends[1]
    monkeypatch.setattr(run, "TOGETHER", 5)
    monkeypatch.setattr(blocks, "_AT_ONCE", 7 * WIDTH)
    again = evaluated(path, truth)
    assert again.pop("intervals")["attr_map"] == pytest.approx(
        found.pop("intervals")["attr_map"], abs=1e-6
    )
    assert again == found


def test_what_is_unknown_counts_nowhere(
    stored: Callable[..., tuple[Path, AttributeTruth]],
) -> None:
    """Whatever was predicted of it; nor does an attribute of which nothing is said."""
    probability, has, known = made(100)
    found = evaluated(*stored(probability, has, known))
    for score in (0.0, 1.0):
        changed = np.where(known, probability, np.float16(score))
        assert evaluated(*stored(changed, has, known)) == found
    path, truth = stored(probability, has, np.ones_like(known))
    stated = np.arange(WIDTH) != 2
    truth.stated[2] = False
    silent = evaluated(path, truth)
    known = np.ones_like(known) & stated
    assert silent == evaluated(*stored(probability, has, known))
    assert silent["per_attribute"][2]["known"] == 0


def test_influences_are_derivatives() -> None:
    """One more image of a thousand times as many moves the figure by as much."""
    probability, has, known = made(40, seed=3)
    precision = Precision(np.arange(WIDTH))
    whole = block(probability, has, known)
    precision.add(whole)
    table = precision.influence()
    moved = precision.moved(table, whole)
    assert moved.sum() == pytest.approx(0, abs=1e-4)
    assert not table[5].any()
    precision.counts *= 100_000
    before = np.nansum(precision.average())
    for row in range(5):
        heavier = Precision(np.arange(WIDTH))
        heavier.counts = precision.counts.copy()
        for _ in range(100):
            heavier.add(block(probability[row : row + 1], has[row : row + 1], known[row : row + 1]))
        after = np.nansum(heavier.average())
        assert (after - before) * 1000 == pytest.approx(moved[row], abs=2e-3, rel=1e-2)


def test_intervals_are_those_of_samples() -> None:
    """Drawing the images themselves anew gives about the same ends."""
    probability, has, known = made(400, seed=1)

    def measured(rows: np.ndarray) -> tuple[float, float, Precision, Block, Recall]:
        whole = block(probability[rows], has[rows], known[rows])
        precision, recall = Precision(np.arange(WIDTH)), Recall(np.arange(WIDTH))
        precision.add(whole)
        recall.add(whole)
        mean = float(np.nanmean(precision.average()))
        return mean, recall.figures()["recall3"], precision, whole, recall

    mean, recall3, precision, whole, recall = measured(np.arange(400))
    draw = np.random.default_rng(2)
    samples = np.array([measured(draw.integers(0, 400, 400))[:2] for _ in range(300)])
    ends = interval(mean, precision.moved(precision.influence(), whole) / (WIDTH - 1))
    assert ends is not None
    width = 2 * 1.96 * samples[:, 0].std()
    assert ends[1] - ends[0] == pytest.approx(width, rel=0.15)
    assert (ends[0] + ends[1]) / 2 == pytest.approx(mean)
    found = recall.intervals(0)["recall3"]
    assert found is not None and found == recall.intervals(0)["recall3"] != recall.intervals(1)
    assert found == pytest.approx(np.percentile(samples[:, 1], [2.5, 97.5]), abs=0.01)
    assert found[0] < recall3 < found[1]


def test_nothing_occurs(stored: Callable[..., tuple[Path, AttributeTruth]]) -> None:
    """Figures that there are not, and no intervals."""
    probability, has, known = made(10)
    found = evaluated(*stored(probability, np.zeros_like(has), known))
    assert found["attr_recall3"] is found["attr_map"] is None
    assert set(found["intervals"].values()) == {None}
    assert found["items"] == 10


def test_no_probabilities(stored: Callable[..., tuple[Path, AttributeTruth]]) -> None:
    """A damaged file is refused in one line."""
    probability, has, known = made(10)
    assert LEVELS == 0x3C01
    for value in (np.nan, 1.5, -0.5):
        probability[3, 4] = value
        with pytest.raises(StoreError, match="not from 0 to 1"):
            evaluated(*stored(probability, has, known))
