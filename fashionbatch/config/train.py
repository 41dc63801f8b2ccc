"""How a classifier is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fashionbatch.address import Location
from fashionbatch.config.selecting import Selecting
from fashionbatch.errors import UsageError
from fashionbatch.fields import option
from fashionbatch.parse import (
    parse_bottleneck,
    parse_choice,
    parse_hidden,
    parse_options,
    parse_unfreeze,
)
from fashionbatch.specs import CROP_MODES

MODES = ("finetune", "bottleneck")
TASKS = ("category", "attributes", "category,attributes")
SAMPLINGS = ("shuffle", "balanced")
AUGMENTATIONS = ("paper", "flip", "trivial", "rand", "none")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Selecting):
    """How a classifier is trained; see :func:`fashionbatch.train`."""

    data: Location | None = option(
        None,
        "Data set to train on, as made by shard; or its address. [default: the one in shards/]",
        "--data",
        "-d",
    )
    recipe: str | None = option(
        None,
        "How to train: a name from `fashionbatch recipes`, a TOML file, or a run's config.toml. "
        "Options given beside it go before it.",
    )
    backbone: str = option(
        "resnet50", "Network; `fashionbatch backbones` lists them.", "--backbone", "-m"
    )
    weights: str | None = option(
        None,
        "Weights to start from: a set of the backbone (`fashionbatch backbones` lists them), none, "
        "or a file. [default: its first set]",
    )
    task: str = option(
        "category",
        "What to learn: category, attributes (many of them at once), or both from one network.",
        choices=TASKS,
    )
    attribute_weight: float = option(
        1.0, "Weight of the attributes' loss beside the category's.", min=0
    )
    bottleneck: str | None = option(
        None,
        "Layer whose output the head gets: NAME[:avg|flatten]; what lies behind it is left out. "
        "[default: the end of the backbone]",
    )
    mode: str = option(
        "finetune",
        "Train end to end, or compute the frozen base's features once and train the head on them.",
        choices=MODES,
    )
    unfreeze: str | None = option(
        None,
        "What of the base to train: blocks:N (the last N), all, none. "
        "[default: blocks:3; all with --weights none]",
    )
    freeze_epochs: int | None = option(
        None,
        "Epochs with the whole base frozen before --unfreeze. [default: 1; 0 with --weights none]",
        min=0,
    )
    freeze_opt: str | None = option(
        None,
        "Optimizer of the --freeze-epochs, at the same --lr, else with its own defaults. "
        "[default: --opt]",
    )
    prefix_cache: bool = option(
        False,
        "Finetuning: compute what the frozen part gives once, and train the rest from that.",
    )
    augment_copies: int = option(
        1, "With --prefix-cache: random views of each training image to compute.", min=1, max=1000
    )
    epochs: int = option(10, "Most epochs in all.", min=1)
    batch_size: int = option(
        32, "Images per step, of all processes together.", "--batch-size", "-b", min=1
    )
    micro_batch: int | None = option(
        None,
        "Images worked off at a time; a step adds up their gradients. [default: all of them; fewer "
        "where memory is short]",
        min=1,
    )
    sampling: str = option(
        "shuffle",
        "How an epoch is drawn: each image once, or as many of each class.",
        choices=SAMPLINGS,
    )
    class_weights: str = option(
        "none", "Weight of each class in the loss.", choices=("none", "balanced")
    )
    opt: str = option(
        "adam", "Optimizer: sgd, rmsprop, adam, adamw, others of torch, or a plugin's."
    )
    lr: float = option(1e-3, "Learning rate.", above=0)
    momentum: float | None = option(
        None, "Momentum, for optimizers that have it. [default: its own; 0.9 of sgd]", min=0, max=1
    )
    weight_decay: float | None = option(
        None, "Weight decay, for optimizers that have it. [default: its own]", min=0
    )
    opt_kwargs: tuple[str, ...] = option([], "Further options of the optimizer, k=v. Repeatable.")
    sched: str = option(
        "constant",
        "Learning-rate schedule NAME[:k=v,...]: constant, step, exponential, cosine, polynomial, "
        "plateau.",
    )
    warmup_epochs: float = option(
        0.0, "Epochs in which the learning rate rises from 0; parts of one, too.", min=0
    )
    layer_decay: float = option(
        1.0, "Learning rate of a block as a part of that of the block behind it.", min=0, max=1
    )
    regularizer: tuple[str, ...] = option(
        [],
        "NAME[:k=v,...]; `fashionbatch plugins list` names them, such as l2-kernel, mixup, ema. "
        "Repeatable.",
    )
    clip_grad: float | None = option(None, "Short for --regularizer clip-grad:max_norm=X.", above=0)
    patience: int | None = option(None, "Short for --regularizer early-stopping:patience=N.", min=1)
    head_hidden: str | None = option(
        None,
        "Widths of the head's dense layers: 1024, or 256,256, or none. [default: the backbone's]",
    )
    head_dropout: float | None = option(
        None, "Dropout before the last layer. [default: the backbone's]", min=0, max=0.99
    )
    img_size: int | None = option(
        None, "Height and width of the input. [default: the backbone's]", min=8, max=4096
    )
    crop_mode: str | None = option(
        None,
        "center cuts, squash stretches, letterbox keeps all on black. [default: the backbone's]",
        choices=CROP_MODES,
    )
    augment: str | None = option(
        None,
        "Random views of training images: paper (shear, zoom, rotation, shift, flip), flip, "
        "trivial (TrivialAugment), rand (RandAugment), none. [default: paper; none in bottleneck "
        "mode]",
        choices=AUGMENTATIONS,
    )
    precision: str = option(
        "auto",
        "float32, or bfloat16 where it does no harm (autocast). auto: as the GPU can.",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = option(False, "Compile the network with torch.compile.")
    engine: str = option(
        "auto",
        "Bottleneck mode and --prefix-cache: what runs the frozen part, NAME[:k=v,...]; auto times "
        "the installed engines where there is enough to compute.",
    )
    checkpoint_minutes: float = option(
        15.0, "Save within an epoch, too, every so many minutes; 0 saves behind epochs only.", min=0
    )
    logger: tuple[str, ...] = option(
        [], "NAME[:k=v,...] of who is told how it goes: tensorboard. Repeatable."
    )
    limit: int | None = option(None, "Use at most so many images of each split.", min=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    workers: int | None = option(
        None,
        "Processes that make batches; 0: none, and an image that hangs the decoder hangs the run. "
        "[default: by cores and device]",
        "--workers",
        "-j",
        min=0,
    )
    output: Path = option(Path("runs"), "Folder in which the run gets its own.", "--output", "-o")
    name: str | None = option(None, "Name of the run. [default: DATA-BACKBONE, numbered]")
    exist_ok: bool = option(False, "Replace a run of that name.")
    resume: bool = option(False, "Go on with the run --name from its last checkpoint.")

    def __post_init__(self) -> None:
        if isinstance(self.task, str):
            tasks = [task.strip() for task in self.task.split(",")]
            if sorted(tasks) == sorted(TASKS[:2]):
                # either order is meant, and one of them saved: --resume compares what is saved
                object.__setattr__(self, "task", TASKS[2])
        super().__post_init__()
        if self.unfreeze is not None:
            parse_unfreeze(self.unfreeze)
        if self.head_hidden is not None:
            parse_hidden(self.head_hidden)
        if self.bottleneck is not None:
            parse_bottleneck(self.bottleneck)
        if self.prefix_cache and self.mode == "bottleneck":
            raise UsageError(
                "--mode bottleneck computes the whole base once, and --prefix-cache its frozen "
                "part: leave one of them out"
            )
        if self.augment_copies > 1 and not (self.prefix_cache and self.augment != "none"):
            raise UsageError(
                f"--augment-copies {self.augment_copies} is of --prefix-cache with an --augment "
                "other than none: add those, or leave it out"
            )
        parse_choice(self.sched)
        parse_choice(self.engine)
        if self.engine != "auto" and not self.computes_once:
            raise UsageError(
                f"--engine {self.engine} computes what is frozen, once: add --mode bottleneck or "
                "--prefix-cache, or leave it out"
            )
        parse_options(self.opt_kwargs, "--opt-kwargs")
        for flag, texts in (("regularizer", self.regularizers), ("logger", self.logger)):
            names = [parse_choice(text)[0] for text in texts]
            for name in names:
                if names.count(name) > 1:
                    short = {"clip-grad": "--clip-grad", "early-stopping": "--patience"}.get(name)
                    also = f" ({short} is short for it)" if short else ""
                    raise UsageError(f"--{flag} {name} is given twice{also}: leave one of them out")
        if self.name is not None and (
            not self.name.strip() or Path(self.name).name != self.name or self.name in (".", "..")
        ):
            raise UsageError(f"--name {self.name!r}: a plain folder name, without '/'")

    @property
    def computes_once(self) -> bool:
        """The frozen part is computed once, and what it gives is kept."""
        return self.mode == "bottleneck" or self.prefix_cache

    @property
    def regularizers(self) -> list[str]:
        """``regularizer`` with the short forms spelled out."""
        chosen = list(self.regularizer)
        if self.clip_grad is not None:
            chosen.append(f"clip-grad:max_norm={self.clip_grad}")
        if self.patience is not None:
            chosen.append(f"early-stopping:patience={self.patience}")
        return chosen
