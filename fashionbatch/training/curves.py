"""``history.csv`` and ``curves.png``: how a training went."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashionbatch import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: in a run's folder
HISTORY = "history.csv"

#: blue and vermilion of Okabe & Ito 2008, which the colour-blind tell apart; and where on the
#: axis, from 0 to 1, the crosses of values that are not finite stand
_SPLITS = (("train", "training", "#0072B2", 0.06), ("val", "validation", "#D55E00", 0.02))
#: what is drawn into one panel, the first of them solid; a panel without columns is left out
_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("loss", (("loss", "loss"),)),
    ("accuracy", (("top1", "top-1"), ("top3", "top-3"))),
    ("attributes", (("attr_recall3", "recall@3"), ("attr_map", "mAP"))),
)
_LINES = (("solid", "o"), ((0, (4, 1.5)), "^"))
#: up to so many epochs each of them gets a dot
_DOTTED = 30
#: from this ratio of the largest loss to the smallest on, a linear axis would press the end flat
_LOG_FROM = 50.0


def save_history(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """One row per epoch, columns as in the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    files.write(path, text.getvalue())


def load_history(path: Path) -> list[dict[str, float]]:
    """What :func:`save_history` has saved; empty where there is nothing. May hold NaN."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    return [{name: _number(text) for name, text in line.items()} for line in lines]


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch of the lowest validation loss, counted from 1; 0 where none is finite."""
    known = [row for row in history if math.isfinite(row.get("val_loss", math.nan))]
    return int(min(known, key=lambda row: row["val_loss"])["epoch"]) if known else 0


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def save_curves(
    path: Path,
    history: Sequence[dict[str, Any]],
    title: str,
    *,
    best_epoch: int = 0,
    freeze_epochs: int = 0,
) -> None:
    """Saves :func:`draw`'s picture as a PNG."""
    figure = draw(history, title, best_epoch=best_epoch, freeze_epochs=freeze_epochs)
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": "fashionbatch"})


def draw(
    history: Sequence[Mapping[str, Any]],
    title: str,
    *,
    best_epoch: int = 0,
    freeze_epochs: int = 0,
) -> Figure:
    """Loss, accuracies and learning rate over the epochs, training and validation in one plot.

    Args:
        history: a row per epoch; of ``train_*`` and ``val_*`` what is known is drawn. Values that
            are not finite leave a gap with a cross below it.
        title: above all.
        best_epoch: counted from 1, marked; 0 for none.
        freeze_epochs: how many of the first had the base frozen.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed at the end
    from matplotlib.ticker import MaxNLocator

    metrics = {key.partition("_")[2] for key in history[0] if key.startswith(("train_", "val_"))}
    panels = [
        (label, [line for line in lines if line[0] in metrics])
        for label, lines in _PANELS
        if metrics & {metric for metric, _ in lines}
    ]
    figure = Figure(figsize=(4.4 * (len(panels) + 1), 4.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for place, (label, lines) in enumerate([*panels, ("learning rate", [])], 1):
        axes = figure.add_subplot(1, len(panels) + 1, place)
        if lines:
            _draw_metrics(axes, epochs, history, lines)
        else:
            rates = [row["lr"] for row in history]
            axes.plot(epochs, rates, color="black", marker=_dot("o", epochs), markersize=4)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylim(bottom=0)
        axes.set_title(label, fontsize="medium", loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        margin = max(0.5, 0.02 * len(epochs))
        axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        named = place == 1  # once for all panels
        if epochs[0] <= freeze_epochs < epochs[-1]:
            frozen = "base frozen" if named else None
            left, right = epochs[0] - margin, freeze_epochs + 0.5
            axes.axvspan(left, right, color="0.92", zorder=0, label=frozen)
        if best_epoch:
            best = f"best epoch ({best_epoch})" if named else None
            axes.axvline(best_epoch, color="0.35", linestyle=":", zorder=1, label=best)
        if named or len(lines) > 1:
            axes.legend(fontsize="small", framealpha=0.85)
    figure.suptitle(title, parse_math=False)
    return figure


def _draw_metrics(
    axes: Axes,
    epochs: Sequence[int],
    history: Sequence[Mapping[str, Any]],
    lines: Sequence[tuple[str, str]],
) -> None:
    drawn: list[float] = []
    for (metric, label), (style, dot) in zip(lines, _LINES, strict=False):
        for split, name, colour, foot in _SPLITS:
            column = f"{split}_{metric}"
            if column not in history[0]:
                continue  # what is dear to compute is known of validation only
            values = [float(row[column]) for row in history]
            drawn += values
            axes.plot(
                epochs,
                [v if math.isfinite(v) else math.nan for v in values],
                color=colour,
                linestyle=style,
                marker=_dot(dot, epochs),
                markersize=4,
                label=name if len(lines) == 1 else f"{name} {label}",
            )
            lost = [e for e, v in zip(epochs, values, strict=True) if not math.isfinite(v)]
            if lost:
                axes.plot(
                    lost,
                    [foot] * len(lost),
                    color=colour,
                    linestyle="none",
                    marker="x",
                    transform=axes.get_xaxis_transform(),
                    label=f"{name} not finite",
                )
    finite = [v for v in drawn if math.isfinite(v)]
    if lines[0][0] == "loss" and finite and max(finite) > _LOG_FROM * min(finite) > 0:
        axes.set_yscale("log")


def _dot(marker: str, epochs: Sequence[int]) -> str:
    return marker if len(epochs) <= _DOTTED else ""
