"""Attention pooling beside average pooling on a frozen network: prints one table, writes JSON.

    uv run python tests/benchmarks/attention.py FOLDER [--backbone NAME] [--weights imagenet]
        [--epochs N] [--seeds N] [--limit N] [--json FILE]

FOLDER is a data set made by ``fashionbatch shard``. For each seed the same head is trained for as
many epochs on the features of NAME and on those of attention-NAME, whose attention learns with it;
no random views, the base frozen. The best epoch, by validation loss, is the one that is measured,
on those same images.

Two standard errors are told, of what another seed and of what other photographs would change: over
the seeds, and over the validation photographs, each with its mean over the seeds. Runs go to a
temporary folder.
"""

from __future__ import annotations

import argparse
import json
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
    right: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for prefix, mode in _MODES.items():
            name = prefix + given.backbone
            began = time.perf_counter()
            made = [_trained(given, name, seed, mode, Path(scratch)) for seed in range(given.seeds)]
            right[prefix] = np.stack([answers for answers, _ in made])
            figures[name] = {
                "top1": _over(right[prefix].mean(axis=1)),
                "top1_of_images": _over(right[prefix].mean(axis=0)),
                "loss": _over(np.array([loss for _, loss in made])),
                "seconds": round(time.perf_counter() - began),
            }
    apart = right["attention-"] - right[""]
    figures["difference"] = {
        "top1": _over(apart.mean(axis=1)), "top1_of_images": _over(apart.mean(axis=0)),
    }  # fmt: skip
    print(f"{'':32} {'val top-1':>9} {'± seeds':>8} {'± images':>8} {'val loss':>9} {'± seeds':>8}")
    for name, row in figures.items():
        mean, seeds = row["top1"]
        line = f"{name:32} {mean:9.4f} {seeds:8.4f} {row['top1_of_images'][1]:8.4f}"
        print(line + (f" {row['loss'][0]:9.4f} {row['loss'][1]:8.4f}" if "loss" in row else ""))
    told = {"epochs": given.epochs, "seeds": given.seeds, "images": apart.shape[1], **figures}
    print(json.dumps(told))
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n")


def _trained(
    given: argparse.Namespace, name: str, seed: int, mode: dict[str, Any], scratch: Path
) -> tuple[np.ndarray, float]:
    """Which validation photographs are answered rightly, float ``[N]``, and the loss over them."""
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
    file = scratch / f"{name}-{seed}.h5"
    fashionbatch.predict(given.folder, split="val", model=run["run"], output=file, engine="eager")
    with fashionbatch.open_predictions(file) as predictions:
        answers = (predictions.topk_index[:, 0] == predictions.labels).astype(np.float64)
    return answers, float(run["val"]["loss"])


def _over(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
