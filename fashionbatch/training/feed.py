"""From a job to the task that feeds its loop: images, or what was computed of them once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fashionbatch.errors import TrainingError
from fashionbatch.models.cut import cut
from fashionbatch.training.activations import computation, kept
from fashionbatch.training.activations.computation import Views
from fashionbatch.training.activations.reader import Activations
from fashionbatch.training.cached import Cached
from fashionbatch.training.images import Images
from fashionbatch.training.job import Job
from fashionbatch.training.task import Task


def make_task(
    job: Job, folder: Path, tell: Callable[[str, dict[str, Any]], None]
) -> tuple[Task, dict[int, str]]:
    """Where the job's batches come from, and what of its images cannot be used, as it is found.

    Args:
        job: as prepared.
        folder: the run's; activations go to ``.features`` beside it.
        tell: gets ``("disk", {"bytes", "path", "kept"})`` with the bytes that all earlier
            computations take together, ``("trying", {"engine", "preparation"})``, ``("engine",
            {"engine", "rates", "left_out", "device", "precision"})``, ``("features", {"done",
            "of"})`` and ``("reused", {"path"})``.

    Raises:
        TrainingError: no image can be used, or the activations do not fit on the disk.
    """
    config = job.config
    if config.computes_once:
        return _cached(job, folder, tell)
    images = Images(
        model=job.model,
        shards=job.shards,
        labels=job.labels,
        landmarks=job.landmarks,
        rows=job.rows,
        sampling=job.sampling(),
        preprocessing=job.preprocessing,
        augment=job.augment,
        workers=job.workers,
        device=job.device,
        group=job.group,
    )
    return images, images.failed


def activation_bytes(job: Job) -> int:
    """What computing the frozen part once is going to take on the disk, if nothing is there yet."""
    parts = cut(job.model.backbone, job.component.spec.name, job.preprocessing.size)
    return computation.plan_bytes(parts.crossing, _views(job).parts(parts.crossing))


def _cached(
    job: Job, folder: Path, tell: Callable[[str, dict[str, Any]], None]
) -> tuple[Task, dict[int, str]]:
    config, group = job.config, job.group
    parts = cut(job.model.backbone, job.component.spec.name, job.preprocessing.size)
    views = _views(job)
    cache = folder.parent / kept.FOLDER
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        tell("features", {"done": done, "of": len(views)})

    def planned(size: int, path: Path) -> None:
        tell("disk", {"bytes": size, "path": str(path), "kept": kept.size(cache)})

    def compute() -> Activations:
        return computation.compute(
            parts,
            job.model,
            job.shards,
            views,
            job.preprocessing,
            cache,
            backbone={**job.component.provenance, "bottleneck": config.bottleneck},
            workers=job.workers,
            device=job.device,
            engine=config.engine,
            precision=job.precision,
            planned=planned,
            progress=progress,
            tell=tell,
        )

    made: list[Activations] = []
    group.told(lambda: made.append(compute()))  # the first process; the others find it on the disk
    activations = made[0] if made else compute()
    if activations.reused:
        tell("reused", {"path": str(cache)})
    if not len(activations):
        raise TrainingError(f"none of the images of {job.shards.path} can be used")
    sampling = job.sampling()
    task = Cached(
        model=job.model,
        tail=parts.tail,
        activations=activations,
        targets=job.labels,
        landmarks=job.landmarks,
        names=job.shards.name,
        rows={split: rows[group.rank :: group.world] for split, rows in job.rows.items()},
        orders=lambda epoch: [rows[group.rank :: group.world] for rows in sampling.epoch(epoch)],
        batch_size=config.batch_size,
        copies=views.copies,
    )
    return task, activations.failed


def _views(job: Job) -> Views:
    config = job.config
    everything = np.unique(np.concatenate(list(job.rows.values())))
    if job.augment == "none":
        return Views(plain=everything)
    return Views(
        plain=np.setdiff1d(everything, job.rows["train"]),
        augmented=job.rows["train"],
        copies=config.augment_copies,
        augment=job.augment,
        seed=config.seed,
    )
