"""TensorBoard's event files: training and validation as two runs with the same names of plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from fashionbatch.training.logger import Logger


class TensorBoard(Logger):
    """Writes ``tensorboard/train`` and ``tensorboard/val``, which TensorBoard shows in one plot.

    ``epoch/loss``, ``epoch/top1``, ... by epochs from both, and the rest of a row of
    ``history.csv`` from training; ``step/loss`` and ``step/lr`` by steps. The configuration and the
    plan are texts, the figures images.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._writers = {
            split: SummaryWriter(folder / "tensorboard" / split) for split in ("train", "val")
        }
        self._epoch = 0

    def start(self, config: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        """See :class:`fashionbatch.Logger`."""
        for name, values in (("config", config), ("plan", plan)):
            text = json.dumps(values, indent=2, ensure_ascii=False)
            self._writers["train"].add_text(name, f"```json\n{text}\n```")
        self._flush()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`fashionbatch.Logger`."""
        for name, value in values.items():
            self._writers["train"].add_scalar(f"step/{name}", value, step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """See :class:`fashionbatch.Logger`."""
        self._epoch = row["epoch"]
        for name, value in row.items():
            split, _, metric = name.partition("_")
            if split not in self._writers:
                split, metric = "train", name
            if metric != "epoch" and isinstance(value, int | float):
                self._writers[split].add_scalar(f"epoch/{metric}", value, self._epoch)
        self._flush()

    def figure(self, name: str, path: Path) -> None:
        """See :class:`fashionbatch.Logger`."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writers["train"].add_image(name, pixels, self._epoch, dataformats="HWC")

    def close(self) -> None:
        """See :class:`fashionbatch.Logger`."""
        for writer in self._writers.values():
            writer.close()

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()
