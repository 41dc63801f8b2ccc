"""The loop of a bulk prediction: batches in, parts out, one file at the end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.config import PredictConfig
from fashionbatch.errors import ImageError, OutputExistsError, SourceError, StoreError
from fashionbatch.inference.engine import Answer, EagerEngine
from fashionbatch.inference.plan import Plan, Unit, known_labels
from fashionbatch.models import device as devices
from fashionbatch.models.build import Classifier
from fashionbatch.models.card import ModelCard, code_version
from fashionbatch.pipeline.batches import Batch, Order, batches, default_workers
from fashionbatch.store import merge as merging
from fashionbatch.store import part as parts
from fashionbatch.store.reader import open_predictions

Tell = Callable[[str, dict[str, Any]], None]
#: of files that --no-resume may replace
_SUFFIXES = (".h5", ".hdf5")
_FLOAT16_MOST = float(np.finfo(np.float16).max)


@dataclass(kw_only=True)
class _Open:
    """A unit whose images are on their way."""

    number: int
    unit: Unit
    labels: dict[int, int]
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
        tell: gets ``("resumed", ...)``, ``("progress", ...)``, ``("failed", ...)``.

    Returns:
        ``{"output", "items", "predicted", "failed", "seconds", "images_per_second", "engine"}``.

    Raises:
        OutputExistsError: the output, or the parts beside it, are of another run.
        SourceError: labels of other classes than the model's; or no image could be used.
        StoreError: what is on disk is damaged.
    """
    began = time.perf_counter()
    labels = _labels(plan, card, config, tell)
    device = devices.choose(config.device)
    engine = EagerEngine(model.to(device), config.features, device)
    fingerprint = _fingerprint(plan, card, config, engine.name, device.type)
    folder = output.with_name(f"{output.name}.parts")
    _check_output(output, folder, fingerprint, resume=config.resume)
    entries = [
        merging.ShardEntry(name=u.name, sha256=u.sha256(), count=u.count) for u in plan.units
    ]
    if config.resume and _complete(output, entries):
        with open_predictions(output) as done:
            counts = len(done), len(done.failures)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed while it tidied up
        _refuse_nothing(plan, counts, output)
        tell("complete", {"output": str(output)})
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


def _labels(plan: Plan, card: ModelCard, config: PredictConfig, tell: Tell) -> list[int]:
    foreign = [c for c in plan.classes if c not in card.classes]
    if foreign and not config.ignore_labels:
        raise SourceError(
            f"{plan.path} has {len(foreign)} classes that the model does not know "
            f"({', '.join(map(repr, foreign[:3]))}{', ...' if len(foreign) > 3 else ''}): choose "
            "another --model, or predict without its labels: --ignore-labels"
        )
    labels = list(known_labels(plan, () if config.ignore_labels else card.classes))
    known = sum(label >= 0 for label in labels)
    tell("labels", {"known": known, "of": len(labels)})
    return labels


def _fingerprint(
    plan: Plan, card: ModelCard, config: PredictConfig, engine: str, device: str
) -> dict[str, Any]:
    relevant = ("topk", "probabilities", "features", "feature_dtype", "ignore_labels")
    return {
        "input": files.fingerprint([[u.name, u.rows.tolist()] for u in plan.units]),
        "items": plan.items,
        "model": card.sha256,
        "preprocessing": card.preprocessing.to_json(),
        "configuration": {name: getattr(config, name) for name in relevant},
        "batch_size": config.batch_size,
        "classes": list(card.classes),
        "engine": engine,
        "device": device,
        "code": code_version(),
    }


