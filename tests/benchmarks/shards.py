"""Sharding and reading, beside what else people use; prints one table, writes JSON.

    python tests/benchmarks/shards.py FOLDER [REPEATS] [--json FILE]

FOLDER holds photographs in class folders. All ways run one after the other in each repeat, and the
medians are compared. Files are in the page cache. ``fashionbatch`` reads, checks and hashes every
image and every shard, and syncs the shards to the disk; the others do none of that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import webdataset

import fashionbatch
from fashionbatch.shards.read import ShardSet
from fashionbatch.sources import Item
from fashionbatch.sources.folder import FolderSource

PER_SHARD = 250  # so many that two processes can share 3,409 photographs evenly


def concatenate(items: list[Item], output: Path) -> None:
    """All bytes into one file after another; nothing else."""
    for start in range(0, len(items), PER_SHARD):
        with (output / f"{start:09d}.bin").open("wb", buffering=1 << 20) as file:
            for item in items[start : start + PER_SHARD]:
                with open(item.path, "rb", buffering=0) as image:  # type: ignore[arg-type]  # noqa: PTH123  # items of a folder have paths; the fastest way
                    file.write(image.read())


def shard_writer(items: list[Item], output: Path) -> None:
    """webdataset's own writer, with the members that ours have."""
    pattern = str(output / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=PER_SHARD, verbose=0) as sink:
        for number, item in enumerate(items):
            about = {"name": item.name, "label": item.label, "split": item.split}
            sink.write({"__key__": f"{number:09d}", "jpg": item.read(), "json": about, "cls": 0})


def standard_tar(items: list[Item], output: Path) -> None:
    """Python's tarfile, images only."""
    for start in range(0, len(items), PER_SHARD):
        with tarfile.open(output / f"{start:09d}.tar", "w") as tar:
            for item in items[start : start + PER_SHARD]:
                tar.add(item.path, arcname=item.name)  # type: ignore[arg-type]  # items of a folder have paths


def ours(folder: Path, check: str, workers: int) -> Callable[[list[Item], Path], None]:
    """The whole job: looking through the folder, packing, index, manifest."""

    def run(items: list[Item], output: Path) -> None:
        fashionbatch.shard(
            folder,
            output=output / "set",
            check=check,
            workers=workers,
            samples_per_shard=PER_SHARD,
        )

    return run


def read_webdataset(shards: ShardSet) -> int:
    """Bytes of image, label and JSON of every sample."""
    urls = [str(shards.file(n)) for n in range(len(shards.manifest.shards))]
    count = 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        count += len(sample["json"]) > 0 and len(sample["cls"]) > 0
    return count


def read_tarfile(shards: ShardSet) -> int:
    """Bytes of every member."""
    count = 0
    for number in range(len(shards.manifest.shards)):
        with tarfile.open(shards.file(number)) as tar:
            for member in tar:
                data = tar.extractfile(member)
                count += data is not None and len(data.read()) > 0 and member.name.endswith("cls")
    return count


def read_ours(check: bool) -> Callable[[ShardSet], int]:
    """Bytes, label and name of every image."""

    def run(shards: ShardSet) -> int:
        count = 0
        for row in range(len(shards)):
            data = shards.read(row, check=check)
            count += len(data) > 0 and shards.labels[row] >= 0 and bool(shards.name(row))
        return count

    return run


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("repeats", type=int, nargs="?", default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    items = [i for i in FolderSource(given.folder).items() if isinstance(i, Item)]
    size = sum(os.stat(i.path).st_size for i in items if i.path)
    cores = os.cpu_count() or 1
    writers = {
        "plain concatenation": concatenate,
        "webdataset.ShardWriter": shard_writer,
        "tarfile, images only": standard_tar,
        **{
            f"fashionbatch --check {check} -j {workers}": ours(given.folder, check, workers)
            for check in ("none", "headers", "decode")
            for workers in sorted({1, cores})
        },
    }
    readers = {
        "webdataset": read_webdataset,
        "tarfile": read_tarfile,
        "fashionbatch, each against its SHA-256": read_ours(True),
        "fashionbatch, unchecked": read_ours(False),
    }
    times: dict[str, list[float]] = {name: [] for name in (*writers, *readers)}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        packed = Path(scratch) / "read"
        fashionbatch.shard(given.folder, output=packed, samples_per_shard=PER_SHARD)
        shards = fashionbatch.open_shards(packed)
        for _ in range(given.repeats):
            for name, write in writers.items():
                output = Path(scratch) / "out"
                output.mkdir()
                began = time.perf_counter()
                write(items, output)
                times[name].append(time.perf_counter() - began)
                shutil.rmtree(output)
                os.sync()  # the next one is not to wait for this one's bytes
            for name, read in readers.items():
                began = time.perf_counter()
                assert read(shards) == len(items)
                times[name].append(time.perf_counter() - began)
    rates = {name: len(items) / statistics.median(t) for name, t in times.items()}
    rows = [
        (f"write: {name}", rates[name], rates[name] / rates["plain concatenation"],
         rates[name] / rates["webdataset.ShardWriter"])
        for name in writers
    ] + [
        (f"read: {name}", rates[name], rates[name] / rates["tarfile"],
         rates[name] / rates["webdataset"])
        for name in readers
    ]  # fmt: skip
    print(f"{len(items)} photographs, {size / 1e6:.0f} MB, {cores} cores, {given.repeats} repeats")
    print(f"{'':42}{'img/s':>9}{'× plain':>10}{'× webdataset':>14}")
    for name, rate, plain, wds in rows:
        print(f"{name:42}{rate:9,.0f}{plain:10.2f}{wds:14.2f}")
    print("× plain: of concatenation (write), of tarfile (read)")
    if given.json:
        given.json.write_text(json.dumps({"items": len(items), "rates": rates}, indent=2) + "\n")


if __name__ == "__main__":
    main()
