"""From a resolved configuration to a run folder with a trained model in it."""

from __future__ import annotations

import hashlib
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w
import torch
from torch import nn

from fashionbatch import config as configs
from fashionbatch import files, registry
from fashionbatch.config import TrainConfig
from fashionbatch.errors import SourceError, TrainingError, UsageError
from fashionbatch.models import card as cards
from fashionbatch.models import device as devices
from fashionbatch.models import freeze
from fashionbatch.models.build import Classifier, build, find_backbone, load_weights
from fashionbatch.models.card import ModelCard
from fashionbatch.pipeline.batches import default_workers
from fashionbatch.registry import Component
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.specs import BackboneSpec, HeadSpec, OptimizerSpec, Preprocessing
from fashionbatch.training import bottleneck, loop
from fashionbatch.training.checkpoint import seed_everything
from fashionbatch.training.finetune import Finetune

Rows = Mapping[str, npt.NDArray[np.int64]]
#: a set-up run tells of itself: (event, values)
Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training, checked and ready: nothing has been written yet.

    Attributes:
        config: with every default filled in.
        shards: the data set.
        rows: labelled rows of the splits ``train``, ``val`` and, if there is one, ``test``.
        component: the backbone, and its ``spec``.
        preprocessing: of the backbone, with the user's changes.
        head: of the backbone, with the user's changes.
        model: with its weights; the trained part is set.
        blocks: of the backbone.
        origin: of the weights.
    """

    config: TrainConfig
    shards: ShardSet
    rows: Rows
    component: Component
    spec: BackboneSpec
    preprocessing: Preprocessing
    head: HeadSpec
    model: Classifier
    blocks: list[str]
    origin: str
    device: torch.device
    workers: int
    components: list[Component] = field(default_factory=list)

    def plan(self) -> dict[str, Any]:
        """What is going to happen, as JSON values."""
        steps = -(-len(self.rows["train"]) // self.config.batch_size)
        return {
            "data": str(self.shards.path),
            "classes": len(self.shards.classes),
            "items": {split: len(rows) for split, rows in self.rows.items()},
            "backbone": self.component.provenance,
            "weights": self.origin,
            "input": self.preprocessing.to_json(),
            "blocks": len(self.blocks),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trainable_parameters": freeze.trainable_parameters(self.model),
            "steps_per_epoch": steps,
            "device": str(self.device),
            "workers": self.workers,
        }


def prepare(config: TrainConfig, data: Path) -> Job:
    """Checks everything that can be checked without training.

    Args:
        config: as the user gave it.
        data: the data set.

    Raises:
        FashionbatchError: what cannot work, in one line.
    """
    component, spec = find_backbone(config.backbone)
    shards = open_shards(data)
    rows = _rows(shards, config.limit)
    preprocessing = spec.preprocessing
    if config.img_size is not None:
        preprocessing = preprocessing.with_size(config.img_size)
    if config.crop_mode is not None:
        preprocessing = Preprocessing.from_json(
            {**preprocessing.to_json(), "crop_mode": config.crop_mode}
        )
    head = HeadSpec(
        hidden=spec.head.hidden
        if config.head_hidden is None
        else configs.parse_hidden(config.head_hidden),
        dropout=spec.head.dropout if config.head_dropout is None else config.head_dropout,
    )
    config = _resolve(config, data, shards, preprocessing, head)
    device = devices.choose(config.device)
    seed_everything(config.seed)
    model = build(component, preprocessing, head, len(shards.classes))
    blocks = freeze.block_names(model.backbone, spec.blocks)
    assert config.unfreeze is not None
    freeze.unfreeze(model, blocks, configs.parse_unfreeze(config.unfreeze))
    used = [component, registry.find("optimizer", config.opt)]
    used.append(registry.find("schedule", configs.parse_choice(config.sched)[0]))
    used += [registry.find("regularizer", configs.parse_choice(r)[0]) for r in config.regularizers]
    # last, because a file may have to be fetched: everything else is known to work by now
    origin = load_weights(model.backbone, spec, config.weights)
    workers = default_workers(device.type) if config.workers is None else config.workers
    return Job(
        config=config,
        shards=shards,
        rows=rows,
        component=component,
        spec=spec,
        preprocessing=preprocessing,
        head=head,
        model=model.to(device),
        blocks=blocks,
        origin=origin,
        device=device,
        workers=workers,
        components=used,
    )


def _rows(shards: ShardSet, limit: int | None) -> dict[str, npt.NDArray[np.int64]]:
    if not shards.classes:
        raise SourceError(
            f"{shards.path} has no labels to train on: pack a folder of class folders"
        )
    if len(shards.classes) < 2:
        raise SourceError(
            f"{shards.path} has one class only ({shards.classes[0]!r}): two are needed to train"
        )
    rows: dict[str, npt.NDArray[np.int64]] = {}
    for split in ("train", "val", "test"):
        if split in shards.manifest.splits:
            chosen = shards.select(split)
            chosen = chosen[shards.labels[chosen] >= 0]
            if limit is not None and len(chosen) > limit:
                # spread over the split: its end may hold other classes than its start
                chosen = chosen[np.linspace(0, len(chosen) - 1, limit).astype(np.int64)]
            rows[split] = chosen
    for split in ("train", "val"):
        if split not in rows or not len(rows[split]):
            raise SourceError(
                f"{shards.path} has no labelled {split} images: pack it again with "
                "--split train=0.9,val=0.1"
            )
    return rows


def _resolve(
    config: TrainConfig, data: Path, shards: ShardSet, preprocessing: Preprocessing, head: HeadSpec
) -> TrainConfig:
    """Fills in every default that depends on something."""
    scratch = config.weights == "none"
    offline = config.mode == "bottleneck"
    unfreeze = config.unfreeze or ("none" if offline else "all" if scratch else "blocks:3")
    if offline and unfreeze != "none":
        raise UsageError(
            f"--mode bottleneck trains the head only, not --unfreeze {unfreeze}: "
            "leave one of them out"
        )
    freeze_epochs = config.freeze_epochs
    if freeze_epochs is None:
        freeze_epochs = 0 if scratch or offline or config.epochs == 1 else 1
    values = {
        **vars(config),
        "data": data,
        "unfreeze": unfreeze,
        "freeze_epochs": min(freeze_epochs, config.epochs),
        "augment": "none" if offline else config.augment,
        "img_size": preprocessing.size,
        "crop_mode": preprocessing.crop_mode,
        "head_hidden": ",".join(map(str, head.hidden)) or "none",
        "head_dropout": head.dropout,
    }
    return TrainConfig(**values)


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


def _task(job: Job, folder: Path, tell: Tell) -> tuple[loop.Task, dict[int, str]]:
    config = job.config
    if config.mode == "finetune":
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
    everything = np.unique(np.concatenate(list(job.rows.values())))
    key = files.fingerprint(
        {
            "data": job.shards.manifest.fingerprint,
            "rows": files.fingerprint(everything.tolist()),
            "backbone": job.component.provenance,
            "weights": _hash_of(job.model.backbone),
            "preprocessing": job.preprocessing.to_json(),
        }
    )
    cache = folder.parent / ".features" / f"{key[:32]}.h5"
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        tell("features", {"done": done, "of": len(everything)})

    features = bottleneck.compute(
        job.model,
        job.shards,
        everything,
        job.preprocessing,
        cache,
        batch_size=config.batch_size,
        workers=job.workers,
        device=job.device,
        progress=progress,
    )
    if features.reused:
        tell("reused", {"path": str(cache)})
    if not len(features.rows):
        raise TrainingError(f"none of the images of {job.shards.path} can be used")
    task = bottleneck.Bottleneck(
        model=job.model,
        features=features,
        labels=job.shards.labels[features.rows].astype(np.int64),
        rows=job.rows,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    return task, dict(features.failed)


def _setup(job: Job, tell: Tell, title: str) -> loop.Setup:
    config = job.config
    assert config.unfreeze is not None
    assert config.freeze_epochs is not None
    count = configs.parse_unfreeze(config.unfreeze)
    name, options = configs.parse_choice(config.sched)
    schedule = registry.create(registry.find("schedule", name), config.epochs, **options)
    regularizers = []
    for text in config.regularizers:
        name, options = configs.parse_choice(text)
        regularizers.append(registry.create(registry.find("regularizer", name), **options))
    optimizer = registry.find("optimizer", config.opt)
    assert isinstance(optimizer.spec, OptimizerSpec)
    common = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    opt_options = {k: v for k, v in common.items() if k in optimizer.spec.options}
    opt_options |= configs.parse_options(config.opt_kwargs, "--opt-kwargs")

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
        title=title,
        on_epoch=lambda row: tell("epoch", row),
        on_step=lambda step, steps, loss: tell("step", {"step": step, "of": steps, "loss": loss}),
    )


def _hash_of(module: nn.Module) -> str:
    return files.fingerprint(
        {k: _digest(v.detach().cpu().numpy()) for k, v in module.state_dict().items()}
    )


def _digest(values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
