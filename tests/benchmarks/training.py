"""How fast training is, beside what it could be: prints one table, writes JSON.

    uv run python tests/benchmarks/training.py FOLDER [--repeats N] [--limit N] [--backbone NAME]
        [--weights imagenet|none] [--blocks N] [--epochs N] [--device cpu] [--engine NAME]
        [--only head|prefix|step] [--json FILE]

FOLDER is a data set made by ``fashionbatch shard``. Three comparisons, each of them side by side in
one run, medians over the repeats:

- all 30 epochs of the head on frozen features (``--recipe fast`` without early stopping), computing
  them included, beside one predict pass over the same images, each with the engine that it finds to
  be the quickest;
- ``--unfreeze blocks:N`` with ``--prefix-cache`` beside the loop without it, over all epochs,
  computing the cache included; and an epoch of each once the cache is there;
- a step of the loop end to end, reading, decoding and augmenting included, beside the same step on
  a batch that lies on the device already.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import fashionbatch
from fashionbatch.config import TrainConfig
from fashionbatch.training import feed
from fashionbatch.training import job as jobs
from fashionbatch.training import run as runs
from fashionbatch.training.loop import Loop
from fashionbatch.training.task import TrainingBatch

#: steps of which the mean is taken, and two before that warm up
_FEWEST = 5


class Once:
    """A task whose every batch is the first one, on the device."""

    def __init__(self, task: Any, device: torch.device) -> None:
        self.task = task
        batch = next(iter(task.train_batches(0)))
        self.batch = TrainingBatch(
            tuple(i.to(device) for i in batch.inputs), batch.targets.to(device), batch.keys
        )

    def steps(self) -> int:
        """As many as the real one's."""
        return self.task.steps()

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
        """The same one over and over."""
        return (self.batch for _ in range(start, self.steps()))

    def batches(self, split: str) -> Iterator[TrainingBatch]:
        """One."""
        return iter([self.batch])

    def forward(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        """The real one's."""
        return self.task.forward(inputs)


def timed(task: Any) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--only", choices=("head", "prefix", "step"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    common: dict[str, Any] = {
        "data": given.folder, "backbone": given.backbone, "weights": given.weights,
        "limit": given.limit, "device": given.device, "exist_ok": True,
    }  # fmt: skip
    tuning = {
        "epochs": given.epochs, "freeze_epochs": 0, "unfreeze": f"blocks:{given.blocks}",
        "augment": "none",
    }  # fmt: skip
    times: dict[str, list[float]] = {}
    top1: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        base = Path(scratch)

        def train(name: str, **options: Any) -> dict[str, Any]:
            seconds: list[float] = []
            result = fashionbatch.train(
                name=name, output=base / name, **common, **options,
                tell=lambda e, v: seconds.append(v["seconds"]) if e == "epoch" else tell(e, v),
            )  # fmt: skip
            times.setdefault(f"{name}, an epoch", []).append(statistics.median(seconds))
            top1.setdefault(name, []).append(result["val"]["top1"])
            return result

        def tell(event: str, values: dict[str, Any]) -> None:
            if event in ("engine", "plan") and "engine" in values:
                engines.add(values["engine"])

        def predict(model: str) -> None:
            # a limit is one of each split
            for split in (None,) if given.limit is None else splits:
                fashionbatch.predict(
                    given.folder, model=model, split=split, limit=given.limit, tell=tell,
                    engine=given.engine, device=given.device, output=base / f"{split}.h5",
                    restart=True,
                )  # fmt: skip

        engines: set[str] = set()
        splits = list(fashionbatch.open_shards(given.folder).manifest.splits)
        for repeat in range(given.repeats):
            for folder in base.glob("*"):
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
            if given.only in (None, "head"):
                began = time.perf_counter()
                # all of its epochs, whenever the best one was
                fast = {"recipe": "fast", "set": ["patience="]}
                head = train("head", engine=given.engine, **fast)
                times.setdefault("head", []).append(time.perf_counter() - began)
                times.setdefault("predict", []).append(timed(lambda run=head["run"]: predict(run)))
            if given.only in (None, "prefix"):
                for name, cached in (("plain", False), ("cached", True)):
                    began = time.perf_counter()
                    train(name, prefix_cache=cached, seed=repeat, **tuning)
                    times.setdefault(name, []).append(time.perf_counter() - began)
        config = TrainConfig(**common, **{**tuning, "epochs": 1}, name="step", output=base)
        job = jobs.prepare(config, given.folder)
        if job.sampling().steps() < _FEWEST:
            parser.error(f"--limit {given.limit}: a step is timed over {_FEWEST} of them at least")
        task, _ = feed.make_task(job, base, lambda event, values: None)
        tasks = {"step, end to end": task, "step, batch on the device": Once(task, job.device)}
        for _ in range(given.repeats if given.only in (None, "step") else 0):
            for name, chosen in tasks.items():
                ticks: list[float] = []

                def tick(event: str, values: Any, ticks: list[float] = ticks) -> None:
                    if event == "step":
                        ticks.append(time.perf_counter())

                (base / "loop").mkdir()
                Loop(runs.make_setup(job, tick, "step", []), chosen, base / "loop").run(
                    resume=False
                )
                shutil.rmtree(base / "loop")
                steps = [b - a for a, b in itertools.pairwise(ticks[2:])]  # the first ones warm up
                times.setdefault(name, []).append(statistics.mean(steps))
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{given.folder}, {given.backbone} ({given.weights}), blocks:{given.blocks}, "
          f"{given.epochs} epochs, {given.repeats} repeats, {job.device}, "
          f"engines: {', '.join(sorted(engines))}")  # fmt: skip
    for name, seconds in median.items():
        print(f"{name:32}{seconds:10.3f} s")
    pairs = {
        "head ÷ predict pass": ("head", "predict"),
        "plain ÷ cached, in all": ("plain", "cached"),
        "plain ÷ cached, an epoch": ("plain, an epoch", "cached, an epoch"),
        "synthetic ÷ end to end": ("step, batch on the device", "step, end to end"),
    }
    ratios = {
        name: median[one] / median[other] for name, (one, other) in pairs.items() if one in median
    }
    for name, ratio in ratios.items():
        print(f"{name:32}{ratio:10.3f}")
    for name in ("plain", "cached") if "plain" in top1 else ():
        print(f"{name + ', val top-1':32}{', '.join(f'{v:.4f}' for v in top1[name])}")
    if given.json:
        given.json.write_text(
            json.dumps({"seconds": median, "ratios": ratios, "top1": top1}) + "\n"
        )


if __name__ == "__main__":
    main()
