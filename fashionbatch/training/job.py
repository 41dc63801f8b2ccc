"""A training, checked and ready to start: every default filled in, nothing written yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fashionbatch import registry
from fashionbatch.config import TrainConfig
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.models import device as devices
from fashionbatch.models import freeze
from fashionbatch.models.build import Classifier, build, find_backbone, load_weights
from fashionbatch.parse import parse_choice, parse_hidden, parse_unfreeze
from fashionbatch.pipeline.batches import default_workers
from fashionbatch.registry import Component
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.specs import SPLITS, BackboneSpec, HeadSpec, Preprocessing
from fashionbatch.training.checkpoint import seed_everything

Rows = Mapping[str, npt.NDArray[np.int64]]


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


def prepare(config: TrainConfig, data: Path, *, fetch: bool = True) -> Job:
    """Checks everything that can be checked without training.

    Args:
        config: as the user gave it.
        data: the data set.
        fetch: load the weights; a dry run does without.

    Raises:
        FashionbatchError: what cannot work, in one line.
    """
    component, spec = find_backbone(config.backbone)
    selection = Selection(**config.selection())
    shards = open_shards(data).restricted(selection)
    rows = _rows(shards, selection, config.limit)
    preprocessing = spec.preprocessing
    if config.img_size is not None:
        preprocessing = preprocessing.with_size(config.img_size)
    if config.crop_mode is not None:
        preprocessing = Preprocessing.from_json(
            {**preprocessing.to_json(), "crop_mode": config.crop_mode}
        )
    head = HeadSpec(
        hidden=spec.head.hidden if config.head_hidden is None else parse_hidden(config.head_hidden),
        dropout=spec.head.dropout if config.head_dropout is None else config.head_dropout,
    )
    config = _resolve(config, data, shards, preprocessing, head)
    device = devices.choose(config.device)
    seed_everything(config.seed)
    model = build(component, preprocessing, head, len(shards.classes), bottleneck=config.bottleneck)
    blocks = freeze.block_names(
        model.backbone, spec.blocks, truncated=config.bottleneck is not None
    )
    assert config.unfreeze is not None
    freeze.unfreeze(model, blocks, parse_unfreeze(config.unfreeze))
    used = [component, registry.find("optimizer", config.opt)]
    used.append(registry.find("schedule", parse_choice(config.sched)[0]))
    used += [registry.find("regularizer", parse_choice(r)[0]) for r in config.regularizers]
    # last, because a file may have to be fetched: everything else is known to work by now
    origin = config.weights
    if fetch or config.weights not in spec.weights:
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


def _rows(
    shards: ShardSet, selection: Selection, limit: int | None
) -> dict[str, npt.NDArray[np.int64]]:
    if not shards.classes:
        raise SourceError(
            f"{shards.path} has no labels to train on: pack a folder of class folders"
        )
    if len(shards.classes) < 2:
        raise SourceError(
            f"{shards.path} has one class only ({shards.classes[0]!r}): two are needed to train"
        )
    rows: dict[str, npt.NDArray[np.int64]] = {}
    for split in SPLITS:
        if split in shards.manifest.splits:
            chosen = shards.select(split, selection)
            chosen = chosen[shards.labels[chosen] >= 0]
            if limit is not None and len(chosen) > limit:
                # spread over the split: its end may hold other classes than its start
                chosen = chosen[np.linspace(0, len(chosen) - 1, limit).astype(np.int64)]
            rows[split] = chosen
    for split in ("train", "val"):
        if split not in rows or not len(rows[split]):
            raise SourceError(
                f"{shards.path} has no labelled {split} images: pack it again with "
                "--split val=0.1 (taken out of train)"
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
