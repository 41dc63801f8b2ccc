from __future__ import annotations

import math
import multiprocessing
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fashionbatch.models.build import Outputs
from fashionbatch.shards.read import open_shards
from fashionbatch.sources import Attribute
from fashionbatch.training.labels import Labels
from fashionbatch.training.metrics import ClassFigures, Metrics
from fashionbatch.training.targets import Loss, Targets
from tests.forks import one_core

CPU = torch.device("cpu")
BOTH = ("category", "attributes")
CLASSES = tuple("abcdefg")
TYPES = ("texture", "part", None)
ATTRIBUTES = tuple(Attribute(name=f"a{i}", type=TYPES[i % 3]) for i in range(20))


def outputs_of(logits=None, attributes=None):
    made = [torch.empty(0, 0) if t is None else t for t in (logits, attributes)]
    return Outputs(*made, torch.empty(0), ())


def examples(count, seed=0):
    """Random outputs and targets of both tasks, unknown ones among them."""
    draw = torch.Generator().manual_seed(seed)
    outputs = outputs_of(
        torch.randn(count, len(CLASSES), generator=draw),
        torch.randn(count, len(ATTRIBUTES), generator=draw) * 2,
    )
    shape = (count, len(ATTRIBUTES))
    targets = Targets(
        category=torch.randint(-1, len(CLASSES) - 1, (count,), generator=draw),
        attributes=(torch.rand(shape, generator=draw) < 0.2).float(),
        known=torch.rand(shape, generator=draw) < 0.8,
    )
    return outputs, targets


def part_of(outputs, rows):
    return Outputs(outputs.logits[rows], outputs.attributes[rows], torch.empty(0), ())


def measured(outputs, targets, sizes, **options):
    """Metrics over pieces of these sizes, with the loss of each."""
    metrics = Metrics(BOTH, CLASSES, ATTRIBUTES, CPU, **options)
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        add(metrics, part_of(outputs, rows), targets[rows])
        start += size
    return metrics


def add(metrics, outputs, targets):
    loss = Loss()
    mean = float(loss(outputs, targets, loss.norms(targets)))
    metrics.update(outputs, targets, mean, len(targets))


def of_category(logits, category, classes=CLASSES):
    metrics = Metrics(("category",), classes, (), CPU)
    add(metrics, outputs_of(logits), Targets(category=category))
    return metrics


def of_attributes(logits, values, known=None, attributes=ATTRIBUTES):
    metrics = Metrics(("attributes",), (), attributes, CPU)
    known = torch.ones_like(logits, dtype=torch.bool) if known is None else known
    add(metrics, outputs_of(None, logits), Targets(attributes=values, known=known))
    return metrics.compute()


def exact_average_precision(scores, truth):
    """``Σ (R_n - R_n-1) P_n`` over the distinct scores, highest first."""
    total = 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken, here = scores >= threshold, scores == threshold
        total += truth[here].sum() / truth.sum() * truth[taken].mean()
    return total


def test_category():
    """Loss is the mean over all images, not over batches; top-k counts among the k highest."""
    outputs, targets = examples(50)
    targets = Targets(category=targets.category.clamp(min=0))
    metrics = Metrics(("category",), CLASSES, (), CPU)
    for rows in (slice(0, 33), slice(33, 50)):
        add(metrics, part_of(outputs, rows), targets[rows])
    values = metrics.compute()
    wanted = nn.functional.cross_entropy(outputs.logits, targets.category).item()
    assert values["loss"] == pytest.approx(wanted, rel=1e-5)
    order = outputs.logits.argsort(dim=1, descending=True)
    for k in (1, 3, 5):
        hit = (order[:, :k] == targets.category[:, None]).any(dim=1).float().mean().item()
        assert values[f"top{k}"] == pytest.approx(hit)
    assert list(values) == ["loss", "top1", "top3", "top5", "macro_recall"]
    assert metrics.items == 50


def test_two_classes():
    """With fewer than k classes top-k is 1."""
    values = of_category(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), "ab").compute()
    assert (values["top1"], values["top3"], values["top5"]) == (0.0, 1.0, 1.0)


