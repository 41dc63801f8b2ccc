"""A training, checked and ready to start: every default filled in, nothing written yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fashionbatch.address import Location
from fashionbatch.config import TrainConfig
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.models import device as devices
from fashionbatch.models import freeze
from fashionbatch.models.build import (
    Classifier,
    build,
    default_weights,
    find_backbone,
    load_weights,
)
from fashionbatch.models.cut import cut
from fashionbatch.parse import parse_hidden, parse_unfreeze
from fashionbatch.pipeline.batches import default_workers
from fashionbatch.registry import Component
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.sources import Attribute
from fashionbatch.specs import SPLITS, BackboneSpec, HeadSpec, Preprocessing, RegularizerSpec
from fashionbatch.training import components
from fashionbatch.training.checkpoint import seed_everything
from fashionbatch.training.distributed import Group
from fashionbatch.training.labels import Labels
from fashionbatch.training.landmarks import Landmarks
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.sampling import Sampling

Rows = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training, checked and ready: nothing has been written yet.

    Attributes:
        config: with every default filled in.
        shards: the data set.
        rows: usable rows of the splits ``train``, ``val`` and, if there is one, ``test``.
        component: the backbone, and its ``spec``.
        preprocessing: of the backbone, with the user's changes.
        head: of the backbone, with the user's changes.
        model: with its weights; the trained part is set.
        blocks: of the backbone.
        origin: of the weights.
        labels: what the images ought to be.
        landmarks: of the training images, where a regularizer needs them.
        group: the processes that train.
        regularizers: in the order given; the model is as they want it.
        components: all that take part.
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
    labels: Labels
    landmarks: Landmarks | None = None
    group: Group = field(default_factory=Group)
    regularizers: list[Regularizer] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)

    @property
    def tasks(self) -> tuple[str, ...]:
        """``category``, ``attributes``, or both."""
        return tuple(self.config.task.split(","))

    @property
    def classes(self) -> tuple[str, ...]:
        """What the category is one of; none where only attributes are learnt."""
        return self.shards.classes if "category" in self.tasks else ()

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """What is learnt of them; none where only the category is."""
        return tuple(self.shards.manifest.attributes) if "attributes" in self.tasks else ()

    @property
    def augment(self) -> str:
        """Random views of the training images."""
        assert self.config.augment is not None  # filled in
        return self.config.augment

    @property
    def precision(self) -> str:
        """Of the numbers within the network: ``float32`` or ``bfloat16``."""
        if self.config.precision != "auto":
            return self.config.precision
        return "bfloat16" if devices.has_bfloat16(self.device) else "float32"

    def sampling(self) -> Sampling:
        """The steps of every epoch."""
        rows = self.rows["train"]
        balanced = self.config.sampling == "balanced"
        return Sampling(
            rows=rows,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            labels=self.shards.labels[rows] if balanced else None,
            world=self.group.world,
        )

    def doubts(self) -> list[str]:
        """What of the options is allowed and seldom meant, a line each."""
        config, found = self.config, []
        frozen = config.freeze_epochs or 0
        if frozen >= config.epochs and config.unfreeze != "none":
            found.append(
                f"the base stays frozen in all {config.epochs:,} epochs, so only the head is "
                f"trained: --freeze-epochs {frozen} leaves none for --unfreeze {config.unfreeze}"
            )
        if config.warmup_epochs >= config.epochs:
            found.append(
                f"the learning rate never reaches --lr {config.lr:g}: --warmup-epochs "
                f"{config.warmup_epochs:g} are no fewer than the {config.epochs:,} epochs"
            )
        if config.prefix_cache and self.augment != "none" and config.augment_copies < config.epochs:
            found.append(
                f"--augment-copies {config.augment_copies}: in {config.epochs:,} epochs each image "
                "is seen in so few random views; take more of them, or --augment none"
            )
        if config.layer_decay != 1 and config.unfreeze == "none":
            found.append(f"--layer-decay {config.layer_decay:g} is of blocks, and none is trained")
        if config.attribute_weight != 1 and "attributes" not in self.tasks:
            found.append(
                f"--attribute-weight {config.attribute_weight:g} weighs attributes, and --task "
                f"{config.task} learns none"
            )
        return found

    def plan(self) -> dict[str, Any]:
        """What is going to happen, as JSON values."""
        steps = self.sampling().steps()
        return {
            "data": str(self.shards.path),
            "classes": len(self.classes),
            "attributes": len(self.attributes),
            "items": {split: len(rows) for split, rows in self.rows.items()},
            "backbone": self.component.provenance,
            "weights": self.origin,
            "input": self.preprocessing.to_json(),
            "blocks": len(self.blocks),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trainable_parameters": freeze.trainable_parameters(self.model),
            "steps_per_epoch": steps,
            "device": str(self.device),
            "processes": self.group.world,
            "workers": self.workers,
        }


def prepare(
    config: TrainConfig, data: Location, *, group: Group | None = None, fetch: bool = True
) -> Job:
    """Checks everything that can be checked without training.

    Args:
        config: as the user gave it.
        data: the data set, or its address.
        group: the processes that train; alone without.
        fetch: load the weights; a dry run does without.

    Raises:
        FashionbatchError: what cannot work, in one line.
    """
    component, spec = find_backbone(config.backbone)
    weights = config.weights or default_weights(spec)
    config = dataclasses.replace(config, weights=weights)
    selection = Selection(**config.selection())
    shards = open_shards(data).restricted(selection)
    group = group or Group()
    labels = Labels(shards, config.task.split(","))
    rows = _rows(shards, labels, selection, config)
    preprocessing = spec.input_of(weights)
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
    if config.batch_size < group.world:
        raise UsageError(
            f"--batch-size {config.batch_size}: {group.world} processes share a step, and each "
            "needs an image"
        )
    device = devices.choose(config.device, group.local_rank if group.world > 1 else None)
    seed_everything(config.seed)
    classes = shards.classes if "category" in labels.tasks else ()
    attributes = shards.manifest.attributes if "attributes" in labels.tasks else ()
    model = build(component, preprocessing, head, len(classes), len(attributes), config.bottleneck)
    blocks = freeze.block_names(
        model.backbone, spec.blocks, truncated=config.bottleneck is not None
    )
    assert config.unfreeze is not None
    freeze.unfreeze(model, blocks, parse_unfreeze(config.unfreeze))
    used = [component, *components.used(config)]
    components.check(config)
    regularizers = components.regularizers(config, model, _crossing(config, model, component))
    landmarks = None
    if any(isinstance(c.spec, RegularizerSpec) and c.spec.needs_landmarks for c in used):
        landmarks = Landmarks(shards, preprocessing)
        landmarks.require(rows["train"], str(config.augment), kept=config.prefix_cache)
    # last, because a file may have to be fetched: everything else is known to work by now
    origin = weights
    if fetch or weights not in spec.weights:
        origin = load_weights(model.backbone, spec, weights)
    workers = default_workers(device.type) if config.workers is None else config.workers
    return Job(
        config=config,
        shards=shards,
        rows=rows,
        component=component,
        spec=spec,
        preprocessing=preprocessing,
        head=head,
        model=_synchronized(model, group, device).to(device),
        blocks=blocks,
        origin=origin,
        device=device,
        workers=workers,
        labels=labels,
        landmarks=landmarks,
        group=group,
        regularizers=regularizers,
        components=used,
    )


def _crossing(
    config: TrainConfig, model: Classifier, component: Component
) -> list[tuple[int, ...]]:
    """Shapes of what a batch holds of an image in place of its pixels; none where it holds these.

    Looked for where a regularizer is there to be tried on it: to cut a network takes a second.
    """
    if config.mode == "bottleneck":
        return [(model.head.kernels[0].shape[1],)]
    if not (config.prefix_cache and config.regularizers):
        return []
    assert config.img_size is not None  # filled in
    parts = cut(model.backbone, component.spec.name, config.img_size)
    return [each.shape for each in parts.crossing]


def _synchronized(model: Classifier, group: Group, device: torch.device) -> Classifier:
    """Batch normalization over the images of all processes; torch has it for GPUs only."""
    if group.world > 1 and device.type == "cuda":
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        model.backbone = convert(model.backbone)  # type: ignore[no-untyped-call]  # torch's is not annotated
    return model


def _rows(
    shards: ShardSet, labels: Labels, selection: Selection, config: TrainConfig
) -> dict[str, npt.NDArray[np.int64]]:
    if "category" in labels.tasks:
        if not shards.classes:
            raise SourceError(
                f"{shards.path} has no labels to train on: pack a folder of class folders"
            )
        if len(shards.classes) < 2:
            raise SourceError(
                f"{shards.path} has one class only ({shards.classes[0]!r}): two are needed to train"
            )
    elif config.sampling == "balanced" or config.class_weights == "balanced":
        raise UsageError("--sampling and --class-weights balance classes: --task names none")
    rows: dict[str, npt.NDArray[np.int64]] = {}
    for split in SPLITS:
        if split in shards.manifest.splits:
            chosen = shards.select(split, selection)
            chosen = labels.usable(chosen)
            if config.limit is not None and len(chosen) > config.limit:
                # spread over the split: its end may hold other classes than its start
                spread = np.linspace(0, len(chosen) - 1, config.limit)
                chosen = chosen[spread.astype(np.int64)]
            if len(chosen) or split != "test":
                rows[split] = chosen
    if config.sampling == "balanced" and "train" in rows:
        # an image without a category is of no class that could be balanced
        rows["train"] = rows["train"][shards.labels[rows["train"]] >= 0]
    for split in ("train", "val"):
        if split not in rows or not len(rows[split]):
            raise SourceError(
                f"{shards.path} has no labelled {split} images: pack it again with "
                "--split val=0.1 (taken out of train)"
            )
    return rows


def _resolve(
    config: TrainConfig,
    data: Location,
    shards: ShardSet,
    preprocessing: Preprocessing,
    head: HeadSpec,
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
    if config.prefix_cache and offline:
        raise UsageError("--prefix-cache is for --mode finetune; bottleneck mode has its own")
    if config.augment_copies > 1 and not config.prefix_cache:
        raise UsageError("--augment-copies is for --prefix-cache: add that")
    if offline:
        for name, plain in (("augment", None), ("freeze_opt", None), ("layer_decay", 1)):
            if getattr(config, name) not in (plain, "none"):
                raise UsageError(
                    f"--{name.replace('_', '-')} {getattr(config, name)}: --mode bottleneck trains "
                    "the head on images as they are: leave one of them out"
                )
    freeze_epochs = config.freeze_epochs
    if freeze_epochs is None:
        freeze_epochs = 0 if scratch or unfreeze == "none" or config.epochs == 1 else 1
    if freeze_epochs and unfreeze == "none":
        raise UsageError(
            f"--freeze-epochs {freeze_epochs} is in front of --unfreeze, and that is none: leave "
            "one of them out"
        )
    if config.freeze_opt is not None and not freeze_epochs:
        raise UsageError("--freeze-opt is for --freeze-epochs, and there are none: add some")
    values = {
        **vars(config),
        "data": data,
        "unfreeze": unfreeze,
        "freeze_epochs": freeze_epochs,
        "augment": config.augment or ("none" if offline else "paper"),
        "img_size": preprocessing.size,
        "crop_mode": preprocessing.crop_mode,
        "head_hidden": ",".join(map(str, head.hidden)) or "none",
        "head_dropout": head.dropout,
    }
    return TrainConfig(**values)
