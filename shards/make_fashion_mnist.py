"""Makes ``shards/fashion-mnist``: a balanced part of Fashion-MNIST, as PNG files in shards.

Fashion-MNIST: Xiao, Rasul and Vollgraf 2017, MIT licence (see ``fashion-mnist.LICENSE``). Its four
gzipped IDX files are in Debian's package ``dataset-fashion-mnist``.

    python shards/make_fashion_mnist.py FOLDER_OF_THE_IDX_FILES

The same files make the same bytes: 400 training, 50 validation (both from the 60,000) and 100 test
images (from the 10,000) of each class, chosen with a fixed seed.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fashionbatch.pipeline import decode
from fashionbatch.shards import write
from fashionbatch.sources import Item

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
PER_CLASS = {"train": 400, "val": 50, "test": 100}
SEED = 0


def read_idx(path: Path) -> np.ndarray:
    """uint8 array of a gzipped IDX file (LeCun's format: two zeros, type, dimensions, sizes)."""
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def items(folder: Path) -> Iterator[Item]:
    """The chosen images as PNG files."""
    random = np.random.default_rng(SEED)
    for origin, splits in (("train", ("train", "val")), ("t10k", ("test",))):
        images = read_idx(folder / f"{origin}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{origin}-labels-idx1-ubyte.gz")
        for number, name in enumerate(CLASSES):
            chosen = iter(random.permutation(np.flatnonzero(labels == number)).tolist())
            for split in splits:
                for _ in range(PER_CLASS[split]):
                    row = next(chosen)
                    file = io.BytesIO()
                    Image.fromarray(images[row]).save(file, "PNG", optimize=True)
                    yield Item(
                        name=f"{split}/{name}/{origin}-{row:05d}.png",
                        data=file.getvalue(),
                        label=name,
                        split=split,
                    )


def main() -> None:
    """Writes the data set beside this script."""
    planned, classes = write.plan(
        items(Path(sys.argv[1])),
        split=None,
        default_split={},
        allow_missing_classes=False,
        seed=SEED,
    )
    manifest = write.write_shards(
        planned,
        classes,
        Path(__file__).parent / "fashion-mnist",
        check=lambda data: decode.inspect(data, "decode"),
        samples_per_shard=1000,
        workers=os.cpu_count() or 1,
        source={"name": "Fashion-MNIST", "license": "MIT", "per_class": PER_CLASS, "seed": SEED},
        exist_ok=True,
        sample=True,
    )
    print(f"{manifest.items} images in {len(manifest.shards)} shards")


if __name__ == "__main__":
    main()
