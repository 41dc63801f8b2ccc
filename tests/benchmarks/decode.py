"""From image files to a network's input, in several ways; prints one table, writes JSON.

    python tests/benchmarks/decode.py FOLDER [REPEATS] [--limit N] [--json FILE]

All ways run one after the other in each repeat, on files that are in memory, and the medians are
compared. One thread, and for the pool as many processes as it says, of one thread each, beside the
one that takes the batches; a pool also hashes each file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from fashionbatch.errors import counted
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.pool import Limits, Pool
from fashionbatch.pipeline.transforms import fit, placed
from fashionbatch.specs import Preprocessing

PREPROCESSING = Preprocessing()
BATCH = 32
Way = Callable[[list[bytes]], None]


def one_by_one(function: Callable[[bytes], object]) -> Way:
    """Calls it with each file."""

    def run(files: list[bytes]) -> None:
        for data in files:
            function(data)

    return run


def by_pillow(data: bytes) -> object:
    """Pillow's decoder and resize, as anyone would write it."""
    return fit(Image.open(io.BytesIO(data)).convert("RGB"), PREPROCESSING)


def by_torchvision(data: bytes) -> object:
    """torchvision's decoder, which refuses nothing, and torch's resize of bytes."""
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    image = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    _, _, width, height = placed((image.shape[2], image.shape[1]), PREPROCESSING)
    size = [int(height), int(width)]
    return functional.interpolate(image[None], size, mode="bilinear", antialias=True)


def entropy(data: bytes) -> object:
    """An eighth of the size: all that is coded is read, which tells of missing pixels.

    Whoever has pixels made on a GPU must do as much on a CPU, if half a JPEG is to be refused.
    """
    return simplejpeg.decode_jpeg(data, "RGB", min_height=1, min_width=1, min_factor=8)


class Files:
    """Files in memory, as images of a pool."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def read(self, row: int) -> bytes:
        """The bytes of a row."""
        return self.files[row]


def by_pool(pool: Pool) -> Way:
    """In the processes of a pool that is there already."""

    def run(files: list[bytes]) -> None:
        rows = np.arange(len(files))
        order = (rows[start : start + BATCH] for start in range(0, len(files), BATCH))
        for loaded in pool.batches(order):
            loaded.release()

    return run


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("repeats", type=int, nargs="?", default=5)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(given.folder.rglob("*.jpg"))
    files = [p.read_bytes() for p in paths[:: max(1, len(paths) // given.limit)][: given.limit]]
    ways = {
        "Pillow": one_by_one(by_pillow),
        "torchvision": one_by_one(by_torchvision),
        "load": one_by_one(lambda data: load(data, PREPROCESSING)),
        "finding missing pixels": one_by_one(entropy),
    }
    times: dict[str, list[float]] = {}
    with contextlib.ExitStack() as pools:
        for workers in (1, 2):
            pool = Pool(
                Files(files), PREPROCESSING, batch_size=BATCH, workers=workers, limits=Limits()
            )
            ways[f"Pool, {counted(workers, 'worker')}"] = by_pool(pools.enter_context(pool))
        for _ in range(given.repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                way(files)
                times.setdefault(name, []).append(time.perf_counter() - began)
    rates = {name: len(files) / statistics.median(t) for name, t in times.items()}
    size = sum(map(len, files)) / 1e6
    print(f"{len(files)} JPEGs, {size:.0f} MB, to {PREPROCESSING.size}, {given.repeats} repeats")
    print(f"{'':28}{'img/s':>9}{'× Pillow':>10}")
    for name, rate in rates.items():
        print(f"{name:28}{rate:9,.0f}{rate / rates['Pillow']:10.2f}")
    if given.json:
        given.json.write_text(json.dumps({"items": len(files), "rates": rates}, indent=2) + "\n")


if __name__ == "__main__":
    main()
