"""The loop of a bulk prediction: batches in, parts out, one file at the end."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.config import PredictConfig
from fashionbatch.errors import ImageError, SourceError
from fashionbatch.inference.engine import Answer, EagerEngine
from fashionbatch.inference.output import check_output, complete
from fashionbatch.inference.plan import Plan, Unit, known_labels
from fashionbatch.models import device as devices
from fashionbatch.models.build import Classifier
from fashionbatch.models.card import ModelCard, code_version
from fashionbatch.pipeline.batches import Batch, Order, batches, default_workers
from fashionbatch.store import merge as merging
from fashionbatch.store import part as parts
from fashionbatch.store.merge import ATTRIBUTE_DTYPE, ATTRIBUTE_PROBABILITY
from fashionbatch.store.reader import open_predictions

Tell = Callable[[str, dict[str, Any]], None]
_FLOAT16_MOST = float(np.finfo(np.float16).max)


@dataclass(kw_only=True)
class _Open:
    """A unit whose images are on their way; ``labels`` are int32, as its rows are ordered."""

    number: int
    unit: Unit
    labels: npt.NDArray[np.int32]
    done: dict[int, tuple[npt.NDArray[Any], ...]] = field(default_factory=dict)
    failed: dict[int, ImageError] = field(default_factory=dict)


def predict(
    plan: Plan,
    model: Classifier,
    card: ModelCard,
    config: PredictConfig,
    output: Path,
    tell: Tell,
) -> dict[str, Any]:
    """Predicts a plan into a file; goes on where an earlier run of the same stopped.

    Args:
        plan: what to predict.
        model: and its ``card``.
        config: of the job.
        output: the HDF5 file.
        tell: gets ``("resumed", ...)``, ``("complete", {"output", "failed"})``,
            ``("progress", ...)``, ``("failed", ...)``.

    Returns:
        ``{"output", "items", "predicted", "failed", "seconds", "images_per_second", "engine"}``.

    Raises:
        OutputExistsError: the output, or the parts beside it, are of another run, or of shards
            that were damaged then.
        SourceError: labels of other classes than the model's; or no image could be used.
        StoreError: what is on disk is damaged.
    """
    began = time.perf_counter()
    labels = _labels(plan, card, config, tell)
    device = devices.choose(config.device)
    engine = EagerEngine(model.to(device), config.features, device)
    fingerprint = _fingerprint(plan, card, config, engine.name, device.type)
    folder = output.with_name(f"{output.name}.parts")
    check_output(output, folder, fingerprint, resume=config.resume)
    entries = [
        merging.ShardEntry(name=u.name, sha256=u.sha256(), count=u.count) for u in plan.units
    ]
    if config.resume and complete(output, entries):
        with open_predictions(output) as done:
            counts = len(done), len(done.failures)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed while it tidied up
        _refuse_nothing(plan, counts, output)
        tell("complete", {"output": str(output), "failed": counts[1]})
        return _result(output, plan, counts, 0, time.perf_counter() - began, engine.name)
    key = files.fingerprint(fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    pending = [
        number
        for number, entry in enumerate(entries)
        if not parts.valid(folder, number, fingerprint=key, sha256=entry.sha256, count=entry.count)
    ]
    kept = plan.items - sum(entries[n].count for n in pending)
    if kept:
        tell("resumed", {"parts": len(entries) - len(pending), "items": kept, "of": plan.items})
    workers = default_workers(device.type) if config.workers is None else config.workers
    started = time.perf_counter()
    try:
        for part in _parts(plan, pending, labels, card, config, engine, workers, tell):
            part.fingerprint, part.sha256 = key, entries[part.shard].sha256
            parts.commit(folder, part)
    except BaseException:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    seconds = time.perf_counter() - started
    predicted, failed = merging.merge(
        folder,
        output,
        entries,
        card.classes,
        {
            "fingerprint": fingerprint,
            "model_card": card.to_json(),
            "configuration": fingerprint["configuration"],
            "components": [dict(card.backbone) | {"kind": "backbone"}],
        },
        card.attributes,
    )
    shutil.rmtree(folder)
    _refuse_nothing(plan, (predicted, failed), output)
    return _result(output, plan, (predicted, failed), plan.items - kept, seconds, engine.name)


def _refuse_nothing(plan: Plan, counts: tuple[int, int], output: Path) -> None:
    predicted, failed = counts
    if not predicted:
        raise SourceError(
            f"none of the {failed} files of {plan.path} is an image that can be used: "
            f"{output} lists the reasons"
        )


def _labels(
    plan: Plan, card: ModelCard, config: PredictConfig, tell: Tell
) -> npt.NDArray[np.int32]:
    # a model that learnt no category takes no side in what the classes are
    used = bool(card.classes) and not config.ignore_labels
    foreign = [c for c in plan.classes if c not in card.classes]
    if foreign and used:
        raise SourceError(
            f"{plan.path} has {len(foreign)} classes that the model does not know "
            f"({', '.join(map(repr, foreign[:3]))}{', ...' if len(foreign) > 3 else ''}): choose "
            "another --model, or predict without its labels: --ignore-labels"
        )
    loose = plan.loose_classes
    if loose and used and not set(loose) & set(card.classes):
        text = (
            f"the labels of {plan.path} ({', '.join(map(repr, loose[:3]))}"
            f"{', ...' if len(loose) > 3 else ''}) are no classes of the model and are not stored"
        )
        tell("warn", {"text": text})
    classes = () if config.ignore_labels else card.classes
    labels = np.fromiter(known_labels(plan, classes), np.int32)
    tell("labels", {"known": int((labels >= 0).sum()), "of": len(labels)})
    return labels


def _fingerprint(
    plan: Plan, card: ModelCard, config: PredictConfig, engine: str, device: str
) -> dict[str, Any]:
    relevant = ("topk", "probabilities", "features", "feature_dtype", "ignore_labels")
    return {
        "input": files.fingerprint(
            [[u.name, files.fingerprint(u.rows.tolist())] for u in plan.units]
        ),
        "items": plan.items,
        "model": card.sha256,
        "preprocessing": card.preprocessing.to_json(),
        "configuration": {name: getattr(config, name) for name in relevant},
        "batch_size": config.batch_size,
        "classes": list(card.classes),
        "attributes": [asdict(a) for a in card.attributes],
        "engine": engine,
        "device": device,
        "code": code_version(),
    }


def _parts(
    plan: Plan,
    pending: list[int],
    labels: npt.NDArray[np.int32],
    card: ModelCard,
    config: PredictConfig,
    engine: EagerEngine,
    workers: int,
    tell: Tell,
) -> Iterator[parts.Part]:
    """Answers the pending units one after the other, in order.

    A batch never crosses the border of a unit: networks round differently in other company, and a
    resumed run must give the bytes of an uninterrupted one.
    """
    work = [
        Order.sequential(unit.rows, config.batch_size).batches if unit.damage is None else []
        for unit in (plan.units[number] for number in pending)
    ]
    order = Order(batches=[rows for mine in work for rows in mine])
    loaded = batches(plan.catalogue, order, card.preprocessing, workers=workers)
    ends = np.cumsum([len(unit.rows) for unit in plan.units])
    for number, mine in zip(pending, work, strict=True):
        unit = plan.units[number]
        first = ends[number] - len(unit.rows)
        opened = _Open(number=number, unit=unit, labels=labels[first : ends[number]])
        _give_up(opened, plan, tell)
        for batch in itertools.islice(loaded, len(mine)):
            _sort_in(batch, engine, config, opened, plan, tell)
        yield _close(opened, plan, config, card)


def _give_up(opened: _Open, plan: Plan, tell: Tell) -> None:
    """What is known not to work before any image is read."""
    unit = opened.unit
    for skipped in unit.skipped:
        tell("failed", {"name": skipped.name, "reason": skipped.reason})
    if unit.damage is not None:
        tell("failed", {"name": unit.name, "reason": unit.damage})
        opened.failed = {row: ImageError("shard", unit.damage) for row in unit.rows.tolist()}
    given_up = unit.count - (0 if unit.damage else len(unit.rows))
    if given_up:
        tell("progress", {"items": given_up})


def _sort_in(
    batch: Batch,
    engine: EagerEngine,
    config: PredictConfig,
    opened: _Open,
    plan: Plan,
    tell: Tell,
) -> None:
    failures = dict(batch.failures)
    if len(batch.rows):
        answer = engine(batch.images)
        reasons = _refused(answer, config)
        for place, row in enumerate(batch.rows.tolist()):
            if place in reasons:
                failures[row] = ImageError("model", reasons[place])
            else:
                opened.done[row] = _values(answer, place, config)
    for row, error in failures.items():
        opened.failed[row] = error
        tell("failed", {"name": plan.catalogue.name(row), "reason": str(error)})
    tell("progress", {"items": len(batch.rows) + len(batch.failures)})


def _refused(answer: Answer, config: PredictConfig) -> dict[int, str]:
    """Answers that must not be stored: NaN would read as class 0, an overflow as infinity."""
    reasons = {
        int(place): "the network gave values that are not finite"
        for place in np.flatnonzero(~answer.finite)
    }
    if answer.features is not None and config.feature_dtype == "float16":
        peaks = np.abs(answer.features.reshape(len(answer.features), -1)).max(axis=1)
        for place in np.flatnonzero(peaks > _FLOAT16_MOST):
            reasons.setdefault(int(place), "a feature is too large for float16: use float32")
    return reasons


def _values(answer: Answer, place: int, config: PredictConfig) -> tuple[npt.NDArray[Any], ...]:
    probability = answer.probability[place]
    # ties go to the lower class number, on every machine
    best = np.argsort(-probability, kind="stable")[: config.topk].astype(np.int32)
    values: list[npt.NDArray[Any]] = [best, probability[best]]
    if config.probabilities:
        values.append(probability)
    if answer.attributes.shape[1]:
        values.append(answer.attributes[place].astype(ATTRIBUTE_DTYPE))
    if answer.features is not None:
        values.append(answer.features[place].astype(config.feature_dtype))
    return tuple(values)


def _failures(opened: _Open, plan: Plan) -> list[tuple[str, str, str, str]]:
    unit = opened.unit
    failures = [
        (plan.catalogue.name(row), plan.catalogue.key(row), error.stage, error.reason)
        for row, error in sorted(opened.failed.items())
    ]
    if unit.damage is not None and not len(unit.rows):
        failures.append((unit.name, "", "shard", unit.damage))
    return failures + [(f.name, "", f.stage, f.reason) for f in unit.skipped]


def _close(opened: _Open, plan: Plan, config: PredictConfig, card: ModelCard) -> parts.Part:
    answered = np.array([row in opened.done for row in opened.unit.rows.tolist()], bool)
    rows = opened.unit.rows[answered].tolist()
    best = min(config.topk, len(card.classes))
    columns: dict[str, tuple[tuple[int, ...], Any]] = {
        "predictions/topk_index": ((best,), np.int32),
        "predictions/topk_probability": ((best,), np.float32),
    }
    if config.probabilities:
        columns["predictions/probability"] = ((len(card.classes),), np.float32)
    if card.attributes:
        columns[ATTRIBUTE_PROBABILITY] = ((len(card.attributes),), ATTRIBUTE_DTYPE)
    if config.features != "none":
        columns[f"features/{config.features}"] = ((0,), config.feature_dtype)
    arrays = {
        name: np.stack([opened.done[row][i] for row in rows])
        if rows
        else np.empty((0, *tail), dtype)
        for i, (name, (tail, dtype)) in enumerate(columns.items())
    }
    return parts.Part(
        fingerprint="",
        shard=opened.number,
        sha256="",
        names=[plan.catalogue.name(row) for row in rows],
        keys=[plan.catalogue.key(row) for row in rows],
        labels=opened.labels[answered],
        arrays=arrays,
        failures=_failures(opened, plan),
    )


def _result(
    output: Path, plan: Plan, counts: tuple[int, int], fresh: int, seconds: float, engine: str
) -> dict[str, Any]:
    return {
        "output": str(output),
        "items": plan.items,
        "predicted": counts[0],
        "failed": counts[1],
        "seconds": round(seconds, 3),
        "images_per_second": round(fresh / seconds, 2) if fresh and seconds else 0.0,
        "engine": engine,
    }
