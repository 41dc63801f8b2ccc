"""From a job to a run folder with a trained model in it."""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor

from fashionbatch import files
from fashionbatch.errors import TrainingError, UsageError
from fashionbatch.models import card as cards
from fashionbatch.models import freeze
from fashionbatch.models.build import hash_of
from fashionbatch.models.card import ModelCard
from fashionbatch.models.threads import limited
from fashionbatch.parse import parse_unfreeze
from fashionbatch.recipe import CONFIG
from fashionbatch.training import components
from fashionbatch.training.checkpoint import load_last, seed_everything
from fashionbatch.training.feed import make_task
from fashionbatch.training.job import Job
from fashionbatch.training.labels import balanced_weights
from fashionbatch.training.logger import Logger
from fashionbatch.training.loop import Loop
from fashionbatch.training.metrics import Metrics, rounded
from fashionbatch.training.progress import Result, refuse_other
from fashionbatch.training.setup import Setup
from fashionbatch.training.targets import Loss

#: metrics that a result names beside the loss, by the first task
_SHOWN = {"category": ("top1", "top3"), "attributes": ("attr_recall3", "attr_recall5", "attr_map")}

#: multiplications of a forward pass, some milliseconds of one core, below which a step is small
_FEW = 20_000_000

#: a set-up run tells of itself: (event, values)
Tell = Callable[[str, dict[str, Any]], None]


def train(job: Job, folder: Path, tell: Tell) -> dict[str, Any]:
    """Trains, measures the best epoch and writes the run.

    Args:
        job: as prepared.
        folder: the run's, existing.
        tell: gets ``("epoch", row)``, ``("step", ...)``, ``("features", ...)`` as they happen.

    Returns:
        ``{"run", "epochs", "best_epoch", "val", "test", "trainable_parameters"}``; in the other
        processes of a distributed training, too.

    Raises:
        TrainingError: it cannot go on; what was reached is in the checkpoints.
        StoppedError: a signal asked for it; likewise.
    """
    config, group = job.config, job.group
    began = time.perf_counter()
    values = {k: v for k, v in config.to_json().items() if v is not None}
    if config.resume:
        _refuse_other(values, folder)
        # before anything is computed with weights that the run was not begun with
        refuse_other(load_last(folder / "checkpoints"), _identity(job), folder)
    if group.leads:
        files.write(folder / CONFIG, tomli_w.dumps(values))
    task, failed = make_task(job, folder, tell)
    # computing features draws, reusing them does not; each process drops and mixes for itself
    seed_everything(config.seed + group.rank)
    loggers = components.loggers(config, folder) if group.leads else []
    try:
        for logger in loggers:
            logger.start(config.to_json(), job.plan())
        training = Loop(make_setup(job, tell, folder.name, loggers), task, folder)
        with limited(1) if _is_small(job) else nullcontext():
            result = training.run(resume=config.resume)
            metrics = _measured(job, training)
    finally:
        task.close()
        for logger in loggers:
            logger.close()
    trainable = freeze.trainable_parameters(job.model)
    failed = {row: text for share in group.gathered(failed) for row, text in share.items()}
    if group.leads:
        files.write_json(folder / "metrics.json", metrics)
        _save(job, folder, result, metrics, failed)
    group.wait()
    for row, reason in list(failed.items())[:3]:
        tell("failed", {"name": job.shards.name(row), "reason": reason})
    if len(failed) > 3:
        tell("failed", {"name": f"{len(failed) - 3} more", "reason": "see model.json"})
    tell("done", {"seconds": time.perf_counter() - began})
    names = ("loss", *_SHOWN[job.tasks[0]])
    picked = {split: {k: round(values[k], 6) for k in names} for split, values in metrics.items()}
    return {
        "run": str(folder),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "val": picked["val"],
        "test": picked.get("test"),
        "trainable_parameters": trainable,
    }


def _is_small(job: Job) -> bool:
    """Whether a step is not worth more threads than one: they wait longer than they work.

    With both cores of a machine busy otherwise, an epoch of a linear head on cached features took
    1.5 s with two threads and 0.1 s with one. What else runs does not count: a resumed run must
    round as it began.
    """
    multiplications = job.config.batch_size * sum(k.numel() for k in job.model.head.kernels)
    return job.config.mode == "bottleneck" and multiplications < _FEW


