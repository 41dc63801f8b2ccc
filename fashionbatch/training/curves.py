"""``history.csv`` and ``curves.png``: how a training went."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fashionbatch import files


def save_history(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """One row per epoch, columns as in the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    files.write(path, text.getvalue())


def save_curves(path: Path, history: Sequence[dict[str, Any]], title: str) -> None:
    """Loss and top-1 accuracy of training and validation over the epochs, as a PNG."""
    from matplotlib.figure import Figure  # slow to import, and only needed at the end
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    shown = (("loss", "cross-entropy"), ("top1", "top-1 accuracy"))
    for place, (metric, label) in enumerate(shown, 1):
        axes = figure.add_subplot(1, 2, place)
        for split, name in (("train", "training"), ("val", "validation")):
            axes.plot(epochs, [row[f"{split}_{metric}"] for row in history], marker=".", label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title, parse_math=False)
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": "fashionbatch"})
