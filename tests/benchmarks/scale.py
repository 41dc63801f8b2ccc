"""What fashionbatch itself takes for each item, with no network in the middle: up to a million.

    uv run python tests/benchmarks/scale.py FOLDER [--items 10000,100000,1000000] [--shard N]
        [--executor NAME] [--json FILE]

FOLDER is for what is made (about 6 GB for a million items); it is kept, and used again. For each
size small images are packed into shards of N items (1,000 by default) and predicted by an engine
that only adds up pixels; then the file is evaluated and exported, and the same is done with a
folder of parts (``--no-merge``). Every stage is a process of its own; of each are told the seconds,
and the peak of its memory (its children's aside).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import fashionbatch

SIDE = 28
SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
ENGINE = '''
import fashionbatch
import torch

@fashionbatch.hookimpl
def fashionbatch_engines():
    yield fashionbatch.EngineSpec(
        name="sums", factory="fashionbatch_scale:Sums", summary="adds up pixels", automatic=False
    )

class Sums(fashionbatch.Engine):
    """Logits and features from the sums of a few rows of pixels."""

    def __init__(self, job):
        with torch.inference_mode():
            found = job.module(torch.zeros(2, *job.shape[1:], dtype=torch.uint8))
        self.widths = [int(answer[0].numel()) for answer in found]
        self.shapes = [answer.shape[1:] for answer in found]

    def run(self, images):
        rows = images.float().mean(dim=(1, 3)) / 255
        return tuple(
            rows[:, torch.arange(width) % rows.shape[1]].reshape(len(images), *shape)
            for width, shape in zip(self.widths, self.shapes)
        )
'''
#: runs one stage and prints what it took
STAGE = """
import json, pathlib, re, sys, time
began = time.perf_counter()
import fashionbatch
name, (path, options) = sys.argv[1], json.loads(sys.argv[2])
ticks = {}
if name != "evaluate":  # it tells nothing
    options["tell"] = lambda event, values: ticks.update({event: time.perf_counter()})
getattr(fashionbatch, name)(path, **options)
ended = time.perf_counter()
status = pathlib.Path("/proc/self/status").read_text()
print(json.dumps({
    "work": ended - ticks.get("plan", ticks.get("start", began)),
    "merge": ended - ticks.get("progress", ended),
    # not getrusage: that begins with what the process had that started this one
    "peak": int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024,
}))
"""


def main() -> None:
    """Measures, and prints a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", default="10000,100000,1000000")
    parser.add_argument("--shard", type=int, default=1000, help="items of a shard")
    parser.add_argument("--executor", default="local")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    run = prepare(given.folder)
    found: dict[int, dict[str, Any]] = {}
    for items in map(int, given.items.split(",")):
        found[items] = measure(given, run, items)
        print(f"\n{items:,} items in {-(-items // given.shard):,} shards")
        print(f"{'':24}{'seconds':>10}{'µs an item':>12}{'peak MiB':>10}")
        for name, took in found[items].items():
            if "work" in took:
                each = took["work"] / items * 1e6
                print(f"{name:24}{took['work']:10.1f}{each:12.1f}{took['peak']:10.0f}", flush=True)
        sizes = found[items]["bytes"]
        print("bytes an item: " + ", ".join(f"{n} {v / items:.1f}" for n, v in sizes.items()))
    if given.json:
        given.json.write_text(json.dumps(found) + "\n")


def prepare(folder: Path) -> Path:
    """The engine as an installed package, and a run; gives the run's folder."""
    site = folder / "site"
    about = site / "fashionbatch_scale-0.1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (site / "fashionbatch_scale.py").write_text(ENGINE)
    (about / "entry_points.txt").write_text("[fashionbatch]\nscale = fashionbatch_scale\n")
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fashionbatch-scale\nVersion: 0.1\n"
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(site), str(Path(fashionbatch.__file__).parents[1])]
    )
    if not (folder / "runs" / "run" / "model.json").exists():
        fashionbatch.train(
            data=SAMPLE, backbone="small-resnet", weights="none", limit=32, epochs=1, workers=0,
            device="cpu", output=folder / "runs", name="run", exist_ok=True,
        )  # fmt: skip
    return folder / "runs" / "run"


def measure(given: Any, run: Path, items: int) -> dict[str, Any]:
    """All stages for one size."""
    base = given.folder / str(items)
    shards, whole, parts = base / "shards", base / "whole.h5", base / "parts"
    took: dict[str, Any] = {}
    if not (shards / "dataset.json").exists():
        write_images(base / "idx", items)
        took["shard"] = stage(
            "shard", base / "idx", output=shards, samples_per_shard=given.shard, split="train=1",
            class_names=base / "idx" / "classes.txt",
        )  # fmt: skip
        shutil.rmtree(base / "idx")
    predicting = {
        "model": run, "engine": "sums", "batch_size": 256, "restart": True, "device": "cpu",
        "executor": given.executor,
    }  # fmt: skip
    took["predict"] = stage("predict", shards, output=whole, **predicting)
    took["  of it the merge"] = {**took["predict"], "work": took["predict"]["merge"]}
    took["evaluate"] = stage("evaluate", whole)
    took["export csv"] = stage("export", whole, output=base / "out.csv", exist_ok=True)
    took["predict --no-merge"] = stage("predict", shards, output=parts, no_merge=True, **predicting)
    took["evaluate, parts"] = stage("evaluate", parts)
    took["bytes"] = {
        "shards": sum(p.stat().st_size for p in shards.glob("*.tar")),
        "index": (shards / "index.h5").stat().st_size,
        "file": whole.stat().st_size,
        "manifest of parts": (parts / "predictions.json").stat().st_size,
    }
    return took


def stage(name: str, path: Path, **options: Any) -> dict[str, float]:
    """Runs one, in a process of its own."""
    given = json.dumps([str(path), options], default=str)
    done = subprocess.run(
        [sys.executable, "-c", STAGE, name, given], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_images(folder: Path, items: int) -> None:
    """IDX files of images that all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = fashionbatch.open_shards(SAMPLE).classes
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    with (folder / "images-idx3-ubyte").open("wb") as file:
        file.write(np.array([0x803, items, SIDE, SIDE], ">i4").tobytes())
        for start in range(0, items, 10_000):
            number = np.arange(start, min(start + 10_000, items), dtype=np.uint32)
            images = np.zeros((len(number), SIDE, SIDE), np.uint8)
            digits = number[:, None] >> np.arange(0, 32, 8, dtype=np.uint32)
            images[:, :4, :] = (digits & 255).astype(np.uint8)[:, :, None]
            file.write(images.tobytes())
    with (folder / "labels-idx1-ubyte").open("wb") as file:
        file.write(np.array([0x801, items], ">i4").tobytes())
        file.write((np.arange(items) % len(classes)).astype(np.uint8).tobytes())


if __name__ == "__main__":
    main()
