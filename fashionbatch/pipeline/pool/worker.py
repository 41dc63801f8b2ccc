"""A process that reads and decodes images: one batch after the other, into shared memory."""

from __future__ import annotations

import hashlib
import pickle
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fashionbatch.errors import FashionbatchError, ImageError
from fashionbatch.pipeline.decode import NO_MEMORY, is_out_of_memory
from fashionbatch.pipeline.foresight import announce
from fashionbatch.pipeline.images import Images
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.pool.limits import Limits
from fashionbatch.pipeline.pool.shared import Shared
from fashionbatch.specs import Preprocessing


class Job(NamedTuple):
    """What a worker is asked to do: the places from ``start`` up to ``stop`` of a buffer.

    Attributes:
        serial: differs between all jobs of a pool; 0 is none.
        buffer: whose rows are in shared memory.
        start: the first place.
        stop: the number of images.
    """

    serial: int
    buffer: int
    start: int
    stop: int


class Failed(NamedTuple):
    """A worker's message: the image at a place cannot be used; the work goes on."""

    place: int
    error: ImageError


class Finished(NamedTuple):
    """A worker's message: the job is done, or ended by an error that ends the run."""

    serial: int
    error: Exception | None


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Works off jobs until nobody is there to send them.

    Attributes:
        shared: where rows are read and pixels written.
        images: give the bytes.
        preprocessing: fits them to the input.
        limits: of memory; those of time are the pool's to watch.
    """

    shared: Shared
    images: Images
    preprocessing: Preprocessing
    limits: Limits

    def __call__(self, number: int, connection: Connection) -> None:
        """The life of worker ``number``."""
        _settle(self.limits)
        progress = self.shared.progress[number]
        try:
            while True:
                job = Job(*connection.recv())
                progress[:] = job.serial, job.start
                try:
                    self._work(job, progress, connection)
                except Exception as error:
                    connection.send(Finished(job.serial, _portable(error)))
                else:
                    connection.send(Finished(job.serial, None))
        except (EOFError, ConnectionError):
            return  # the pool is closed, or its process has ended

    def _work(self, job: Job, progress: npt.NDArray[np.int64], connection: Connection) -> None:
        pixels, sha256 = self.shared.pixels[job.buffer], self.shared.sha256[job.buffer]
        rows = self.shared.rows[job.buffer].tolist()
        pixels[job.stop :] = 0
        announce(self.images, rows[job.start : job.stop])
        for place in range(job.start, job.stop):
            progress[1] = place
            sha256[place] = 0
            stage = "read"
            try:
                data = self.images.read(rows[place])
                sha256[place] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
                stage = "decode"
                pixels[place] = load(data, self.preprocessing)
            except Exception as error:
                failure = self._failure(error, stage)
                if failure is None:
                    raise
                pixels[place] = 0
                connection.send(Failed(place, failure))
        progress[1] = job.stop

    def _failure(self, error: Exception, stage: str) -> ImageError | None:
        if isinstance(error, ImageError):
            return self.limits.over_memory(error.stage) if error.reason == NO_MEMORY else error
        return self.limits.over_memory(stage) if is_out_of_memory(error) else None


def _portable(error: Exception) -> Exception:
    """The error, or what can be said of it where it cannot be pickled."""
    if not isinstance(error, FashionbatchError):  # a bug: say where
        error.add_note("In a process that decodes:\n" + traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        kind = FashionbatchError if isinstance(error, FashionbatchError) else RuntimeError
        return kind(str(error))


def _settle(limits: Limits) -> None:
    # the process that asked is told of Ctrl-C and says so once; this one ends with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        taken = pages * resource.getpagesize()
        _lower(resource.RLIMIT_AS, taken + limits.memory)
        # a crash that is expected is not to fill the disk; 0 would not keep a program that collects
        # crashes from being started
        _lower(resource.RLIMIT_CORE, 1)


def _lower(which: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(which, (limit, hard))
