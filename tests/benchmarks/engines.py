"""How fast each installed engine is, bare: prints one table, writes JSON.

    uv run python tests/benchmarks/engines.py [--backbone NAME] [--weights imagenet|none|FILE]
        [--batch-size N] [--repeats N] [--threads N] [--layer NAME] [--img-size N] [--device cpu]
        [--engines a,b] [--json FILE]

Every engine runs the same batch, a tensor in memory; a batch of each in turn, medians over the
repeats. Preparation is timed twice: with an empty cache, in a process that has imported nothing but
torch, and again in another one with the cache that the first one left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from fashionbatch import EngineJob, registry
from fashionbatch.models.build import build, find_backbone, load_weights
from fashionbatch.models.engine import Engine
from fashionbatch.models.features import FeatureTap
from fashionbatch.specs import EngineSpec

CLASSES = 50


def job_of(given: argparse.Namespace, cache: Path) -> EngineJob:
    """A network with its head, always with the same random weights."""
    torch.manual_seed(0)
    component, spec = find_backbone(given.backbone)
    size = given.img_size or spec.preprocessing.size
    model = build(component, spec.preprocessing.with_size(size), spec.head, CLASSES)
    load_weights(model.backbone, spec, given.weights)
    return EngineJob(
        module=FeatureTap(model, given.layer).eval(),
        shape=(given.batch_size, 3, size, size),
        device=torch.device(given.device),
        threads=given.threads,
        cache=cache,
        key=hashlib.sha256(repr((given.backbone, given.weights, given.layer)).encode()).hexdigest(),
    )


def prepare(name: str, job: EngineJob) -> tuple[Engine, float]:
    """An engine, and the seconds until it has answered its first batch."""
    component = registry.find("engine", name)
    began = time.perf_counter()
    engine: Engine = registry.create(component, job)
    images = torch.zeros(job.shape, dtype=torch.uint8).to(memory_format=torch.channels_last)
    run(engine, images)
    return engine, time.perf_counter() - began


def run(engine: Engine, images: torch.Tensor) -> None:
    """A batch, until its answers are on the CPU."""
    for answer in engine.run(images):
        answer.cpu()


def engines(given: argparse.Namespace) -> list[str]:
    """Names of those that run here; says why of the others."""
    names = []
    for component in registry.components("engine"):
        spec = component.spec
        assert isinstance(spec, EngineSpec)
        if given.engines and spec.name not in given.engines.split(","):
            continue
        reason = None if given.device in spec.devices else f"does not run on {given.device}"
        if reason is None and spec.missing is not None:
            reason = registry.resolve(spec.missing)(given.device)
        if reason:
            print(f"{spec.name}: {reason}")
        else:
            names.append(spec.name)
    return names


def elsewhere(name: str, cache: Path) -> float:
    """Seconds of preparation in a process of its own."""
    command = [sys.executable, *sys.argv, "--prepare", name, "--cache", str(cache)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--layer", default="pooled")
    parser.add_argument("--img-size", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engines")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        print(prepare(given.prepare, job_of(given, given.cache))[1])
        return
    # each engine keeps its files in a cache of its own here, inductor too
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as cache:
        job = job_of(given, Path(cache))
        random = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, job.shape, generator=random, dtype=torch.uint8)
        images = images.to(memory_format=torch.channels_last)
        if job.device.type == "cuda":
            images = images.pin_memory()
        made = {}
        for name in engines(given):
            figures[name] = {
                "preparation": elsewhere(name, Path(cache)),
                "preparation_cached": elsewhere(name, Path(cache)),
            }
            made[name], _ = prepare(name, job)
        times: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(given.repeats):
            for name, engine in made.items():
                began = time.perf_counter()
                run(engine, images)
                times[name].append(time.perf_counter() - began)
        for name, engine in made.items():
            seconds = statistics.median(times[name])
            figures[name] |= {
                "images_per_second": given.batch_size / seconds,
                "spread": (max(times[name]) - min(times[name])) / seconds,
                "details": dict(engine.details),
            }
            engine.close()
    size = job.shape[-1]
    print(f"{given.backbone} ({given.weights}), batch {given.batch_size}, {size} x {size}, "
          f"{given.device}, {given.threads} threads, {given.repeats} repeats")  # fmt: skip
    print(f"{'':14}{'images/s':>10}{'spread':>8}{'x eager':>9}{'prepared':>10}{'cached':>8}")
    eager = figures.get("eager", {}).get("images_per_second", float("nan"))
    for name, row in figures.items():
        rate = row["images_per_second"]
        print(f"{name:14}{rate:10.1f}{row['spread']:8.0%}{rate / eager:9.2f}"
              f"{row['preparation']:8.1f} s{row['preparation_cached']:6.1f} s")  # fmt: skip
    if given.json:
        given.json.write_text(
            json.dumps(
                {
                    "backbone": given.backbone, "weights": given.weights, "shape": job.shape,
                    "device": given.device, "threads": given.threads, "repeats": given.repeats,
                    "layer": given.layer, "machine": platform.machine(), "engines": figures,
                },
                indent=2,
            ) + "\n"
        )  # fmt: skip


if __name__ == "__main__":
    main()