def test_classes():
    """Support, recall and precision by hand; macro recall leaves out what does not occur."""
    truth = torch.tensor([0, 0, 0, 1, 3, -1, -1])
    taken = torch.tensor([0, 1, 1, 1, 0, 3, 0])
    metrics = of_category(nn.functional.one_hot(taken, 4).float(), truth, "abcd")
    assert metrics.per_class() == [
        ClassFigures("a", 3, 1 / 3, 1 / 2),
        ClassFigures("b", 1, 1.0, 1 / 3),
        ClassFigures("c", 0, None, None),
        ClassFigures("d", 1, 0.0, None),
    ]
    values = metrics.compute()
    assert values["macro_recall"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert values["top1"] == pytest.approx(2 / 5)


def test_equal_logits_are_no_hit():
    """A network that says the same of everything is not right everywhere."""
    values = of_category(torch.zeros(7, 7), torch.arange(7)).compute()
    assert values["top1"] == pytest.approx(1 / 7)


def test_attribute_recall():
    """Found among all positives, summed over images; within a type only its own compete."""
    attributes = [Attribute(name=f"t{i}", type="texture") for i in range(4)]
    attributes += [Attribute(name=f"p{i}", type="part") for i in range(4)]
    logits = torch.tensor(
        [[9.0, 8, 7, 6, 5, 4, 3, 2], [0, 1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2]]
    )
    values = torch.zeros(3, 8)
    values[0, [0, 3, 5, 7]] = 1  # ranks 1, 4, 6, 8; in their types 1, 4 and 2, 4
    values[1, [6, 0]] = 1  # ranks 2, 8; in their types 2 and 4
    found = of_attributes(logits, values, attributes=attributes)
    assert found["attr_recall3"] == pytest.approx(2 / 6)
    assert found["attr_recall5"] == pytest.approx(3 / 6)
    assert found["attr_recall3_texture"] == pytest.approx(1 / 3)
    assert found["attr_recall5_texture"] == 1
    assert found["attr_recall3_part"] == pytest.approx(2 / 3)
    assert list(found) == [
        "loss", "attr_recall3", "attr_recall3_texture", "attr_recall3_part",
        "attr_recall5", "attr_recall5_texture", "attr_recall5_part", "attr_map",
    ]  # fmt: skip


def test_unknown_attributes_count_nowhere():
    """Neither as positives, nor as answers that push others out, nor in average precision."""
    outputs, targets = examples(300)
    logits, values, known = outputs.attributes, targets.attributes, targets.known
    found = of_attributes(logits, values, known)
    for other, score in ((0.0, 15.0), (1.0, -15.0), (1.0, math.nan)):
        changed = of_attributes(
            torch.where(known, logits, score), torch.where(known, values, other), known
        )
        assert {k: v for k, v in changed.items() if k != "loss"} == {
            k: v for k, v in found.items() if k != "loss"
        }
    masked = np.where(known, logits, -np.inf)
    ranks = (-masked).argsort(1).argsort(1)
    has = (values.bool() & known).numpy()
    assert found["attr_recall3"] == pytest.approx((has & (ranks < 3)).sum() / has.sum())


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-1100, 1100), st.booleans()), min_size=1, max_size=40))
def test_average_precision_of_binned_scores(listed):
    """Of logits that are multiples of 1/64 within ±16 it is exact, ties included."""
    scores = np.array([s for s, _ in listed]) / 64
    truth = np.array([t for _, t in listed], float)
    found = of_attributes(
        torch.tensor(scores, dtype=torch.float32)[:, None],
        torch.tensor(truth, dtype=torch.float32)[:, None],
        attributes=[Attribute(name="a")],
    )["attr_map"]
    if not truth.any():
        assert math.isnan(found)
    else:
        last = 16 - 1 / 64
        wanted = exact_average_precision(scores.clip(-16, last), truth)
        assert found == pytest.approx(wanted, rel=1e-9)


def test_average_precision_of_any_scores():
    """The mean over attributes that occur; what binning moves it by is as documented."""
    draw = torch.Generator().manual_seed(0)
    truth = (torch.rand(2000, 12, generator=draw) < torch.linspace(0, 0.3, 12)).float()
    scores = torch.randn(2000, 12, generator=draw) + truth * 1.5 - 5
    exact = [
        exact_average_precision(scores[:, i].numpy(), truth[:, i].numpy()) for i in range(1, 12)
    ]
    assert not truth[:, 0].any()
    attributes = ATTRIBUTES[:12]
    found = of_attributes(scores, truth, attributes=attributes)["attr_map"]
    assert found == pytest.approx(np.mean(exact), abs=0.002)
    assert found != np.mean(exact)


