"""From a job to a run folder with a trained model in it."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import nn

from fashionbatch import files, registry
from fashionbatch.errors import TrainingError, UsageError
from fashionbatch.models import card as cards
from fashionbatch.models import freeze
from fashionbatch.models.card import ModelCard
from fashionbatch.models.cut import cut
from fashionbatch.parse import parse_choice, parse_options, parse_unfreeze
from fashionbatch.pipeline.batches import Order
from fashionbatch.specs import OptimizerSpec
from fashionbatch.training import computation, loop
from fashionbatch.training.cached import Cached
from fashionbatch.training.checkpoint import seed_everything
from fashionbatch.training.computation import Views
from fashionbatch.training.finetune import Finetune
from fashionbatch.training.job import Job
from fashionbatch.training.part import Rows
from fashionbatch.training.targets import Targets
from fashionbatch.training.task import Task

#: a set-up run tells of itself: (event, values)
Tell = Callable[[str, dict[str, Any]], None]


def train(job: Job, folder: Path, tell: Tell) -> dict[str, Any]:
    """Trains, tests the best epoch and writes the run.

    Args:
        job: as prepared.
        folder: the run's, existing.
        tell: gets ``("epoch", row)``, ``("step", ...)``, ``("features", ...)`` as they happen.

    Returns:
        ``{"run", "epochs", "best_epoch", "val", "test", "trainable_parameters"}``.
    """
    config = job.config
    began = time.perf_counter()
    values = {k: v for k, v in config.to_json().items() if v is not None}
    if config.resume:
        _refuse_other(values, folder)
    files.write(folder / "config.toml", tomli_w.dumps(values))
    task, failed = _task(job, folder, tell)
    seed_everything(config.seed)  # computing features draws, reusing them does not
    setup = _setup(job, tell, folder.name)
    result = loop.run(setup, task, folder, resume=config.resume)
    metrics = {
        split: loop.evaluate(setup, task, split) for split in ("val", "test") if split in job.rows
    }
    job_trainable = freeze.trainable_parameters(job.model)
    card = ModelCard(
        backbone=job.component.provenance,
        head=job.head,
        bottleneck=config.bottleneck,
        classes=job.shards.classes,
        preprocessing=job.preprocessing,
        metrics={"best_epoch": result.best_epoch, **metrics},
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
    for row, reason in list(failed.items())[:3]:
        tell("failed", {"name": job.shards.name(row), "reason": reason})
    if len(failed) > 3:
        tell("failed", {"name": f"{len(failed) - 3} more", "reason": "see model.json"})
    tell("done", {"seconds": time.perf_counter() - began})
    picked = {
        split: {k: round(values[k], 6) for k in ("loss", "top1", "top3")}
        for split, values in metrics.items()
    }
    return {
        "run": str(folder),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "val": picked["val"],
        "test": picked.get("test"),
        "trainable_parameters": job_trainable,
    }


def _refuse_other(values: Mapping[str, Any], folder: Path) -> None:
    """A run goes on as it began; only how far, and on what machine, may change."""
    path = folder / "config.toml"
    try:
        begun = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"--resume: {path} cannot be read ({error}): start the run again without --resume"
        ) from error
    free = {"epochs", "device", "workers", "name", "output", "exist_ok", "resume"}
    changed = [
        "--" + k.replace("_", "-")
        for k in dict.fromkeys([*begun, *values])
        if k not in free and begun.get(k) != values.get(k)
    ]
    if changed:
        raise UsageError(
            f"--resume: {folder} was begun with other options ({', '.join(changed)}): give those "
            f"in {path}, or start anew without --resume"
        )


def _task(job: Job, folder: Path, tell: Tell) -> tuple[Task, dict[int, str]]:
    config = job.config
    if config.mode == "finetune" and not config.prefix_cache:
        finetune = Finetune(
            model=job.model,
            shards=job.shards,
            rows=job.rows,
            preprocessing=job.preprocessing,
            batch_size=config.batch_size,
            augment=config.augment,
            seed=config.seed,
            workers=job.workers,
        )
        return finetune, finetune.failed
    return _cached(job, folder, tell)


def _cached(job: Job, folder: Path, tell: Tell) -> tuple[Task, dict[int, str]]:
    config = job.config
    parts = cut(job.model.backbone, job.component.spec.name, job.preprocessing.size)
    everything = np.unique(np.concatenate(list(job.rows.values())))
    if config.augment == "none":
        views = Views(plain=everything)
    else:
        views = Views(
            plain=np.setdiff1d(everything, job.rows["train"]),
            augmented=job.rows["train"],
            copies=config.augment_copies,
            augment=config.augment,
            seed=config.seed,
        )
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        tell("features", {"done": done, "of": len(views)})

    cache = folder.parent / ".features"
    activations = computation.compute(
        parts,
        job.model,
        job.shards,
        views,
        job.preprocessing,
        cache,
        backbone={**job.component.provenance, "bottleneck": config.bottleneck},
        workers=job.workers,
        device=job.device,
        planned=lambda size, path: tell("disk", {"bytes": size, "path": str(path)}),
        progress=progress,
    )
    if activations.reused:
        tell("reused", {"path": str(cache)})
    if not len(activations):
        raise TrainingError(f"none of the images of {job.shards.path} can be used")

    def targets(rows: Rows) -> Targets:
        return Targets(category=torch.from_numpy(job.shards.labels[rows].astype(np.int64)))

    def orders(epoch: int) -> Sequence[Rows]:
        return Order.shuffled(
            job.rows["train"], config.batch_size, seed=config.seed, epoch=epoch, augment="none"
        ).batches

    task = Cached(
        model=job.model,
        tail=parts.tail,
        activations=activations,
        targets=targets,
        names=job.shards.name,
        rows=job.rows,
        orders=orders,
        batch_size=config.batch_size,
        copies=views.copies,
    )
    return task, activations.failed


def _setup(job: Job, tell: Tell, title: str) -> loop.Setup:
    config = job.config
    assert config.unfreeze is not None
    assert config.freeze_epochs is not None
    count = parse_unfreeze(config.unfreeze)
    name, options = parse_choice(config.sched)
    schedule = registry.create(registry.find("schedule", name), config.epochs, **options)
    regularizers = []
    for text in config.regularizers:
        name, options = parse_choice(text)
        regularizers.append(registry.create(registry.find("regularizer", name), **options))
    optimizer = registry.find("optimizer", config.opt)
    assert isinstance(optimizer.spec, OptimizerSpec)
    common = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    opt_options = {k: v for k, v in common.items() if k in optimizer.spec.options}
    opt_options |= parse_options(config.opt_kwargs, "--opt-kwargs")

    def make(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = registry.create(optimizer, parameters, lr=lr, **opt_options)
        return made

    return loop.Setup(
        model=job.model,
        optimizer=make,
        schedule=schedule,
        lr=config.lr,
        regularizers=regularizers,
        epochs=config.epochs,
        freeze_epochs=config.freeze_epochs,
        unfreeze=lambda: freeze.unfreeze(job.model, job.blocks, count),
        classes=len(job.shards.classes),
        device=job.device,
        identity={
            "data": job.shards.manifest.fingerprint,
            "backbone": job.component.provenance,
        },
        title=title,
        on_epoch=lambda row: tell("epoch", row),
        on_step=lambda step, steps, loss: tell("step", {"step": step, "of": steps, "loss": loss}),
    )
