"""What is done with prediction files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fashionbatch.address import Location
from fashionbatch.errors import UsageError
from fashionbatch.fields import Checked, option

#: of exports; the first is the default
FORMATS = ("csv", "parquet", "npz")


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
    model: Location | None = option(
        None,
        "Run whose model made the file, for an image that is no row of it. "
        "[default: found in runs/ by its hash]",
    )
    features: str | None = option(
        None, "Layer whose features are compared. [default: the one that is stored]"
    )
    catalog: Location | None = option(
        None,
        "Folder of images or of shards that was predicted, to draw from. "
        "[default: where it lay then]",
    )
    sheet: bool = option(True, "Draw a contact sheet of each image and its neighbours.")
    output: Path | None = option(
        None, "Folder for the contact sheets. [default: search/FILE's name]", "--output", "-o"
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")


@dataclass(frozen=True, kw_only=True)
class LabelledConfig(Checked):
    """Where the known classes of items come from."""

    labels: Location | None = option(
        None,
        "Table (CSV, TSV, Parquet) or packed data set of the known classes. "
        "[default: those in the file]",
    )
    image_column: str | None = option(
        None, "Table: column with the items' names. [default: guessed from its name]"
    )
    label_column: str | None = option(
        None, "Table: column with the classes. [default: guessed from its name]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag in self.of_tables() if self.labels is None else ():
            raise UsageError(f"{flag} is of a table: name that with --labels")

    def columns(self) -> dict[str, str | None]:
        """The columns of a table by what they hold; guessed where they are ``None``."""
        return {"image_column": self.image_column, "label_column": self.label_column}

    def of_tables(self) -> list[str]:
        """The options that were given and mean a column of a table."""
        return [
            "--" + name.replace("_", "-")
            for name, value in self.columns().items()
            if value is not None
        ]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(LabelledConfig):
    """How a prediction file is evaluated; see :func:`fashionbatch.evaluate`."""

    type_column: str | None = option(
        None, "Table: column with the type of the class, such as upper; figures for each type."
    )
    by: str | None = option(None, "Table: a column, such as brand; figures for each of its values.")
    against: Location | None = option(
        None, "Another prediction file of the same items: what is won, what is lost."
    )
    precision: float = option(
        0.95, "Share that must be right of what the model is trusted with.", min=0, max=1
    )
    calibrate: bool = option(
        False,
        "Store the temperature that fits with the model, for later predictions. Evaluate a "
        "validation split for that, predicted with --probabilities.",
    )
    model: Path | None = option(
        None, "Run that made the file, to --calibrate. [default: found in runs/ by its hash]"
    )
    seed: int = option(0, "Seed of everything random.", min=0, max=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None and not self.calibrate:
            raise UsageError("--model names what to --calibrate: add that, or leave it out")

    def columns(self) -> dict[str, str | None]:
        """See :class:`LabelledConfig`."""
        return {**super().columns(), "type_column": self.type_column, "by": self.by}


@dataclass(frozen=True, kw_only=True)
class AuditConfig(LabelledConfig):
    """How the labels of a prediction file are audited; see :func:`fashionbatch.audit`."""

    features: str | None = option(
        None, "Layer whose features are looked at. [default: the one that is stored]"
    )
    folds: int = option(
        5, "Parts of the items: each is judged by what was learnt from the others.", min=2, max=100
    )
    similar: float = option(
        0.98, "Cosine of the features from which two items are twins.", min=-1, max=1
    )
    deviations: float = option(
        3.0,
        "Outliers are less similar to their tenth neighbour than others by so many robust standard "
        "deviations.",
        above=0,
    )
    catalog: Location | None = option(
        None,
        "Folder of images or of shards that was predicted, to draw from. "
        "[default: where it lay then]",
    )
    sheets: bool = option(True, "Draw contact sheets.")
    most: int = option(60, "Items, or pairs, on a sheet.", min=1, max=600)
    output: Path | None = option(
        None, "Folder for tables and sheets. [default: audit/FILE's name]", "--output", "-o"
    )
    seed: int = option(0, "Seed of everything random.", min=0, max=2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(LabelledConfig):
    """What a report shows; see :func:`fashionbatch.report`."""

    output: Path | None = option(
        None, "HTML file to make. [default: reports/FILE's name.html]", "--output", "-o"
    )
    model: Location | None = option(
        None,
        "Run whose model made the file, for curves and heat maps. [default: found in runs/ by its "
        "hash]",
    )
    catalog: Location | None = option(
        None,
        "Folder of images or of shards that was predicted, for pictures. "
        "[default: where it lay then]",
    )
    items: int = option(
        10_000, "Items that can be looked through; of more, mistakes first.", min=1, max=100_000
    )
    thumbnails: int = option(
        1_000, "Items with a picture: doubtful ones first, then some of all classes.", min=0
    )
    heatmaps: int = option(
        60, "Items with a picture of what the model looked at, mistakes first.", min=0
    )
    heatmap: str = option("grad-cam", "Visualizer of these pictures: NAME[:k=v,...].")
    precision: float = option(
        0.95, "Share that must be right of what the model is trusted with.", min=0, max=1
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    seed: int = option(0, "Seed of everything random.", min=0, max=2**63 - 1)
