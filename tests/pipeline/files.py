"""Files in memory, ordinary and hostile ones, as images of a pool."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from mmap import mmap
from pathlib import Path

import numpy as np

from fashionbatch.pipeline.pool import Limits, Pool
from fashionbatch.specs import Preprocessing


class Files:
    """Images of a pool; ``read_by`` and ``reads`` say which process read each last, how often."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = files
        # seen by all processes that are forked
        self.read_by = np.frombuffer(mmap(-1, 8 * max(1, len(files))), np.int64)
        self.reads = np.frombuffer(mmap(-1, 8 * max(1, len(files))), np.int64)

    def read(self, row: int) -> bytes:
        """The bytes of a row."""
        self.read_by[row] = os.getpid()
        self.reads[row] += 1
        return self.files[row]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    image = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + header + image + chunk(b"IEND", b"")


def resized_header(jpeg: bytes, width: int, height: int) -> bytes:
    """A baseline JPEG that declares another size."""
    data = bytearray(jpeg)
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def descendants(process: int) -> set[int]:
    """Processes that a process started, and those started in turn, that have not been reaped."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    found, new = set(), {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def pooled(
    images: Files,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 4,
    workers: int = 1,
    limits: Limits | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Each image through a pool: uint8 ``[N, size, size, 3]``, and the reasons of failures."""
    count = len(images.files)
    found = np.full((count, preprocessing.size, preprocessing.size, 3), 77, np.uint8)
    failures: dict[int, str] = {}
    order = [
        np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)
    ]
    limits = limits or Limits()
    with Pool(images, preprocessing, batch_size=batch_size, workers=workers, limits=limits) as pool:
        for expected, loaded in enumerate(pool.batches(order)):
            assert loaded.number == expected
            assert loaded.rows.tolist() == order[expected].tolist()
            pixels = loaded.images.permute(0, 2, 3, 1).numpy()
            found[loaded.rows] = pixels[: len(loaded.rows)]
            assert not pixels[len(loaded.rows) :].any()
            for place, error in loaded.failures.items():
                failures[int(loaded.rows[place])] = error.reason
                assert not pixels[place].any() and "\n" not in str(error)
            loaded.release()
    return found, failures
