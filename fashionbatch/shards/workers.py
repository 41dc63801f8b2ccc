"""Processes that pack shards, and end when the one that started them does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from fashionbatch.errors import SourceError
from fashionbatch.shards.pack import Packed, Packer
from fashionbatch.shards.plan import ShardTask

_LOOK_EVERY = 0.5  # seconds
_AHEAD = 3  # tasks that wait for each worker

_packer: Packer


class Workers:
    """Packs tasks in several processes; in this one where ``count`` is 1.

    Args:
        packer: what each of them gets.
        count: of processes.
    """

    def __init__(self, packer: Packer, count: int) -> None:
        self.packer = packer
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.count > 1:
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context(_method()),
                initializer=_start,
                initargs=(self.packer,),
            )
            # start them now: a caller may start threads, and forking is for a process without any
            for ready in [self._pool.submit(os.getpid) for _ in range(self.count)]:
                ready.result()
        return self

    def pack(self, tasks: Iterable[ShardTask]) -> Iterator[Packed]:
        """Yields what comes of each task, in order.

        Raises:
            OSError: a shard cannot be written.
            SourceError: a process was killed.
        """
        if self._pool is None:
            yield from map(self.packer.pack, tasks)
            return
        waiting: deque[Future[Packed]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(_pack, task))
                if len(waiting) > _AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise SourceError(
                "a process that packs was killed, perhaps for want of memory: run the command "
                "again with fewer --workers; finished shards are kept"
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _method() -> str:
    methods = multiprocessing.get_all_start_methods()
    if "fork" in methods and "forkserver" in methods:
        # forking is quick, and safe in a process of one thread only
        return "fork" if threading.active_count() == 1 else "forkserver"
    return "spawn"


def _start(packer: Packer) -> None:
    global _packer
    _packer = packer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and says so once
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os._exit(1)


def _pack(task: ShardTask) -> Packed:
    return _packer.pack(task)
