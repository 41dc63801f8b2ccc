"""Trains a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fashionbatch import folders
from fashionbatch import recipe as recipes
from fashionbatch.api.telling import Tell, silent
from fashionbatch.config import TrainConfig
from fashionbatch.errors import UnknownNameError


def train(
    *,
    tell: Tell = silent,
    dry_run: bool = False,
    recipe: str | Path | None = None,
    set: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Trains a classifier on a data set.

    Args:
        tell: gets ``("plan", {"run", "config", "plan"})``, then ``("epoch", row)`` and more.
        dry_run: only return the resolved configuration and the plan; nothing is written.
        recipe: how to train: a name, a TOML file, or a run's ``config.toml``.
        set: ``["epochs=3", ...]``, as with ``--set``; goes before all else.
        options: the fields of :class:`fashionbatch.config.TrainConfig`, such as ``data``,
            ``backbone`` or ``epochs``; they go before the recipe.

    Returns:
        ``{"run", "epochs", "best_epoch", "val", "test", "trainable_parameters"}``; the run's
        folder holds model, history, curves and checkpoints. For a dry run
        ``{"run", "config", "plan"}``; its plan has ``activation_bytes``, what the frozen part's
        activations take on the disk, where they are computed once.

    Raises:
        FashionbatchError: one line that says what cannot be trained and what to do.

    Example:
        >>> fashionbatch.train(data="shards/photos", backbone="resnet50")  # doctest: +SKIP
        >>> fashionbatch.train(recipe="table1-3", lr=0.0005, set=["epochs=3"])  # doctest: +SKIP
    """
    if recipe is not None:
        options["recipe"] = str(recipe)
    config = recipes.resolve(options, set)
    _need_backbone(config)
    data = config.data or folders.find_data()
    from fashionbatch.training import job as jobs
    from fashionbatch.training import run as runs
    from fashionbatch.training.distributed import group as joined

    with joined(config.device) as group:
        tell = tell if group.leads else silent
        folder = group.told(lambda: folders.run_folder(config, data))
        if config.resume and not group.told(lambda: folders.is_saved(folder)):
            tell("warn", {"text": f"{folder} had saved nothing yet: the training begins anew"})
            config = dataclasses.replace(config, resume=False, exist_ok=True)
        if config.resume and config.freeze_epochs is None:
            config = folders.as_begun(config, folder)
        job = jobs.prepare(config, data, group=group, fetch=not dry_run)
        plan = job.plan()
        if dry_run and job.config.computes_once:
            from fashionbatch.training.feed import activation_bytes

            plan["activation_bytes"] = activation_bytes(job)
        about = {"run": str(folder), "config": job.config.to_json(), "plan": plan}
        tell("plan", about)
        for text in job.doubts():
            tell("warn", {"text": text})
        if dry_run:
            return about
        if config.resume:
            return runs.train(job, folder, tell)
        if not group.leads:
            group.wait()  # for the folder
            return runs.train(job, folder, tell)
        with folders.fresh(folder, replace=config.exist_ok):
            group.wait()
            return runs.train(job, folder, tell)


def _need_backbone(config: TrainConfig) -> None:
    """Says what to install where a recipe's own backbone is not there."""
    if config.recipe is None:
        return
    recipe = recipes.load(config.recipe)
    if recipe.requires and config.backbone == recipe.options.get("backbone"):
        from fashionbatch import registry

        names = [component.spec.name for component in registry.components("backbone")]
        if config.backbone not in names:
            hint = f"--recipe {recipe.name} needs it: {recipe.requires}"
            raise UnknownNameError("backbone", config.backbone, names, hint)
