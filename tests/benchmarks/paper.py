"""The paper's comparisons, on real photographs and a small pretrained network: one table.

    uv run python tests/benchmarks/paper.py FOLDER OUTPUT [--epochs N] [--json FILE]

FOLDER is a data set made by ``fashionbatch shard`` with a validation split; the runs, and what is
computed once for all of them, go to OUTPUT. The rows of the paper's
Table 1 are run by their recipes with EfficientNet-Lite0 in place of ResNet-50, 32 images a step,
fewer epochs and no random views, from activations that are computed once for each cut; beside them
one block only, the frozen network (recipe ``fast``), our own finetuning, and a network from random
weights. There is no test split here: the best epoch is chosen on the images that are reported.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import fashionbatch

SMALL = [
    "backbone=efficientnet-lite0", "batch_size=32", "augment=none", "prefix_cache=true",
    "per_class=", "limit_per_split=", "freeze_epochs=1",
]  # fmt: skip
OURS = [
    "unfreeze=blocks:3", "opt=adamw", "lr=0.0005", "weight_decay=0.05", "sched=cosine",
    "warmup_epochs=1", "regularizer=label-smoothing:weight=0.1",
]  # fmt: skip

#: what a row is, its recipe, and what differs from it
ROWS: tuple[tuple[str, str | None, list[str]], ...] = (
    ("last 1 block, Adam 0.001", "table1-1", [*SMALL, "unfreeze=blocks:1"]),
    ("last 2 blocks, Adam 0.001 (row 1)", "table1-1", SMALL),
    ("the same, clip 0.5, L2 kernel and activity 0.01 (row 2)", "table1-2", SMALL),
    ("last 3 blocks, Adam 0.001, early stopping (row 3)", "table1-3", SMALL),
    ("last 3 blocks, SGD 0.0001, early stopping (row 4)", "table1-4", SMALL),
    ("last 3 blocks, RMSProp 0.002, early stopping (row 5)", "table1-5", SMALL),
    ("last 3 blocks, Adam 0.001 (row 6)", "table1-6", SMALL),
    ("frozen, linear head (recipe fast)", "fast", []),
    ("last 3 blocks, AdamW 0.0005, cosine, label smoothing", None, [*SMALL, *OURS]),
    (
        "ResNet-18 at 64 px from random weights",
        None,
        ["backbone=resnet18", "weights=none", "img_size=64", "head_hidden=none", "augment=paper"],
    ),
)


def main() -> None:
    """Trains row after row, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for number, (what, recipe, changes) in enumerate(ROWS, 1):
        epochs = [] if recipe == "fast" else [f"epochs={given.epochs}"]
        result = fashionbatch.train(
            data=given.folder, recipe=recipe, set=[*changes, *epochs],
            output=given.output, name=f"row-{number}", exist_ok=True,
        )  # fmt: skip
        counts = {"best_epoch": result["best_epoch"], "epochs": result["epochs"]}
        found.append({"what": what, **result["val"], **counts})
        print(json.dumps(found[-1]), flush=True)
    print(f"\n{'':58}{'top-1':>8}{'top-3':>8}{'loss':>8}{'best':>6}{'of':>4}")
    for row in found:
        print(
            f"{row['what']:58}{row['top1']:8.4f}{row['top3']:8.4f}{row['loss']:8.4f}"
            f"{row['best_epoch']:6}{row['epochs']:4}"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
