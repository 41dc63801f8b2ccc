"""Rows → batches of decoded images, by processes that may crash, hang or be killed."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.errors import FashionbatchError, ImageError
from fashionbatch.pipeline.images import Images
from fashionbatch.pipeline.pool.limits import Limits
from fashionbatch.pipeline.pool.nursery import Nursery, Spawner, Starter, can_fork
from fashionbatch.pipeline.pool.shared import Shared
from fashionbatch.pipeline.pool.worker import Failed, Finished, Job, Worker
from fashionbatch.specs import Preprocessing

_SPARE = 2  # buffers beside the workers' own: one that is used, one that is ready
_LOOK_EVERY = 1.0  # seconds: how often the workers are looked at, at least
_MOST_ACCIDENTS = 5  # deaths in a row of which no image can be the cause


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A batch of decoded images, over a buffer that goes round.

    Attributes:
        number: position of the batch in the order.
        rows: int64 ``[N]``, at most a batch.
        images: uint8 ``[batch_size, 3, size, size]``, channels last in memory; ``images[i]`` is the
            image of ``rows[i]``. Places of failures, and from ``N`` on, are black.
        failures: why the image at a place of ``rows`` cannot be used.
        sha256: uint8 ``[N, 32]``, of each file's bytes as read; zeros where they were not.
        release: gives the buffer back; ``images`` must not be used behind it.
    """

    number: int
    rows: npt.NDArray[np.int64]
    images: Tensor
    failures: dict[int, ImageError]
    sha256: npt.NDArray[np.uint8]
    release: Callable[[], None]


@dataclass(kw_only=True, eq=False)
class _Batch:
    """A batch on its way.

    Attributes:
        start: the first place that is not done.
        suspect: the place at which a worker died; a second death there is the image's fault.
        serial: of the job that was last made of it.
        wanted: somebody waits for it.
    """

    number: int
    rows: npt.NDArray[np.int64]
    buffer: int
    start: int = 0
    suspect: int | None = None
    serial: int = 0
    failures: dict[int, ImageError] = field(default_factory=dict)
    done: bool = False
    error: Exception | None = None
    wanted: bool = True


@dataclass(kw_only=True, eq=False)
class _Hand:
    """A worker, and what it has to do.

    Attributes:
        seen: job and place at which it was found, first when the pool had waited ``since`` seconds.
    """

    number: int
    connection: Connection
    todo: deque[_Batch] = field(default_factory=deque)
    seen: tuple[int, int] = (0, 0)
    since: float


