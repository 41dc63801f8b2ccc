"""What runs on the cluster: an actor that holds a worker, and an answer to a question."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import fashionbatch
from fashionbatch.errors import FashionbatchError

from fashionbatch_ray.loading import loaded, made

#: seconds in which what a worker tells is gathered: every answer is an object in Ray's store
_GATHERED = 0.25

Event = tuple[str, dict[str, Any]]


class Actor:
    """Has a worker in a process of its own, because Ray's has threads and must not fork."""

    def __init__(self) -> None:
        self._process: fashionbatch.WorkerProcess | None = None
        self._at_work = threading.Lock()

    def prepare(self, version: str, worker: bytes, place: str) -> Iterator[list[Event]]:
        """Makes the worker.

        Args:
            version: of fashionbatch where the work is planned.
            worker: makes it, pickled.
            place: that it is called with.

        Yields:
            what it tells. The last event is ``("dead", {"why"})`` where it has died.
        """
        # what the worker imports is not to fill the memory here, too
        self._process = fashionbatch.WorkerProcess(partial(made, version, worker), place)
        yield from self._gathered()

    def do(self, lease: fashionbatch.Lease) -> Iterator[list[Event]]:
        """Has the tasks of a lease done; yields as :meth:`prepare`."""
        assert self._process is not None
        self._process.lend(lease)
        yield from self._gathered()

    def end(self) -> None:
        """Ends the worker, which finishes what it is writing; :meth:`do` tells that it has died.

        Called beside the other methods, in a thread of its own.
        """
        if self._process is not None:
            self._process.ask_to_end()
            with self._at_work:
                self._process.end()

    def _gathered(self) -> Iterator[list[Event]]:
        with self._at_work:
            yield from self._told()

    def _told(self) -> Iterator[list[Event]]:
        process = self._process
        assert process is not None
        events: list[Event] = []
        last = time.monotonic()
        try:
            for event, values in process.events():
                if event in ("error", "bug"):
                    values = {"text": f"on {socket.gethostname()}: {values['text']}"}
                events.append((event, values))
                if time.monotonic() - last > _GATHERED:
                    yield summed(events)
                    events, last = [], time.monotonic()
        except EOFError:
            events.append(("dead", {"why": process.end()}))
        yield summed(events)


def summed(events: Sequence[Event]) -> list[Event]:
    """The same events, with one in place of all that only count items."""
    counts: dict[str, int] = {}
    others: list[Event] = []
    for event, values in events:
        if event == "progress":
            for name, count in values.items():
                counts[name] = counts.get(name, 0) + count
        else:
            others.append((event, values))
    return [("progress", dict(counts)), *others] if counts else others


def answered(version: str, question: bytes) -> tuple[str, Any]:
    """What a question gives here.

    Returns:
        ``("answer", it)``, or ``("error", text)`` of what is for users to read.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        return "answer", loaded(version, question)()
    except FashionbatchError as error:
        return "error", f"on {socket.gethostname()}: {error}"
