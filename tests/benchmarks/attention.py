"""Attention pooling beside average pooling on a frozen network: prints one table, writes JSON.

    uv run python tests/benchmarks/attention.py FOLDER [--backbone NAME] [--weights imagenet]
        [--epochs N] [--seeds N] [--limit N] [--json FILE]

FOLDER is a data set made by ``fashionbatch shard``. For each seed the same head is trained for as
many epochs on the features of NAME and on those of attention-NAME, whose attention learns with it;
no random views, the base frozen. The best epoch, by validation loss, is the one that is measured,
on those same images.

Two standard errors are told: over the seeds, and that of a share of so few photographs, which other
photographs would change. Runs go to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fashionbatch

_MODES: dict[str, dict[str, Any]] = {
    "": {"mode": "bottleneck"},
    "attention-": {
        "unfreeze": "blocks:1", "freeze_epochs": 0, "prefix_cache": True, "augment": "none",
    },
}  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds is at least 2: one seed has no standard error")
    figures: dict[str, Any] = {}
    top1: list[np.ndarray] = []
    with fashionbatch.open_shards(given.folder) as shards:
        images = min(len(shards.select("val")), given.limit or len(shards))
    with tempfile.TemporaryDirectory() as scratch:
        for prefix, mode in _MODES.items():
            name = prefix + given.backbone
            began = time.perf_counter()
            made = [_trained(given, name, seed, mode, Path(scratch)) for seed in range(given.seeds)]
            top1.append(np.array([each["top1"] for each in made]))
            mean, error = _over(top1[-1])
            figures[name] = {
                "top1": (mean, error),
                "top1_of_images": float(np.sqrt(mean * (1 - mean) / images)),
                "loss": _over(np.array([each["loss"] for each in made])),
                "seconds": round(time.perf_counter() - began),
            }
    print(f"{'':32} {'val top-1':>9} {'± seeds':>8} {'± images':>8} {'val loss':>9} {'± seeds':>8}")
    for name, row in figures.items():
        (mean, seeds), (loss, losses) = row["top1"], row["loss"]
        print(f"{name:32} {mean:9.4f} {seeds:8.4f} {row['top1_of_images']:8.4f} ", end="")
        print(f"{loss:9.4f} {losses:8.4f}")
    apart = _over(top1[1] - top1[0])
    print(f"{'difference':32} {apart[0]:9.4f} {apart[1]:8.4f}")
    told = {
        "epochs": given.epochs, "seeds": given.seeds, "images": images, "difference": apart,
        **figures,
    }  # fmt: skip
    print(json.dumps(told))
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n")


def _trained(
    given: argparse.Namespace, name: str, seed: int, mode: dict[str, Any], scratch: Path
) -> dict[str, float]:
    """Of the validation photographs."""
    run = fashionbatch.train(
        data=given.folder,
        backbone=name,
        weights=given.weights,
        epochs=given.epochs,
        limit=given.limit,
        seed=seed,
        name=f"{name}-{seed}",
        output=scratch / "runs",
        **mode,
    )
    print(f"{name} {seed}: {run['val']}", file=sys.stderr, flush=True)
    found: dict[str, float] = run["val"]
    return found


def _over(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