def _check_output(output: Path, folder: Path, fingerprint: dict[str, Any], *, resume: bool) -> None:
    if output.is_dir():
        raise OutputExistsError(f"{output} is a folder: name an HDF5 file with -o")
    if not resume:
        if output.exists() and output.suffix not in _SUFFIXES:
            raise OutputExistsError(f"{output} is no HDF5 file: choose another output with -o")
        shutil.rmtree(folder, ignore_errors=True)
        return  # the old file stays until the new one takes its name
    advice = "choose another output with -o, or discard it with --no-resume"
    if output.exists():
        try:
            with open_predictions(output) as existing:
                found = existing.fingerprint
        except StoreError as error:
            raise OutputExistsError(f"{error}; {advice}") from error
        changed = _changed(_plain(fingerprint), found)
        if changed:
            raise OutputExistsError(
                f"{output} is of another run (other {', '.join(changed)}): {advice}"
            )
    begun = parts.fingerprint_of(folder)
    if begun not in (None, files.fingerprint(fingerprint)):
        raise OutputExistsError(
            f"{folder} holds parts of a run with another input, model or configuration: {advice}"
        )


def _changed(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs, an option by its own name."""
    names = []
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            names += _changed(value, found[key])
        elif found.get(key) != value:
            names.append(key)
    return names


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _complete(output: Path, entries: list[merging.ShardEntry]) -> bool:
    if not output.exists():
        return False
    with open_predictions(output) as existing:
        found = existing.shards
    if found != [(e.name, e.sha256, e.count) for e in entries]:
        changed = sum(
            a != (e.name, e.sha256, e.count) for a, e in zip(found, entries, strict=False)
        )
        raise OutputExistsError(
            f"{output} was made from other images ({changed} of {len(entries)} shards changed): "
            "choose another output with -o, or discard it with --no-resume"
        )
    return True


def _parts(
    plan: Plan,
    pending: list[int],
    labels: list[int],
    card: ModelCard,
    config: PredictConfig,
    engine: EagerEngine,
    workers: int,
    tell: Tell,
) -> Iterator[parts.Part]:
    """Answers the pending units in order; one is closed when its last image is answered.

    A batch never crosses the border of a unit: networks round differently in other company, and a
    resumed run must give the bytes of an uninterrupted one.
    """
    if not pending:
        return
    flat = np.concatenate([u.rows for u in plan.units])
    label_of = dict(zip(flat.tolist(), labels, strict=True))
    waiting = [
        _Open(
            number=n,
            unit=plan.units[n],
            labels={r: label_of[r] for r in plan.units[n].rows.tolist()},
        )
        for n in pending
    ]
    for opened in waiting:
        _give_up(opened, plan, tell)
    unit_of = {row: opened for opened in waiting for row in opened.unit.rows.tolist()}
    order = Order(
        batches=[
            rows
            for opened in waiting
            if opened.unit.damage is None
            for rows in Order.sequential(opened.unit.rows, config.batch_size).batches
        ]
    )
    for batch in batches(plan.catalogue, order, card.preprocessing, workers=workers):
        _sort_in(batch, engine, config, unit_of, plan, tell)
        while waiting and _full(waiting[0]):
            yield _close(waiting.pop(0), plan, config, len(card.classes))
    while waiting and _full(waiting[0]):
        yield _close(waiting.pop(0), plan, config, len(card.classes))


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


def _full(opened: _Open) -> bool:
    return len(opened.done) + len(opened.failed) == len(opened.unit.rows)


def _sort_in(
    batch: Batch,
    engine: EagerEngine,
    config: PredictConfig,
    unit_of: dict[int, _Open],
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
                unit_of[row].done[row] = _values(answer, place, config)
    for row, error in failures.items():
        unit_of[row].failed[row] = error
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


def _close(opened: _Open, plan: Plan, config: PredictConfig, classes: int) -> parts.Part:
    rows = [row for row in opened.unit.rows.tolist() if row in opened.done]
    best = min(config.topk, classes)
    columns: dict[str, tuple[tuple[int, ...], Any]] = {
        "predictions/topk_index": ((best,), np.int32),
        "predictions/topk_probability": ((best,), np.float32),
    }
    if config.probabilities:
        columns["predictions/probability"] = ((classes,), np.float32)
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
        labels=np.array([opened.labels[row] for row in rows], np.int32),
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
