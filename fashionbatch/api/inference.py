"""Predicts a catalogue."""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack
from functools import partial
from typing import Any

from fashionbatch import folders
from fashionbatch.address import Address, Location, located, name_of
from fashionbatch.api.executing import executor_of
from fashionbatch.api.telling import Tell, silent
from fashionbatch.config import PredictConfig
from fashionbatch.errors import UsageError
from fashionbatch.fields import make


def predict(
    source: str | Location, *, tell: Tell = silent, dry_run: bool = False, **options: Any
) -> dict[str, Any]:
    """Predicts a folder of images or of shards into one HDF5 file.

    Args:
        source: a folder of images, an image, a data set, or tar files; or the address of a data
            set or of tar files.
        tell: gets ``("start", ...)``, ``("plan", ...)``, ``("progress", {"items"})``,
            ``("failed", ...)`` and others, see :func:`fashionbatch.inference.predict.predict`.
        dry_run: only return the plan; nothing is written.
        options: the fields of :class:`fashionbatch.config.PredictConfig`, such as ``model``.

    Returns:
        ``{"output", "items", "predicted", "failed", "seconds", "images_per_second", "engine",
        "model"}``. For a dry run the plan: ``{"items", "shards", "batches", "bytes", "engine",
        "seconds", ...}``, where ``seconds`` is the time it is going to take.

    Raises:
        FashionbatchError: one line that says what cannot be predicted and what to do.

    Example:
        >>> fashionbatch.predict("catalog/", model="runs/photos-resnet50-1")  # doctest: +SKIP
    """
    config = make(PredictConfig, options)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set, as torchrun does: a prediction is one "
            "process; start it without torchrun, or unset RANK and WORLD_SIZE"
        )
    path = located(source)
    run = folders.find_run(config.model)
    from fashionbatch.inference import job as jobs
    from fashionbatch.inference import plan as plans
    from fashionbatch.inference import predict as prediction
    from fashionbatch.inference.delivery import Delivery, called
    from fashionbatch.inference.output import only_run, parts_folder
    from fashionbatch.shards.select import Selection

    named = name_of(path) + (f"-{config.split}" if config.split else "")
    suffix = "" if config.no_merge else ".h5"
    delivery = None
    output = config.output or folders.PREDICTIONS / f"{named}-{run.name}{suffix}"
    if isinstance(output, Address):
        delivery = Delivery(output, no_merge=config.no_merge)
        output = delivery.output
    # predictions may lie below the catalogue, and are not part of it
    exclude = [output, parts_folder(output), folders.PREDICTIONS]
    model = str(config.model if isinstance(config.model, Address) else run)
    shown = str(output if delivery is None else delivery.address)
    with called(delivery), ExitStack() as stack:
        if not (delivery is None or dry_run):
            stack.enter_context(delivery.only_run(tell))
        plan = plans.make(
            path,
            split=config.split,
            limit=config.limit,
            selection=Selection(**config.selection()),
            exclude=exclude,
        )
        tell("start", {"items": plan.items, "model": model, "output": shown})
        executor = stack.enter_context(executor_of(config))
        if delivery is None and not (executor.local or dry_run):
            stack.enter_context(only_run(output))
        site = executor.ask(partial(jobs.Site.of, config))
        job = jobs.prepare(plan, run, config, output, tell, site=site)
        known, of = job.known_labels()
        tell("labels", {"known": known, "of": of})
        if delivery is not None:
            delivery.fetch(len(job.plan.units), restart=config.restart and not dry_run)
            if config.incremental or config.retry_failed:
                delivery.refuse_update()
            job = dataclasses.replace(job, delivery=delivery)
        result = prediction.predict(job, tell, executor, dry_run=dry_run)
    return {**result, "output": shown, "model": model}
