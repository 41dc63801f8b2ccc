"""How pictures are drawn: of a data set, and of why a model answers as it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fashionbatch.address import Location
from fashionbatch.config.selecting import Selecting
from fashionbatch.errors import UsageError
from fashionbatch.fields import Checked, option
from fashionbatch.specs import SPLITS

ROWS = ("mistakes", "right", "unsure", "all")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Checked):
    """How pictures are explained; see :func:`fashionbatch.explain`."""

    model: Location | None = option(
        None, "Run (or its folder) whose model is explained. [default: the newest in runs/]"
    )
    output: Path = option(Path("explain"), "Folder for the pictures.", "--output", "-o")
    limit: int | None = option(None, "Explain at most so many images.", min=1)
    predictions: Location | None = option(
        None, "Prediction file (HDF5): its rows are explained, by the model that made it."
    )
    rows: str | None = option(
        None,
        "Which of them where none are named: the surest mistakes or right answers first, the least "
        "sure first, or all in their order. [default: mistakes]",
        choices=ROWS,
    )
    catalog: Location | None = option(
        None,
        "Folder of images or of shards that was predicted. [default: where it lay then]",
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, default in (("rows", None), ("catalog", None)):
            if self.predictions is None and getattr(self, name) != default:
                raise UsageError(f"--{name} is of a prediction file: name that with --predictions")


@dataclass(frozen=True, kw_only=True)
class InspectConfig(Selecting):
    """How a data set is inspected; see :func:`fashionbatch.inspect`."""

    output: Path | None = option(
        None, "Folder for the pictures. [default: inspection/SHARDS' name]", "--output", "-o"
    )
    pictures: bool = option(True, "Draw histograms and a sheet of samples.")
    samples: int = option(8, "Images of each class on the sheet of samples.", min=1, max=50)
    split: str | None = option(None, "Only this split.", choices=SPLITS)
    per_class: int | None = option(None, "At most so many images of each class to train on.", min=1)