def test_without_the_dear_figures():
    """``full=False`` leaves out average precision, macro recall and classes; the rest is equal."""
    outputs, targets = examples(40)
    whole = measured(outputs, targets, [40])
    short = measured(outputs, targets, [40], full=False)
    dropped = {"macro_recall", "attr_map"}
    assert short.compute() == {k: v for k, v in whole.compute().items() if k not in dropped}
    assert (short.per_class(), len(whole.per_class())) == ([], len(CLASSES))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_shows(bad):
    """One such batch makes the loss NaN, whatever follows; the rest still counts."""
    outputs, targets = examples(10)
    metrics = Metrics(("category",), CLASSES, (), CPU)
    for loss in (1.0, bad, 1.0):
        metrics.update(outputs, targets, loss, 10)
    values = metrics.compute()
    assert math.isnan(values["loss"])
    assert values["top5"] > 0
    assert metrics.items == 30


def test_logits_that_are_not_finite():
    """They end nothing."""
    outputs, targets = examples(10)
    outputs.attributes[0] = math.nan
    outputs.attributes[1] = math.inf
    outputs.logits[0] = math.nan
    values = measured(outputs, targets, [10]).compute()
    assert math.isnan(values["loss"])
    assert 0 <= values["attr_map"] <= 1


def test_state_is_exact():
    """Metrics that were saved and restored midway equal uninterrupted ones, bit for bit."""
    outputs, targets = examples(60)
    whole = measured(outputs, targets, [20, 20, 20])
    half = measured(outputs, targets, [20, 20])
    of_half = half.compute()
    state = half.state_dict()
    rest = slice(40, 60)
    add(half, part_of(outputs, rest), targets[rest])  # a saved state does not grow with it
    for metrics in (half, Metrics(BOTH, CLASSES, ATTRIBUTES, CPU)):
        metrics.compute()  # what is remembered of it must not come back
        metrics.load_state_dict(state)
        assert (metrics.items, metrics.compute()) == (40, of_half)
        add(metrics, part_of(outputs, rest), targets[rest])
        assert (metrics.items, metrics.compute()) == (60, whole.compute())
        assert metrics.per_class() == whole.per_class()


def test_no_items():
    """Nothing to count is NaN, without a warning."""
    metrics = Metrics(BOTH, CLASSES, ATTRIBUTES, CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.items == 0
        assert all(math.isnan(v) for v in metrics.compute().values())


def one_of_two(rank, store, results):
    """Measures a part of the items together with another process, and puts what it gets."""
    one_core()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    outputs, targets = examples(30)
    mine, sizes = (slice(0, 23), [8, 8, 7]) if rank == 0 else (slice(23, 30), [7])
    metrics = measured(part_of(outputs, mine), targets[mine], sizes)
    alone = measured(part_of(outputs, mine), targets[mine], sizes if rank == 0 else [])
    found = (metrics.items, metrics.compute(), metrics.per_class(), alone.compute())
    results.put((rank, found, metrics.state_dict()["loss.items"].item()))
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    """Processes with uneven numbers of items, or none, get the figures of all of them."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    started = [
        fork.Process(target=one_of_two, args=(rank, tmp_path / "store", results), daemon=True)
        for rank in range(2)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    (_, first, own_first), (_, second, own_second) = sorted(
        (results.get() for _ in started), key=lambda result: result[0]
    )
    assert first == second
    assert (own_first, own_second) == (23, 7)  # each goes on with its own
    outputs, targets = examples(30)
    whole = measured(outputs, targets, [8, 8, 7, 7])
    alone = measured(outputs, targets, [8, 8, 7])
    items, values, classes, values_alone = first
    assert items == 30
    assert values == pytest.approx(whole.compute(), rel=1e-6)
    assert classes == whole.per_class()
    assert values_alone == pytest.approx(alone.compute(), rel=1e-6)


def test_deepfashion(deepfashion):
    """The targets of a real tree: a network that knows everything finds all that it can."""
    with open_shards(deepfashion[0]) as shards:
        attributes = shards.manifest.attributes
        targets = Labels(shards, BOTH)(shards.select())
        metrics = Metrics(BOTH, shards.classes, attributes, CPU)
        logits = nn.functional.one_hot(targets.category, len(shards.classes)).float()
        right = outputs_of(logits, targets.attributes * 8 - 4)
        add(metrics, right, targets)
        values = metrics.compute()
        kinds = {a.type for a in attributes}
        assert {f"attr_recall5_{kind}" for kind in kinds} <= values.keys()
        assert "texture" in kinds
        # three positives to an image
        assert values["attr_recall3"] == values["attr_map"] == values["macro_recall"] == 1
        wrong = Metrics(BOTH, shards.classes, attributes, CPU)
        add(wrong, outputs_of(-logits, -right.attributes), targets)
        assert wrong.compute()["attr_recall3"] == wrong.compute()["top1"] == 0
