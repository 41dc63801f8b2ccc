"""Who starts the processes that decode, and says how they ended.

A process of several threads must not be forked: a lock that another thread holds, such as an
engine's, OpenMP's or h5py's, stays locked in the child for ever. So a small process is forked
before there are any, and forks the others when it is asked to. Where the system cannot fork, they
are started anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Protocol

from fashionbatch.errors import FashionbatchError

#: what a process does: its number, and how it hears what to do
Life = Callable[[int, Connection], None]

_REQUEST = struct.Struct("<ci")
_REPLY = struct.Struct("<ci")
_START, _END = b"s", b"e"
_ENDED, _LINGERS, _NOT_STARTED = b"e", b"l", b"n"
_LINGERING = 1.0  # seconds: one that waits for a disk cannot be killed before the disk answers
_PR_SET_PDEATHSIG = 1


def can_fork() -> bool:
    """Whether processes are forked. macOS has it, but its libraries do not survive it."""
    return hasattr(os, "fork") and sys.platform != "darwin"


class Starter(Protocol):
    """Starts and ends processes, which go by number."""

    def start(self, number: int, connection: Connection) -> None:
        """Starts one; ``connection`` becomes its end, and is closed here."""
        ...

    def end(self, number: int) -> int | None:
        """Kills one, if it still lives.

        Returns:
            its exit code, negative for a signal; ``None`` where it has not ended yet.
        """
        ...

    def close(self) -> None:
        """Ends all of them."""
        ...


class Nursery:
    """Forks them from a process that is forked now."""

    def __init__(self, life: Life) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with warnings.catch_warnings():
            # Python 3.12 warns of threads; a progress bar's, say, has nothing that decoding needs
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = os.fork()
        if not self._process:
            self._control.close()
            _as_child(lambda: _tend(theirs, life))
        theirs.close()

    def start(self, number: int, connection: Connection) -> None:
        """See :class:`Starter`."""
        try:
            request = _REQUEST.pack(_START, number)
            socket.send_fds(self._control, [request], [connection.fileno()])
        except ConnectionError:
            raise _died() from None
        connection.close()

    def end(self, number: int) -> int | None:
        """See :class:`Starter`.

        Raises:
            FashionbatchError: it could not be started.
        """
        try:
            self._control.send(_REQUEST.pack(_END, number))
            reply = self._control.recv(_REPLY.size)
        except ConnectionError:
            reply = b""
        if not reply:
            raise _died()
        how, value = _REPLY.unpack(reply)
        if how == _NOT_STARTED:
            raise FashionbatchError(
                f"a process that decodes cannot be started ({os.strerror(value)}): run the command "
                "again with fewer --workers"
            )
        return value if how == _ENDED else None

    def close(self) -> None:
        """See :class:`Starter`."""
        with contextlib.suppress(OSError):
            # not close alone: another process may have inherited this end
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        with contextlib.suppress(ChildProcessError):  # where somebody else has waited for it
            os.waitpid(self._process, 0)


class Spawner:
    """Starts them anew, each with a Python of its own."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, BaseProcess] = {}

    def start(self, number: int, connection: Connection) -> None:
        """See :class:`Starter`."""
        process = self._context.Process(target=self._life, args=(number, connection), daemon=True)
        process.start()
        self._processes[number] = process
        connection.close()

    def end(self, number: int) -> int | None:
        """See :class:`Starter`."""
        process = self._processes.pop(number)
        process.kill()
        process.join(_LINGERING)
        return process.exitcode

    def close(self) -> None:
        """See :class:`Starter`."""
        for process in self._processes.values():
            process.kill()
        for number in list(self._processes):
            self.end(number)


def _died() -> FashionbatchError:
    return FashionbatchError(
        "the process that starts those that decode was killed, perhaps for want of memory: run the "
        "command again with fewer --workers; what is finished is kept"
    )


def _as_child(work: Callable[[], None]) -> None:
    """Does it and ends the process, without what the forked one would do at its end."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _tend(control: socket.socket, life: Life) -> None:
    """Starts and ends processes as it is asked to, until nobody can ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.disable()  # the pool says that a process crashed, once
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE):
        signal.signal(number, signal.SIG_DFL)  # in a loader's worker, torch would say it, too
    gc.freeze()  # a collection would copy all memory that is shared with the process forked
    children: dict[int, int] = {}  # process, or the negative number of an error, by number
    lingering: list[int] = []
    try:
        while True:
            request, descriptors, _, _ = socket.recv_fds(control, _REQUEST.size, 1)
            if not request:
                return
            action, number = _REQUEST.unpack(request)
            lingering = [process for process in lingering if _code(process) is None]
            if action == _START:
                children[number] = _fork(control, life, number, descriptors[0])
            else:
                control.send(_ended(children.pop(number), lingering))
    except ConnectionError:
        return
    finally:
        living = [process for process in children.values() if process > 0]
        for process in living:
            os.kill(process, signal.SIGKILL)
        for process in living:
            _kill(process)


def _ended(process: int, lingering: list[int]) -> bytes:
    if process < 0:
        return _REPLY.pack(_NOT_STARTED, -process)
    code = _kill(process)
    if code is None:
        lingering.append(process)
        return _REPLY.pack(_LINGERS, 0)
    return _REPLY.pack(_ENDED, code)


def _fork(control: socket.socket, life: Life, number: int, descriptor: int) -> int:
    nursery = os.getpid()
    try:
        process = os.fork()
    except OSError as error:
        os.close(descriptor)
        return -(error.errno or 1)
    if not process:
        control.close()
        _end_with(nursery)
        _as_child(lambda: life(number, Connection(descriptor)))
    os.close(descriptor)
    return process


def _end_with(parent: int) -> None:
    """Has this process killed when its parent ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _kill(process: int) -> int | None:
    os.kill(process, signal.SIGKILL)
    until, pause = time.monotonic() + _LINGERING, 0.0005
    while (code := _code(process)) is None and time.monotonic() < until:
        time.sleep(pause)
        pause = min(2 * pause, 0.005)
    return code


def _code(process: int) -> int | None:
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None
