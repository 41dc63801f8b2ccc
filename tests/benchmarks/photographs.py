"""The README's figures: a head on frozen EfficientNet-Lite0, on real photographs.

    uv run python tests/benchmarks/photographs.py FOLDER [EPOCHS]

FOLDER holds ``train/CLASS/*.jpg`` and ``validation/CLASS/*.jpg``. Packs it, trains the head,
predicts the validation photographs, and compares the file's accuracy with the training's. The data
set, run and predictions go to a temporary folder.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import fashionbatch


def main() -> None:
    """Prints a table and a line of JSON."""
    folder = Path(sys.argv[1])
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        began = time.perf_counter()
        packed = fashionbatch.shard(folder, output=base / "shards")
        sharded = time.perf_counter()
        trained = fashionbatch.train(
            data=base / "shards",
            backbone="efficientnet-lite0",
            mode="bottleneck",
            epochs=epochs,
            output=base / "runs",
        )
        done = time.perf_counter()
        predicted = fashionbatch.predict(
            base / "shards", split="val", model=trained["run"], output=base / "val.h5"
        )
        with fashionbatch.open_predictions(base / "val.h5") as file:
            top1 = float((file.topk_index[:, 0] == file.labels).mean())
    figures = {
        "photographs": packed["items"],
        "shard_images_per_second": round(packed["items"] / (sharded - began)),
        "train_seconds": round(done - sharded),
        "best_epoch": trained["best_epoch"],
        "val_top1": round(trained["val"]["top1"], 4),
        "val_top3": round(trained["val"]["top3"], 4),
        "val_top1_of_the_prediction_file": round(top1, 4),
        "predict_images_per_second": predicted["images_per_second"],
    }
    for key, value in figures.items():
        print(f"{key:34} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