class Pool:
    """Reads and decodes images in processes of its own.

    An image whose decoding crashes the process gets a second try in a fresh one, because it may
    have been an accident; if that ends too, or if it takes too long or too much memory, it is
    recorded as a failure. No other image is affected. The processes end with the ``with`` block,
    and with this process however that ends.

    Args:
        images: give the bytes; used in other processes, which are forked before anything else is
            done, or started anew where the system cannot fork.
        preprocessing: fits each image to the input.
        batch_size: most images of a batch.
        workers: processes, at least 1.
        limits: of one image.
        ahead: buffers, at least 1. Images are read only where there is a free one.

    Example:
        >>> with Pool(shards, preprocessing, batch_size=32, workers=2, limits=Limits()) as pool:
        ...     for loaded in pool.batches([np.arange(32)]):  # doctest: +SKIP
        ...         answer = model(loaded.images)
        ...         loaded.release()
    """

    def __init__(
        self,
        images: Images,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        workers: int,
        limits: Limits,
        ahead: int | None = None,
    ) -> None:
        if workers < 1 or batch_size < 1 or (ahead is not None and ahead < 1):
            raise ValueError("workers, batch_size and ahead are at least 1")
        self._images = images
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._workers = workers
        self._limits = limits
        self._buffers = workers + _SPARE if ahead is None else ahead
        self._hands: dict[int, _Hand] = {}
        self._serials = itertools.count(1)
        self._accidents = 0
        self._waited = 0.0  # seconds in all

    def __enter__(self) -> Pool:
        forked = can_fork()
        self._shared = Shared.make(
            workers=self._workers,
            buffers=self._buffers,
            batch_size=self._batch_size,
            side=self._preprocessing.size,
            forked=forked,
        )
        worker = Worker(
            shared=self._shared,
            images=self._images,
            preprocessing=self._preprocessing,
            limits=self._limits,
        )
        self._starter: Starter = Nursery(worker) if forked else Spawner(worker)
        self._progress = self._shared.progress
        self._pixels = torch.from_numpy(self._shared.pixels)
        self._free = deque(range(self._buffers))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hand in self._hands.values():
            hand.connection.close()
        self._hands.clear()
        self._starter.close()

    def batches(self, order: Iterable[npt.NDArray[np.int64]]) -> Iterator[Loaded]:
        """Yields every batch of ``order``, in order, whatever the number of workers.

        Args:
            order: int64 rows of each batch; taken from as buffers become free.

        Raises:
            FashionbatchError: whatever ``images`` raises other than ImageError; or processes that
                decode cannot be started.
        """
        upcoming = enumerate(order)
        waiting: deque[_Batch] = deque()
        try:
            while True:
                self._attend(0)
                more = self._fill(upcoming, waiting)
                if not waiting:
                    if more:
                        raise RuntimeError("all buffers are in use: release() batches")
                    return
                while not waiting[0].done:
                    self._attend(min(_LOOK_EVERY, self._limits.seconds / 4))
                batch = waiting.popleft()
                if batch.error is not None:
                    self._free.append(batch.buffer)
                    raise batch.error
                yield self._loaded(batch)
        finally:
            for batch in waiting:
                batch.wanted = False
                self._give_back(batch)

    def _fill(
        self, upcoming: Iterator[tuple[int, npt.NDArray[np.int64]]], waiting: deque[_Batch]
    ) -> bool:
        """Hands out batches while there are free buffers; whether there may be more of them."""
        while self._free:
            number, rows = next(upcoming, (-1, None))
            if rows is None:
                return False
            if len(rows) > self._batch_size:
                raise ValueError(f"a batch of {len(rows)} rows, and room for {self._batch_size}")
            batch = _Batch(number=number, rows=rows, buffer=self._free.popleft())
            self._shared.rows[batch.buffer, : len(rows)] = rows
            waiting.append(batch)
            hand = self._idlest()
            hand.todo.append(batch)
            self._send(hand, batch)
        return True

    def _loaded(self, batch: _Batch) -> Loaded:
        released = itertools.count()

        def release() -> None:
            if next(released) == 0:
                self._free.append(batch.buffer)

        return Loaded(
            number=batch.number,
            rows=batch.rows,
            images=self._pixels[batch.buffer].permute(0, 3, 1, 2),
            failures=dict(sorted(batch.failures.items())),
            sha256=self._shared.sha256[batch.buffer, : len(batch.rows)].copy(),
            release=release,
        )

    def _give_back(self, batch: _Batch) -> None:
        if batch.done and not batch.wanted:
            self._free.append(batch.buffer)

    def _idlest(self) -> _Hand:
        hand = min(self._hands.values(), key=lambda h: len(h.todo), default=None)
        if hand is not None and (not hand.todo or len(self._hands) == self._workers):
            return hand
        return self._start(next(n for n in range(self._workers) if n not in self._hands))

    def _start(self, number: int) -> _Hand:
        ours, theirs = Pipe()
        self._progress[number] = 0
        self._starter.start(number, theirs)
        self._hands[number] = _Hand(number=number, connection=ours, since=self._waited)
        return self._hands[number]

    def _send(self, hand: _Hand, batch: _Batch) -> None:
        batch.serial = next(self._serials)
        job = Job(batch.serial, batch.buffer, batch.start, len(batch.rows))
        with contextlib.suppress(ConnectionError):  # it has died, and will be heard of
            hand.connection.send(job)

    def _attend(self, seconds: float) -> None:
        """Waits for news from the workers, so long at most, and replaces those that hang."""
        began = time.monotonic()
        ready = wait([h.connection for h in self._hands.values()], seconds)
        # no more than was asked for: if all was stopped for an hour, no image has taken an hour
        self._waited += min(time.monotonic() - began, seconds)
        for hand in list(self._hands.values()):
            if hand.connection in ready and not self._hear(hand):
                self._replace(hand)
        for hand in list(self._hands.values()):
            serial, place = self._progress[hand.number].tolist()
            if not hand.todo or hand.seen != (serial, place):
                hand.seen, hand.since = (serial, place), self._waited
            elif self._waited - hand.since > self._limits.seconds:
                self._replace(hand, hung=True)

    def _hear(self, hand: _Hand) -> bool:
        """Takes in what a worker has to say; whether it still lives."""
        try:
            while hand.connection.poll():
                message: Failed | Finished = hand.connection.recv()
                if isinstance(message, Failed):
                    hand.todo[0].failures[message.place] = message.error
                else:
                    hand.todo[0].error = message.error
                    self._finish(hand)
        except (EOFError, OSError):
            return False
        return True

    def _finish(self, hand: _Hand) -> None:
        batch = hand.todo.popleft()
        batch.done = True
        self._give_back(batch)
        self._accidents = 0

    def _replace(self, hand: _Hand, *, hung: bool = False) -> None:
        """Ends a worker that died or hangs, and has a fresh one go on with its work."""
        code = self._starter.end(hand.number)
        self._hear(hand)
        hand.connection.close()
        del self._hands[hand.number]
        serial, place = self._progress[hand.number].tolist()
        if hand.todo and hand.todo[0].serial == serial:
            # not if it went on after all, just before it was killed
            hung = hung and hand.seen == (serial, place)
            self._blame(hand.todo[0], place, self._limits.over_time() if hung else None, code)
            if hand.todo[0].start >= len(hand.todo[0].rows):
                self._finish(hand)
        else:
            self._accidents += 1
            if self._accidents > _MOST_ACCIDENTS:
                raise FashionbatchError(
                    f"processes that decode end before they begin ({_how(code)}): see whether "
                    "memory or the number of processes is limited"
                )
        if hand.todo:
            fresh = self._start(hand.number)
            fresh.todo = hand.todo
            for batch in fresh.todo:
                self._send(fresh, batch)

    def _blame(
        self, batch: _Batch, place: int, failure: ImageError | None, code: int | None
    ) -> None:
        """Notes at which image a worker ended, and where to go on."""
        batch.start = place
        if place >= len(batch.rows):
            return  # it had done all, but could not say so
        if failure is None and batch.suspect != place:
            batch.suspect = place
            return
        batch.failures[place] = failure or ImageError("decode", f"the decoder {_how(code)}")
        self._shared.pixels[batch.buffer, place] = 0
        batch.start += 1


def _how(code: int | None) -> str:
    if code is None or code >= 0:  # none is known of one that still waits for a disk
        return f"ended (exit code {code})" if code is not None else "cannot be ended"
    return f"crashed (signal {-code})"
