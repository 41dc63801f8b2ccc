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
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fashionbatch.pipeline.ingest import Ingest
from fashionbatch.shards.write import Job, write
from fashionbatch.sources import Item, Source

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


class Chosen(Source):
    """The chosen images as PNG files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self) -> Iterator[Item]:
        """See :class:`fashionbatch.Source`."""
        random = np.random.default_rng(SEED)
        for origin, splits in (("train", ("train", "val")), ("t10k", ("test",))):
            images = read_idx(self.folder / f"{origin}-images-idx3-ubyte.gz")
            labels = read_idx(self.folder / f"{origin}-labels-idx1-ubyte.gz")
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
    manifest = write(
        Job(
            source=Chosen(Path(sys.argv[1])),
            output=Path(__file__).parent / "fashion-mnist",
            prepare=Ingest(check="decode"),
            about={
                "name": "Fashion-MNIST",
                "license": "MIT",
                "per_class": PER_CLASS,
                "seed": SEED,
            },
            replace=True,
            sample=True,
        )
    )
    print(f"{manifest.items} images in {len(manifest.shards)} shards")


if __name__ == "__main__":
    main()
