"""Rows of a data set → batches for a network, in the same order whatever the number of workers.

The order is a list of batches made before anything is read. Worker ``w`` of ``W`` makes the batches
``w, w + W, ...`` and the loader takes them in turn, so workers change the speed and nothing else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import webdataset
from torch import Tensor
from torch.utils.data import get_worker_info

from fashionbatch.errors import FashionbatchError, ImageError
from fashionbatch.pipeline.foresight import announce
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.transforms import augment
from fashionbatch.specs import Preprocessing

_MOST_WORKERS = 8


class Images(Protocol):
    """Whatever gives an image's bytes by its row, in any process."""

    def read(self, row: int) -> bytes:
        """The image file's bytes; raises ImageError where they cannot be used."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Decoded images and the rows they belong to.

    Attributes:
        number: position of the batch in the order.
        rows: int64 ``[N]``; ``images[i]`` is the image of ``rows[i]``.
        images: uint8 ``[N, 3, size, size]``, on the scale 0..255.
        failures: ``(row, error)`` of the images that cannot be used; they are not in ``rows``.
    """

    number: int
    rows: npt.NDArray[np.int64]
    images: Tensor
    failures: tuple[tuple[int, ImageError], ...] = ()

    def pin_memory(self) -> Batch:
        """With its images where a GPU can fetch them from; torch's loader calls this."""
        return replace(self, images=self.images.pin_memory())


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which rows make which batch.

    Attributes:
        batches: int64 arrays of rows.
        start: number of the first one to load; those before it are passed over.
        augment: as of :func:`fashionbatch.pipeline.transforms.augment`.
        seed: with the number of the batch, of its random views.
    """

    batches: Sequence[npt.NDArray[np.int64]]
    start: int = 0
    augment: str = "none"
    seed: Sequence[int] = field(default=(0,))

    @classmethod
    def sequential(cls, rows: npt.NDArray[np.int64], batch_size: int) -> Order:
        """In the order given; the last batch may be smaller."""
        return cls(batches=[rows[i : i + batch_size] for i in range(0, len(rows), batch_size)])

    def generator(self, number: int) -> torch.Generator:
        """What the random views of a batch are drawn from, in its first state."""
        return torch.Generator().manual_seed(_seed(*self.seed, number))


def batches(
    images: Images,
    order: Order,
    preprocessing: Preprocessing,
    *,
    workers: int,
    pinned: bool = False,
) -> Iterator[Batch]:
    """Yields every batch of ``order``, in order.

    Args:
        images: where the bytes come from; pickled to the workers where the system cannot fork.
        order: which rows make which batch.
        preprocessing: fits each image to the input.
        workers: processes that read and decode; 0 does it in this one.
        pinned: with their images in page-locked memory, for a GPU; a thread of its own copies them.

    Raises:
        FashionbatchError: whatever ``images`` raises other than ImageError.
    """
    pipeline = webdataset.DataPipeline(_Numbered(order), _Load(images, order, preprocessing))
    loader = webdataset.WebLoader(
        pipeline,
        batch_size=None,
        num_workers=min(workers, len(order.batches) - order.start),
        worker_init_fn=_quiet_worker,
        pin_memory=pinned,
        # the loader draws a seed: not from the generator that a resumed training goes on with
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, FashionbatchError):
            raise batch
        yield batch


def default_workers(device: str) -> int:
    """Worker processes without ``--workers``: on a CPU the network needs the cores itself."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(_MOST_WORKERS, cores - 1 if device != "cpu" else cores // 2)


class _Numbered:
    """This worker's share of the batches."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __call__(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        # not webdataset.split_by_worker: that believes a WORKER left over in the environment
        info = get_worker_info()
        place, step = (info.id, info.num_workers) if info else (0, 1)
        for number in range(self.order.start + place, len(self.order.batches), step):
            yield number, self.order.batches[number]


class _Load:
    """Reads, decodes and stacks one batch."""

    def __init__(self, images: Images, order: Order, preprocessing: Preprocessing) -> None:
        self.images = images
        self.order = order
        self.preprocessing = preprocessing

    def __call__(
        self, numbered: Iterator[tuple[int, npt.NDArray[np.int64]]]
    ) -> Iterator[Batch | FashionbatchError]:
        for number, rows in numbered:
            try:
                yield self._load(number, rows)
            except FashionbatchError as error:
                # handed over as a value: the loader would fold a traceback into its message
                yield error
                return

    def _load(self, number: int, rows: npt.NDArray[np.int64]) -> Batch:
        side = self.preprocessing.size
        pixels = np.empty((len(rows), side, side, 3), np.uint8)
        good: list[int] = []
        failures: list[tuple[int, ImageError]] = []
        announce(self.images, rows.tolist())
        for row in rows.tolist():
            try:
                pixels[len(good)] = load(self.images.read(row), self.preprocessing)
                good.append(row)
            except ImageError as error:
                failures.append((row, error))
        stacked = torch.from_numpy(pixels[: len(good)]).permute(0, 3, 1, 2)  # channels last
        return Batch(
            number=number,
            rows=np.array(good, np.int64),
            images=augment(stacked, self.order.augment, self.order.generator(number)),
            failures=tuple(failures),
        )


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _quiet_worker(worker: int) -> Any:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the process that trains says when to end
