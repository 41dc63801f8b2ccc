"""How fast a bulk prediction is, beside what it could be and beside the loop a user would write.

    uv run python tests/benchmarks/predict.py FOLDER [--backbone NAME] [--weights NAME]
        [--engine NAME] [--items N] [--loop-items N] [--batch-size N] [--repeats N]
        [--device NAME] [--workers N] [--memory] [--json FILE]

FOLDER holds class folders of photographs. Side by side in one run, in turn, medians over the
repeats (of a ratio: of its values within a repeat, which a machine whose speed changes disturbs
least):

- the bare engine on a batch that lies in memory;
- ``predict`` with its features, end to end: reading, decoding, the network, the parts, the merge;
  and the same without features;
- torchvision's ``ImageFolder`` and ``DataLoader`` with the network as it is, by 0 and 2 workers;
- timm's reader (``create_dataset``, ``create_loader``) likewise, where it is installed.

Times are of the stream of images: imports, loading the model and preparing the engine left out, on
both sides; those of ``predict`` run from its plan to the merged file, so about a second of starting
and ending is in them. The loops, whose rate does not depend on it, run over fewer images; with
``--loop-items 0`` they are left out. With
``--memory`` only the peak memory of predicting N and 10 N images is measured, each in a process of
its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import v2

import fashionbatch
from fashionbatch.config import PredictConfig
from fashionbatch.inference import job as jobs
from fashionbatch.inference import plan as plans
from fashionbatch.models import card as cards
from fashionbatch.models import choice

MEMORY = """
import pathlib, re, sys
import fashionbatch
fashionbatch.predict(sys.argv[1], model=sys.argv[2], output=sys.argv[3], limit=int(sys.argv[4]),
                     engine="eager", batch_size=32, restart=True, device="cpu")
