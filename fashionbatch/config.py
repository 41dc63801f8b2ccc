"""One frozen dataclass per job: the only place where an option's name, type and default stand.

The command line makes its options from these fields, the Python functions take them as keyword
arguments, and the resolved values are saved as TOML with every result. A value that cannot work
raises :class:`fashionbatch.errors.UsageError` on construction, so no job starts with one.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.specs import CROP_MODES

SPLITS = ("train", "val", "test")
CHECKS = ("decode", "headers", "none")
LAYOUTS = ("auto", "classes", "flat")
MODES = ("finetune", "bottleneck")
FEATURE_DTYPES = ("float32", "float16")
DEFAULT_SPLIT = "train=0.8,val=0.1,test=0.1"

C = TypeVar("C")


def option(default: Any, help: str, *flags: str, **limits: Any) -> Any:
    """A field that the command line shows as an option.

    Args:
        default: the value without the option.
        help: one line for ``--help``.
        flags: names on the command line; by default ``--field-name``.
        limits: ``min`` and ``max`` of a number, inclusive; ``choices`` of a string.
    """
    metadata = {"help": help, "flags": flags, **limits}
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def make(kind: type[C], options: Mapping[str, Any]) -> C:
    """A configuration from keyword arguments.

    Raises:
        UnknownNameError: an option that there is not.
    """
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]  # only dataclasses come here
    for name in options:
        if name not in names:
            raise UnknownNameError("option", name, names)
    return kind(**options)


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """Reads ``NAME[:k=v,...]``; numbers and booleans become such.

    Example:
        >>> parse_choice("step:drop=0.5,epochs_drop=10")
        ('step', {'drop': 0.5, 'epochs_drop': 10})
    """
    found = re.fullmatch(r"((?:[^:=,]+:)?[^:=,]+?)(?::([^:]*=.*))?", text.strip())
    if not found:
        raise UsageError(f"{text!r} cannot be read: write NAME or NAME:option=value,option=value")
    name, options = found.groups()
    return name, parse_options((options or "").split(","), text)


def parse_options(pairs: list[str] | tuple[str, ...], where: str) -> dict[str, Any]:
    """Reads ``["k=v", ...]``; empty strings are passed over."""
    options: dict[str, Any] = {}
    for pair in filter(None, (p.strip() for p in pairs)):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{where!r}: {pair!r} is not option=value")
        options[name.strip().replace("-", "_")] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def parse_split(text: str) -> dict[str, float]:
    """Reads ``train=0.8,val=0.1,test=0.1``.

    Returns:
        the share of each split, in the order written; the shares add up to 1.
    """
    shares = parse_options(text.split(","), text)
    for name, share in shares.items():
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS)
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise UsageError(f"--split {text}: the share of {name} is above 0 and at most 1")
    if "train" not in shares or abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError(f"--split {text}: name train among the splits; the shares add up to 1")
    return {name: float(share) for name, share in shares.items()}


def parse_unfreeze(text: str) -> int | None:
    """Reads ``blocks:N``, ``all`` or ``none``.

    Returns:
        how many blocks to train, counted from the output; ``None`` for the whole base.
    """
    if text == "all":
        return None
    if text == "none":
        return 0
    found = re.fullmatch(r"blocks:(\d+)", text)
    if not found:
        raise UsageError(f"--unfreeze {text}: write blocks:N (such as blocks:3), all or none")
    return int(found.group(1))


class _Checked:
    """Checks every field's limits and choices on construction."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value, meta = getattr(self, f.name), f.metadata
            flag = next(iter(meta.get("flags", ())), "--" + f.name.replace("_", "-"))
            if value is None:
                continue
            low, high = meta.get("min"), meta.get("max")
            number = low is not None or high is not None
            if number and not (isinstance(value, int | float) and math.isfinite(value)):
                raise UsageError(f"{flag} {value}: it is a number")
            if (low is not None and not value >= low) or (high is not None and not value <= high):
                limits = f"at least {low}" if high is None else f"from {low} to {high}"
                raise UsageError(f"{flag} {value}: it is {limits}")
            if "choices" in meta and value not in meta["choices"]:
                raise UsageError(f"{flag} {value}: it is one of {', '.join(meta['choices'])}")

    def to_json(self) -> dict[str, Any]:
        """Every field as a plain value; paths become strings."""
        return {
            f.name: _plain(getattr(self, f.name))
            for f in dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


@dataclass(frozen=True, kw_only=True)
class ShardConfig(_Checked):
    """How a catalogue is packed; see :func:`fashionbatch.shard`."""

    output: Path | None = option(
        None, "Folder to make. [default: shards/SOURCE's name]", "--output", "-o"
    )
    source_type: str | None = option(
        None, "Kind of catalogue: folder, or a plugin's. [default: recognized]", "--source"
    )
    layout: str = option(
        "auto",
        "Folder source: are its folders classes, or is it flat (no labels)?",
        choices=LAYOUTS,
    )
    split: str | None = option(
        None,
        f"Shares of the splits, each class alike. [default: the source's own, or {DEFAULT_SPLIT}]",
    )
    samples_per_shard: int = option(1000, "Most images in one shard.", min=1)
    check: str = option(
        "decode",
        "How each image is checked: decoded whole, only its header, or not at all.",
        choices=CHECKS,
    )
    allow_missing_classes: bool = option(
        False, "Accept a class that some of the source's splits lack."
    )
    seed: int = option(0, "Seed of the order and of the split.", min=0)
    workers: int | None = option(
        None, "Threads that check images. [default: the cores]", "--workers", "-j", min=1
    )
    exist_ok: bool = option(False, "Replace a data set that is there already.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None:
            parse_split(self.split)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Checked):
    """How a classifier is trained; see :func:`fashionbatch.train`."""

    data: Path | None = option(
        None,
        "Data set to train on, as made by shard. [default: the one in shards/]",
        "--data",
        "-d",
    )
    backbone: str = option(
        "resnet50", "Network; `fashionbatch backbones` lists them.", "--backbone", "-m"
    )
    weights: str = option("imagenet", "Weights to start from: imagenet, none, or a file.")
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
    epochs: int = option(10, "Most epochs in all.", min=1)
    batch_size: int = option(32, "Images per step.", "--batch-size", "-b", min=1)
    opt: str = option("adam", "Optimizer: sgd, rmsprop, adam, adamw, or a plugin's.")
    lr: float = option(1e-3, "Learning rate.", min=0)
    momentum: float = option(0.9, "Momentum, for optimizers that have it.", min=0, max=1)
    weight_decay: float = option(0.0, "Weight decay, for optimizers that have it.", min=0)
    opt_kwargs: tuple[str, ...] = option([], "Further options of the optimizer, k=v. Repeatable.")
    sched: str = option(
        "constant", "Learning-rate schedule NAME[:k=v,...]: constant, step, exponential, cosine."
    )
    regularizer: tuple[str, ...] = option(
        [], "NAME[:k=v,...]: l2-kernel, l2-activity, clip-grad, early-stopping. Repeatable."
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
    augment: str = option(
        "paper",
        "Random views when finetuning: paper (shear, zoom, rotation, shift, flip), flip, none.",
        choices=("paper", "flip", "none"),
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
    seed: int = option(0, "Seed of everything random.", min=0)
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
        parse_choice(self.sched)
        parse_options(self.opt_kwargs, "--opt-kwargs")
        for text in self.regularizer:
            parse_choice(text)
        if self.name is not None and (
            not self.name.strip() or Path(self.name).name != self.name or self.name in (".", "..")
        ):
            raise UsageError(f"--name {self.name!r}: a plain folder name, without '/'")

    @property
    def regularizers(self) -> list[str]:
        """``regularizer`` with the short forms spelled out."""
        chosen = list(self.regularizer)
        if self.clip_grad is not None:
            chosen.append(f"clip-grad:max_norm={self.clip_grad}")
        if self.patience is not None:
            chosen.append(f"early-stopping:patience={self.patience}")
        return chosen


def parse_hidden(text: str) -> tuple[int, ...]:
    """Reads ``1024``, ``256,256`` or ``none``."""
    if text == "none":
        return ()
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UsageError(f"--head-hidden {text}: widths such as 1024 or 256,256, or none")
    return tuple(int(width) for width in text.split(","))


@dataclass(frozen=True, kw_only=True)
class PredictConfig(_Checked):
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
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    workers: int | None = option(
        None,
        "Processes that decode images. [default: by cores and device]",
        "--workers",
        "-j",
        min=0,
    )
    resume: bool = option(
        True, "Keep what an interrupted run has finished; --no-resume discards it."
    )


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(_Checked):
    """How pictures are explained; see :func:`fashionbatch.explain`."""

    model: Path | None = option(
        None, "Run (or its folder) whose model is explained. [default: the newest in runs/]"
    )
    output: Path = option(Path("explain"), "Folder for the pictures.", "--output", "-o")
    limit: int | None = option(None, "Explain at most so many images.", min=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
