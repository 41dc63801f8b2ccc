"""A worker in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from fashionbatch.execution.lease import Lease
from fashionbatch.execution.worker import StoppedHere, Worker, guarded
from fashionbatch.interrupt import interrupts

#: that a process has for its end: a driver can hang
_SECONDS = 30.0
_LOOK_EVERY = 0.5


class WorkerProcess:
    """Starts a process that makes a worker, and has it do leases; for executors.

    It tells ``("process", {"place", "pid"})``, whatever the worker tells, ``("error", {"text"})``
    or ``("bug", {"text"})``, all for :meth:`fashionbatch.Lending.hear`, and ``("ready", {})`` when
    it is made and behind each lease. It ends when the process that started it does.

    Args:
        make: of the lending; can be pickled, unless the process is forked.
        place: that it is called with.
        forks: fork it where that is safe, see :class:`fashionbatch.Lending`.

    Attributes:
        connection: for :func:`multiprocessing.connection.wait`.

    Example::

        process = fashionbatch.WorkerProcess(lending.worker, "cpu")
        for event, values in process.events():  # until it is ready
            lending.hear(None, event, values)
        process.lend(lease)
        for event, values in process.events():
            lending.hear(lease, event, values)
        process.end()
    """

    def __init__(
        self, make: Callable[[str], Worker], place: str = "", *, forks: bool = False
    ) -> None:
        # a GPU's state does not bear a fork
        context = multiprocessing.get_context(_method() if forks else "spawn")
        self.place = place
        self.connection, theirs = context.Pipe()
        self._process = context.Process(  # type: ignore[attr-defined]  # each context has it
            target=_serve, args=(theirs, make, place), daemon=False
        )
        self._process.start()
        theirs.close()

    def next(self) -> tuple[str, dict[str, Any]] | None:
        """What it tells next; waits for it. ``None`` where it has died."""
        try:
            event, values = self.connection.recv()
        except (EOFError, OSError):
            return None
        return event, values

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What it tells, until it is ready for a lease.

        Raises:
            EOFError: it has died; :meth:`end` says how.
        """
        while (told := self.next()) is not None:
            if told[0] == "ready":
                return
            yield told
        raise EOFError("the worker has died")

    def lend(self, lease: Lease | None) -> None:
        """Gives it a lease; none ends it."""
        with suppress(OSError):  # it has died: that is heard of by the next look
            self.connection.send(lease)

    def end(self) -> str:
        """Ends it: it is asked to, then told to, and killed at last.

        Returns:
            how it ended, such as ``exit code -9``.
        """
        self.ask_to_end()
        self.connection.close()  # it may wait for somebody who listens
        self._process.join(_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return f"exit code {self._process.exitcode}"

    def ask_to_end(self) -> None:
        """Without waiting for it; what it tells until then is still to be heard."""
        self.lend(None)  # if it waits for a lease
        if self._process.is_alive():
            self._process.terminate()


def _method() -> str:
    methods = multiprocessing.get_all_start_methods()
    if "fork" in methods and "forkserver" in methods:
        # forking is quick, and safe in a process of one thread only
        return "fork" if threading.active_count() == 1 else "forkserver"
    return "spawn"


def _serve(connection: Connection, make: Callable[[str], Worker], place: str) -> None:
    """A process's whole life: prepares, then does lease after lease."""
    parent = os.getppid()  # who started this, or the server that forks for it and ends with it

    def tell(event: str, values: dict[str, Any]) -> None:
        connection.send((event, values))

    def work() -> None:
        with interrupts() as asked:
            tell("process", {"place": place, "pid": os.getpid()})
            worker = make(place)
            # now, because a worker may fork when it is made. A pipe ends with the process at its
            # other end, unless forks have inherited that end
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
            try:
                tell("ready", {})
                while (lease := connection.recv()) is not None:
                    worker.do(lease, tell, asked)
                    tell("ready", {})
            finally:
                worker.close()

    try:
        guarded(work, tell)
    except (EOFError, ConnectionError, StoppedHere, KeyboardInterrupt):
        return  # nobody waits for more; who lends tells of a stop


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os.kill(os.getpid(), signal.SIGKILL)