def _measured(job: Job, training: Loop) -> dict[str, dict[str, Any]]:
    """Every metric of the best epoch, per split."""
    found: dict[str, dict[str, Any]] = {}
    for split in ("val", "test"):
        if split in job.rows:
            metrics, loss = training.measure(split)
            computed = {k: _finite(v) for k, v in {**metrics.compute(), "loss": loss}.items()}
            per_class = [c._asdict() for c in metrics.per_class()]
            found[split] = {**computed, "per_class": per_class}
    return found


def _finite(value: float) -> float | None:
    """JSON has no NaN, which stands for a figure that there was nothing to count for."""
    return rounded(value) if math.isfinite(value) else None


def _save(
    job: Job,
    folder: Path,
    result: Result,
    metrics: Mapping[str, Mapping[str, Any]],
    failed: Mapping[int, str],
) -> None:
    plain = {s: {k: v for k, v in m.items() if k != "per_class"} for s, m in metrics.items()}
    card = ModelCard(
        backbone=job.component.provenance,
        head=job.head,
        bottleneck=job.config.bottleneck,
        tasks=job.tasks,
        classes=job.classes,
        attributes=job.attributes,
        preprocessing=job.preprocessing,
        metrics={"best_epoch": result.best_epoch, **plain},
        lineage={
            "data": str(job.shards.path),
            "data_fingerprint": job.shards.manifest.fingerprint,
            "weights": job.origin,
            "components": [c.provenance | {"kind": c.kind} for c in job.components],
            "code": cards.code_version(),
            "unusable_images": len(failed),
        },
    )
    cards.save(folder, job.model, card)


def _refuse_other(values: Mapping[str, Any], folder: Path) -> None:
    """A run goes on as it began; only how far, and on what machine, may change."""
    path = folder / CONFIG
    try:
        begun = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"--resume: {path} cannot be read ({error}): start the run again without --resume"
        ) from error
    free = {
        "epochs", "device", "workers", "name", "output", "exist_ok", "resume", "micro_batch",
        "checkpoint_minutes", "logger",
        "recipe",  # its values count, not where they were read
    }  # fmt: skip
    changed = [
        "--" + k.replace("_", "-")
        for k in dict.fromkeys([*begun, *values])
        if k not in free and begun.get(k) != values.get(k)
    ]
    if changed:
        raise UsageError(
            f"--resume: {folder} was begun with other options ({', '.join(changed)}): leave "
            "them out, and it goes on as it began; or start anew without --resume"
        )


def make_setup(job: Job, tell: Tell, title: str, loggers: Sequence[Logger]) -> Setup:
    """What the loop needs for a job beside its task."""
    config = job.config
    assert config.unfreeze is not None
    assert config.freeze_epochs is not None
    count = parse_unfreeze(config.unfreeze)
    loss = Loss(
        class_weights=_class_weights(job),
        attribute_weight=config.attribute_weight,
    )
    return Setup(
        model=job.model,
        optimizer=lambda groups, lr, frozen: components.optimizer(config, groups, lr, frozen),
        parameters=lambda: freeze.parameter_groups(job.model, job.blocks, config.layer_decay),
        schedule=components.schedule(config, job.sampling().steps()),
        lr=config.lr,
        loss=loss,
        regularizers=job.regularizers,
        metrics=lambda full: Metrics(job.tasks, job.classes, job.attributes, job.device, full=full),
        epochs=config.epochs,
        freeze_epochs=config.freeze_epochs,
        unfreeze=lambda: freeze.unfreeze(job.model, job.blocks, count),
        frozen=freeze.never_trained(job.model, job.blocks, count),
        device=job.device,
        group=job.group,
        bfloat16=job.precision == "bfloat16",
        compile=config.compile,
        micro_batch=config.micro_batch,
        checkpoint_minutes=config.checkpoint_minutes,
        identity=_identity(job),
        title=title,
        loggers=loggers,
        tell=tell,
    )


def _identity(job: Job) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on with."""
    assert job.config.unfreeze is not None
    count = parse_unfreeze(job.config.unfreeze)
    frozen, state = freeze.never_trained(job.model, job.blocks, count), job.model.state_dict()
    return {
        "data": job.shards.manifest.fingerprint,
        "backbone": job.component.provenance,
        "weights": job.origin,
        # a checkpoint does without them
        "frozen weights": hash_of({name: v for name, v in state.items() if name in frozen}),
    }


def _class_weights(job: Job) -> Tensor | None:
    if job.config.class_weights == "none":
        return None
    return balanced_weights(job.labels.class_counts(job.rows["train"])).to(job.device)
