"""How a catalogue is packed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashionbatch.address import Location
from fashionbatch.config.executing import Executing
from fashionbatch.config.selecting import Selecting
from fashionbatch.errors import UsageError
from fashionbatch.fields import option
from fashionbatch.parse import parse_choice, parse_split

CHECKS = ("headers", "decode", "none")
LAYOUTS = ("auto", "classes", "flat")
ANNOTATIONS = ("auto", "coarse", "fine")
SIDES = ("shorter", "longer")
DEFAULT_SPLIT = "train=0.8,val=0.1,test=0.1"


@dataclass(frozen=True, kw_only=True)
class ShardConfig(Selecting, Executing):
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
    root: Location | None = option(
        None, "Table: folder that its paths start from, or its address. [default: the table's]"
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
