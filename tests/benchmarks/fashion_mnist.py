"""The whole of Fashion-MNIST on a CPU: from its files to a test accuracy.

    uv run python tests/benchmarks/fashion_mnist.py FOLDER [OPTION=VALUE ...]

FOLDER holds the four IDX files (Debian's package ``dataset-fashion-mnist`` puts them into
/usr/share/datasets/fashion-mnist). 5,000 of the 60,000 training images are the validation split, on
which the best epoch is chosen; the 10,000 test images are looked at once, at the end. Options of
``fashionbatch.train`` may be given in place of those below.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import fashionbatch

OPTIONS = (
    "epochs=10",
    "batch_size=128",
    "opt=adamw",
    "lr=0.004",
    "weight_decay=0.05",
    "sched=cosine",
    "augment=flip",
)


def main() -> None:
    """Prints a line of JSON."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        began = time.perf_counter()
        fashionbatch.shard(folder, output=base / "shards", split="val=0.08333")
        packed = time.perf_counter()
        trained = fashionbatch.train(
            data=base / "shards",
            backbone="small-resnet",
            weights="none",
            set=[*OPTIONS, *sys.argv[2:]],
            output=base / "runs",
        )
        seconds = time.perf_counter() - began
    figures = {
        "shard_seconds": round(packed - began),
        "seconds_in_all": round(seconds),
        "best_epoch": trained["best_epoch"],
        "val_top1": trained["val"]["top1"],
        "test_top1": trained["test"]["top1"],
        "test_top3": trained["test"]["top3"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
