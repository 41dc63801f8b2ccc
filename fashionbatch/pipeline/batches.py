"""Rows of a data set → batches for a network, in the same order whatever the number of workers.

The order is a list of batches made before anything is read. Worker ``w`` of ``W`` makes the batches
``w, w + W, ...`` and the loader takes them in turn, so workers change the speed and nothing else.

A loader cannot go on without a worker that hangs or was killed, and does not know at which image.
So each worker has a pool of one process beside it, which decodes and can be replaced.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import webdataset
from torch import Tensor
from torch.utils.data import get_worker_info

from fashionbatch.errors import FashionbatchError, ImageError
from fashionbatch.pipeline.foresight import announce
from fashionbatch.pipeline.images import Images
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.pool import Limits, Pool
from fashionbatch.pipeline.pool.nursery import can_fork
from fashionbatch.pipeline.transforms import augment
from fashionbatch.specs import Preprocessing

_MOST_WORKERS = 8
#: batches that are decoded while a worker is busy with the one before them
_AHEAD = 2


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

    An image that crashes or hangs the decoder, or takes more time or memory than
    :class:`fashionbatch.pipeline.pool.Limits` allow, is among the failures of its batch; not so
    without workers, and where the system cannot fork.

    Args:
        images: where the bytes come from; pickled to the workers where the system cannot fork.
        order: which rows make which batch.
        preprocessing: fits each image to the input.
        workers: processes that make batches; 0 does it in this one.
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
    """Worker processes without ``--workers``, at least one: on a CPU the network needs the cores
    itself."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(_MOST_WORKERS, cores - 1 if device != "cpu" else cores // 2))


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
        apart = get_worker_info() is not None and can_fork()
        try:
            yield from self._apart(list(numbered)) if apart else self._here(numbered)
        except FashionbatchError as error:
            # handed over as a value: the loader would fold a traceback into its message
            yield error

    def _here(self, numbered: Iterator[tuple[int, npt.NDArray[np.int64]]]) -> Iterator[Batch]:
        side = self.preprocessing.size
        for number, rows in numbered:
            pixels = np.empty((len(rows), side, side, 3), np.uint8)
            failures: dict[int, ImageError] = {}
            announce(self.images, rows.tolist())
            for place, row in enumerate(rows.tolist()):
                try:
                    pixels[place] = load(self.images.read(row), self.preprocessing)
                except ImageError as error:
                    failures[place] = error
            yield self._batch(number, rows, torch.from_numpy(pixels), failures)

    def _apart(self, numbered: Sequence[tuple[int, npt.NDArray[np.int64]]]) -> Iterator[Batch]:
        """By a process beside this one."""
        most = max((len(rows) for _, rows in numbered), default=0)
        with Pool(
            self.images,
            self.preprocessing,
            batch_size=max(1, most),
            workers=1,
            limits=Limits(),
            ahead=_AHEAD,
        ) as pool:
            for loaded in pool.batches(rows for _, rows in numbered):
                pixels = loaded.images.permute(0, 2, 3, 1)
                batch = self._batch(
                    numbered[loaded.number][0], loaded.rows, pixels, loaded.failures
                )
                loaded.release()
                yield batch

    def _batch(
        self,
        number: int,
        rows: npt.NDArray[np.int64],
        pixels: Tensor,
        failures: Mapping[int, ImageError],
    ) -> Batch:
        """A batch of what is good among uint8 ``[N, side, side, 3]``, in memory of its own."""
        good = np.array([place for place in range(len(rows)) if place not in failures], np.int64)
        chosen = pixels[torch.from_numpy(good)].permute(0, 3, 1, 2)  # channels last
        return Batch(
            number=number,
            rows=rows[good],
            images=augment(chosen, self.order.augment, self.order.generator(number)),
            failures=tuple((int(rows[place]), error) for place, error in failures.items()),
        )


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _quiet_worker(worker: int) -> Any:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the process that trains says when to end