# not getrusage: that begins with what the process had that started this one
print(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


def user_loop(folder: Path, model: Any, size: int, given: Any, workers: int) -> float:
    """Images a second of the loop that a user would write."""
    change = v2.Compose(
        [v2.Resize(size), v2.CenterCrop(size), v2.ToImage(), v2.ToDtype(torch.float32)]
    )
    data = Subset(datasets.ImageFolder(folder, change), range(given.loop_items))
    loader = DataLoader(data, given.batch_size, num_workers=workers)
    return run_loop(loader, model, given)


def timm_loop(folder: Path, model: Any, size: int, given: Any, workers: int) -> float | None:
    """The same with timm's reader."""
    try:
        from timm.data import create_dataset, create_loader
    except ImportError:
        return None
    data = create_dataset("", root=str(folder))
    loader = create_loader(
        data, (3, size, size), given.batch_size, use_prefetcher=False, num_workers=workers,
        mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255),
    )  # fmt: skip
    return run_loop(itertools.islice(loader, given.loop_items // given.batch_size), model, given)


def run_loop(loader: Any, model: Any, given: Any) -> float:
    """Runs the network over a loader's batches, and keeps what it says."""
    kept, count = [], 0
    began = time.perf_counter()
    with torch.inference_mode():
        for images, _ in loader:
            outputs = model(images.to(given.device))
            kept.append((outputs.logits.softmax(1).topk(5), outputs.bottleneck))
            count += len(images)
    return count / (time.perf_counter() - began)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--items", type=int, default=960)
    parser.add_argument("--loop-items", type=int, default=192, help="of the users' loops")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--memory", action="store_true", help="measure the memory only")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(given, Path(scratch))


def measure(given: Any, base: Path) -> None:
    """All of it, in a folder of its own."""
    shards = base / "shards"
    fashionbatch.shard(given.folder, output=shards, split="train=0.9,val=0.1", seed=0)
    # a run to predict with: of the network's weights only the head's are trained, for one step
    trained = fashionbatch.train(
        data=shards, backbone=given.backbone, weights=given.weights, output=base, name="run",
        epochs=1, limit=32, batch_size=32, augment="none", unfreeze="none", freeze_epochs=0,
        device=given.device,
    )  # fmt: skip
    run = Path(trained["run"])
    if given.memory:
        peaks = {}
        for items in (given.items, 10 * given.items):
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, shards, run, base / "m.h5", str(items)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            peaks[items] = int(done.stdout.split()[-1]) / 1024
        few, many = peaks.values()
        print(f"{given.backbone}: peak memory {few:.0f} MiB for {given.items} images, {many:.0f} "
              f"MiB for ten times as many: x {many / few:.3f}")  # fmt: skip
        return
    model, card = cards.load(run)
    model = model.to(given.device)
    size = card.preprocessing.size
    options: dict[str, Any] = {
        "model": run, "engine": given.engine, "batch_size": given.batch_size,
        "limit": given.items, "device": given.device, "restart": True, "workers": given.workers,
    }  # fmt: skip
    config = PredictConfig(**{k: v for k, v in options.items() if k != "model"})
    plan = plans.make(shards, split=None, limit=given.items)
    job = jobs.prepare(plan, run, config, base / "x.h5", lambda event, values: None)
    component, engine_options = choice.find(given.engine, job.device)
    bare = choice.make(component, engine_options, job.engine_job())
    rates: dict[str, list[float]] = {}

    def note(name: str, rate: float | None) -> None:
        if rate is not None:
            rates.setdefault(name, []).append(rate)

    for repeat in range(given.repeats + 1):
        if repeat == 1:
            rates.clear()  # the first warms up
        batches = max(3, given.items // given.batch_size // 2)
        images = torch.randint(0, 256, (given.batch_size, 3, size, size), dtype=torch.uint8)
        images = images.to(memory_format=torch.channels_last)
        began = time.perf_counter()
        for _ in range(batches):
            for answer in bare.run(images):
                answer.cpu()
        note("bare engine", batches * given.batch_size / (time.perf_counter() - began))
        kinds = [("predict", "pooled"), ("predict, no features", "none")]
        for name, features in kinds if repeat % 2 else reversed(kinds):
            ticks: list[float] = []
            result = fashionbatch.predict(
                shards, output=base / "p.h5", features=features,
                tell=lambda e, v, t=ticks: t.append(time.perf_counter()) if e == "plan" else None,
                **options,
            )  # fmt: skip
            # from the plan to the merged file, warm-up of the decoders included
            note(name, result["items"] / (time.perf_counter() - ticks[0]))
        if given.loop_items:
            for workers in (0, 2):
                rate = user_loop(given.folder, model, size, given, workers)
                note(f"ImageFolder, {workers} workers", rate)
            note("timm's reader, 2 workers", timm_loop(given.folder, model, size, given, 2))
        if given.repeats == 0:
            break
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{given.backbone} ({given.weights}), {given.engine}, batches of {given.batch_size}, "
          f"{given.items} photographs at {size} px, {torch.get_num_threads()} threads, "
          f"{given.repeats} repeats, {job.device}")  # fmt: skip
    for name, rate in median.items():
        print(f"{name:28}{rate:10.1f} img/s")
    loops = [name for name in median if name.startswith("ImageFolder")]
    pairs = {
        "predict ÷ bare engine": ("predict", "bare engine"),
        "predict ÷ ImageFolder's loop": ("predict", max(loops, key=median.__getitem__, default="")),
        "features on ÷ off": ("predict", "predict, no features"),
        "predict ÷ timm's loop": ("predict", "timm's reader, 2 workers"),
    }
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))
        for name, (one, other) in pairs.items()
        if other in rates
    }
    for name, ratio in ratios.items():
        print(f"{name:28}{ratio:10.3f}")
    if given.json:
        given.json.write_text(json.dumps({"images_per_second": median, "ratios": ratios}) + "\n")


if __name__ == "__main__":
    main()
