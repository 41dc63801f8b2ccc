"""One frozen dataclass per job: the only place where an option's name, type and default stand.

The command line makes its options from these fields, the Python functions take them as keyword
arguments, and the resolved values are saved as TOML with every result. A value that cannot work
raises :class:`fashionbatch.errors.UsageError` on construction, so no job starts with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashionbatch.errors import UsageError
from fashionbatch.fields import Checked, option
from fashionbatch.parse import (
    parse_bottleneck,
    parse_choice,
    parse_hidden,
    parse_limits,
    parse_most,
    parse_names,
    parse_options,
    parse_split,
    parse_unfreeze,
)
from fashionbatch.specs import CROP_MODES, SPLITS

CHECKS = ("headers", "decode", "none")
LAYOUTS = ("auto", "classes", "flat")
ANNOTATIONS = ("auto", "coarse", "fine")
SIDES = ("shorter", "longer")
MODES = ("finetune", "bottleneck")
TASKS = ("category", "attributes", "category,attributes")
SAMPLINGS = ("shuffle", "balanced")
AUGMENTATIONS = ("paper", "flip", "trivial", "rand", "none")
FEATURE_DTYPES = ("float32", "float16")
#: of exports; the first is the default
FORMATS = ("csv", "parquet", "npz")
DEFAULT_SPLIT = "train=0.8,val=0.1,test=0.1"


@dataclass(frozen=True, kw_only=True)
class _Selecting(Checked):
    """Which items of a catalogue or data set."""

    classes: tuple[str, ...] = option([], "Only these classes: a,b,c. Repeatable.")
    category_type: tuple[str, ...] = option(
        [], "Only classes of these types, such as upper. Repeatable."
    )
    fraction: float = option(1.0, "This share of each class in each split.", min=0, max=1)
    per_class: int | None = option(
        None, "At most so many images of each class; when packing or training: to train on.", min=1
    )
    limit_per_split: str | None = option(
        None, "At most so many images of a split: test=10000,val=10000."
    )
    seed: int = option(0, "Seed of everything random.", min=0, max=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction == 0:
            raise UsageError("--fraction 0: it is above 0")
        self.selection()

    def selection(self) -> dict[str, Any]:
        """The arguments of :class:`fashionbatch.shards.select.Selection`."""
        limits = parse_limits(self.limit_per_split) if self.limit_per_split else {}
        return {
            "classes": parse_names(self.classes),
            "category_type": parse_names(self.category_type),
            "fraction": self.fraction,
            "per_class": self.per_class,
            "limit_per_split": limits,
            "seed": self.seed,
        }


@dataclass(frozen=True, kw_only=True)
class ShardConfig(_Selecting):
    """How a catalogue is packed; see :func:`fashionbatch.shard`."""

    output: Path | None = option(
        None, "Folder to make. [default: shards/SOURCE's name]", "--output", "-o"
    )
    source_type: str | None = option(
        None,
        "Kind of catalogue NAME[:k=v,...]: folder, table, deepfashion, idx, webdataset, "
        "dataset (one of ours), or a plugin's. [default: recognized]",
        "--source",
    )
    layout: str = option(
        "auto",
        "Folder: are its folders classes, or is it flat (no labels)?",
        choices=LAYOUTS,
    )
    image_column: str | None = option(
        None, "Table: column of the image's path. [default: guessed from its name]"
    )
    label_column: str | None = option(
        None, "Table: column of the class. [default: guessed from its name]"
    )
    split_column: str | None = option(
        None, "Table: column of the split. [default: guessed from its name]"
    )
    type_column: str | None = option(None, "Table: column of the class's type.")
    root: Path | None = option(
        None, "Table: folder that its paths start from. [default: the table's]"
    )
    annotations: str = option(
        "auto", "DeepFashion: which of its annotation sets.", choices=ANNOTATIONS
    )
    class_names: Path | None = option(
        None, "IDX, WebDataset: file of the names of numbered classes, one on each line."
    )
    exclude_label: tuple[str, ...] = option([], "Leave these labels out: a,b,c. Repeatable.")
    split: str | None = option(
        None,
        f"Shares of the splits, each class alike. [default: the source's own, or {DEFAULT_SPLIT}]",
    )
    group_by: str | None = option(
        None,
        "Column (or folder) whose images go into one split together, such as the product.",
    )
    drop_duplicates: bool = option(False, "Of images with the same bytes keep the first only.")
    samples_per_shard: int = option(1000, "Most images in one shard.", min=1)
    check: str = option(
        "headers",
        "How each image is checked: kind, size and completeness; decoded whole; or kind only.",
        choices=CHECKS,
    )
    resize: int | None = option(
        None, "Make larger images smaller, to this length in pixels; as JPEG.", min=1
    )
    resize_side: str = option("shorter", "The side that gets this length.", choices=SIDES)
    quality: int = option(92, "JPEG quality of resized images.", min=1, max=100)
    allow_missing_classes: bool = option(
        False, "Accept a class that the source's own train split lacks."
    )
    append: bool = option(False, "Add the items that a data set lacks to it, in new shards.")
    allow_new_classes: bool = option(False, "With --append: accept classes it does not have yet.")
    workers: int | None = option(
        None, "Processes that read and check images. [default: the cores]", "--workers", "-j", min=1
    )
    exist_ok: bool = option(False, "Replace a data set that is there already.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None:
            parse_split(self.split)
        self.source()
        if self.resize is None and (self.resize_side, self.quality) != ("shorter", 92):
            raise UsageError("--resize-side and --quality say how to --resize: add that")
        if self.append and self.exist_ok:
            raise UsageError("--append adds and --exist-ok replaces: leave one of them out")
        if self.append and (self.fraction < 1 or self.per_class or self.limit_per_split):
            raise UsageError(
                "--append adds all that is new, and would add what --fraction, --per-class or "
                "--limit-per-split left out: choose when training instead"
            )
        if self.append and self.drop_duplicates and self.resize is not None:
            raise UsageError(
                "--append --drop-duplicates compares with the files that are packed, and --resize "
                "has changed those: leave one of them out"
            )

    def source(self) -> tuple[str | None, dict[str, Any]]:
        """Name and options of the source; sources refuse options that are not theirs."""
        name, options = parse_choice(self.source_type) if self.source_type else (None, {})
        columns = ("image_column", "label_column", "split_column", "type_column")
        names = ("layout", "annotations", *columns, "root", "class_names")
        asked = {n: v for n in names if (v := getattr(self, n)) not in (None, "auto")}
        return name, {**options, **asked}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Selecting):
    """How a classifier is trained; see :func:`fashionbatch.train`."""

    data: Path | None = option(
        None,
        "Data set to train on, as made by shard. [default: the one in shards/]",
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
    weights: str = option("imagenet", "Weights to start from: imagenet, none, or a file.")
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
        None, "Optimizer of the --freeze-epochs, with its own defaults. [default: --opt]"
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
    lr: float = option(1e-3, "Learning rate.", min=0)
    momentum: float = option(0.9, "Momentum, for optimizers that have it.", min=0, max=1)
    weight_decay: float = option(0.0, "Weight decay, for optimizers that have it.", min=0)
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
    clip_grad: float | None = option(None, "Short for --regularizer clip-grad:max_norm=X.", min=0)
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
        "center cuts, squash stretches, border keeps all on black. [default: the backbone's]",
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
        "Processes that decode images. [default: by cores and device]",
        "--workers",
        "-j",
        min=0,
    )
    output: Path = option(Path("runs"), "Folder in which the run gets its own.", "--output", "-o")
    name: str | None = option(None, "Name of the run. [default: DATA-BACKBONE, numbered]")
    exist_ok: bool = option(False, "Replace a run of that name.")
    resume: bool = option(False, "Go on with the run --name from its last checkpoint.")

    def __post_init__(self) -> None:
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
        for text in (*self.regularizer, *self.logger):
            parse_choice(text)
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


@dataclass(frozen=True, kw_only=True)
class PredictConfig(_Selecting):
    """How a catalogue is predicted; see :func:`fashionbatch.predict`."""

    model: Path | None = option(
        None, "Run (or its folder) whose model predicts. [default: the newest in runs/]"
    )
    output: Path | None = option(
        None, "HDF5 file to make. [default: predictions/INPUT-RUN.h5]", "--output", "-o"
    )
    topk: int = option(5, "How many classes to store per image, best first.", min=1)
    probabilities: bool = option(False, "Store the probability of every class.")
    features: str = option(
        "pooled", "Layer whose output is stored: pooled (the bottleneck), a module's name, none."
    )
    feature_dtype: str = option("float32", "Type of the stored features.", choices=FEATURE_DTYPES)
    split: str | None = option(None, "Shards only: predict this split.", choices=SPLITS)
    limit: int | None = option(None, "Predict at most so many images.", min=1)
    ignore_labels: bool = option(
        False, "Accept a data set of other classes than the model's; its labels are not stored."
    )
    batch_size: int = option(32, "Images per forward pass.", "--batch-size", "-b", min=1)
    engine: str = option(
        "auto",
        "What runs the network: NAME[:k=v,...], such as eager, compile, or a plugin's; auto times "
        "them where the job is long enough.",
    )
    precision: str = option(
        "auto",
        "float32, bfloat16, float16 (autocast). auto: as the GPU can; float32 on a CPU.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    workers: int | None = option(
        None,
        "Processes that read and decode images. [default: by cores and device]",
        "--workers",
        "-j",
        min=1,
    )
    devices: str | None = option(
        None, "Several devices, whole shards to each: 0,1 or cuda:0,cuda:1. [default: --device]"
    )
    image_seconds: float = option(
        30.0, "Most seconds for reading and decoding one image; longer, and it is a failure.", min=0
    )
    image_memory: float = option(
        2.0, "Most memory for decoding one image, in GiB; more, and it is a failure.", min=0.1
    )
    max_failures: str | None = option(
        None, "Stop where more images fail: N, or P% of all. [default: go on whatever fails]"
    )
    restart: bool = option(
        False, "Discard what an earlier run has finished. [default: go on with it]"
    )
    incremental: bool = option(
        False,
        "The catalogue has changed since the output was made: predict what is new or changed in "
        "it, and take over the rest.",
    )
    retry_failed: bool = option(False, "Try again what failed when the output was made.")
    keep_parts: bool = option(False, "Keep the parts that the output is merged from.")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_choice(self.engine)
        if self.devices is not None and self.device != "auto":
            raise UsageError("--devices names all, and --device one: leave one of them out")
        if not self.device_names:
            raise UsageError(f"--devices {self.devices!r}: name some, such as 0,1")
        if self.max_failures is not None:
            parse_most(self.max_failures)
        if self.image_seconds == 0:
            raise UsageError("--image-seconds 0: it is above 0")
        if self.restart and (self.incremental or self.retry_failed):
            name = "incremental" if self.incremental else "retry-failed"
            raise UsageError(
                f"--restart discards what --{name} would go on with: leave one of them out"
            )

    @property
    def device_names(self) -> tuple[str, ...]:
        """Of torch; a number is that of a GPU."""
        if self.devices is None:
            return (self.device,)
        names = filter(None, (name.strip() for name in self.devices.split(",")))
        return tuple(f"cuda:{name}" if name.isdecimal() else name for name in names)


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Checked):
    """How pictures are explained; see :func:`fashionbatch.explain`."""

    model: Path | None = option(
        None, "Run (or its folder) whose model is explained. [default: the newest in runs/]"
    )
    output: Path = option(Path("explain"), "Folder for the pictures.", "--output", "-o")
    limit: int | None = option(None, "Explain at most so many images.", min=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")


@dataclass(frozen=True, kw_only=True)
class InspectConfig(_Selecting):
    """How a data set is inspected; see :func:`fashionbatch.inspect`."""

    output: Path | None = option(
        None, "Folder for the pictures. [default: inspection/SHARDS' name]", "--output", "-o"
    )
    pictures: bool = option(True, "Draw histograms and a sheet of samples.")
    samples: int = option(8, "Images of each class on the sheet of samples.", min=1, max=50)
    split: str | None = option(None, "Only this split.", choices=SPLITS)
    per_class: int | None = option(None, "At most so many images of each class to train on.", min=1)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Checked):
    """How a prediction file is exported; see :func:`fashionbatch.export`."""

    to: str | None = option(
        None,
        "Format: csv, parquet or npz. [default: by the output's ending, or csv]",
        choices=FORMATS,
    )
    output: Path | None = option(
        None, "File to make. [default: beside the prediction file]", "--output", "-o"
    )
    topk: int | None = option(
        None, "How many of the stored classes, best first. [default: all of them]", min=1
    )
    probabilities: bool = option(False, "The probability of every class, too.")
    attribute_threshold: float | None = option(
        None,
        "Attributes of at least this probability. [default: 0.5, or any with --top-attributes]",
        min=0,
        max=1,
    )
    top_attributes: int | None = option(None, "At most so many attributes, best first.", min=1)
    features: bool = option(False, "Parquet and NPZ: the stored features, too.")
    failures: bool = option(
        True, "Items that have no prediction, too: as rows of their own; in NPZ, as own arrays."
    )
    bom: bool = option(False, "CSV: begin with the mark by which Excel knows UTF-8.")
    exist_ok: bool = option(False, "Replace a file that is there already.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format == "csv" and self.features:
            raise UsageError(
                "--features would make a CSV cell of each number: use --to parquet or --to npz"
            )
        if self.format != "csv" and self.bom:
            raise UsageError(f"--bom is for CSV, not for {self.format}: leave it out")
        if self.format == "npz" and (self.attribute_threshold, self.top_attributes) != (None, None):
            raise UsageError(
                "--attribute-threshold and --top-attributes choose what stands in a table, and NPZ "
                "holds the probability of every attribute: leave them out"
            )

    @property
    def format(self) -> str:
        """``to``, or what the output's ending says."""
        ending = self.output.suffix.lower().lstrip(".") if self.output is not None else ""
        return self.to or (ending if ending in FORMATS else FORMATS[0])


@dataclass(frozen=True, kw_only=True)
class MergeConfig(Checked):
    """How prediction files become one; see :func:`fashionbatch.merge`."""

    output: Path | None = option(None, "HDF5 file to make; must be given.", "--output", "-o")
    duplicates: str = option(
        "error",
        "An item that several files hold: refuse it, or keep what the first file says.",
        choices=("error", "first"),
    )
    exist_ok: bool = option(False, "Replace a prediction file that is there already.")


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Checked):
    """How similar images are found; see :func:`fashionbatch.search`."""

    k: int = option(10, "How many neighbours of each image.", "-k", min=1, max=1000)
    model: Path | None = option(
        None,
        "Run whose model made the file, for an image that is no row of it. "
        "[default: found in runs/ by its hash]",
    )
    features: str | None = option(
        None, "Layer whose features are compared. [default: the one that is stored]"
    )
    catalog: Path | None = option(
        None,
        "Folder of images or of shards that was predicted, to draw from. "
        "[default: where it lay then]",
    )
    sheet: bool = option(True, "Draw a contact sheet of each image and its neighbours.")
    output: Path | None = option(
        None, "Folder for the contact sheets. [default: search/FILE's name]", "--output", "-o"
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
