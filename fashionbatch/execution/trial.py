"""A worker that executors are tried out with: apart, because each of its processes imports it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from fashionbatch.errors import UsageError
from fashionbatch.execution.lease import Lease
from fashionbatch.execution.worker import Tell, Worker
from fashionbatch.interrupt import Interrupt

#: why it refuses
REASON = "so says the worker"


class Squares(Worker):
    """Tells the square of each task, and what was sent with it.

    Args:
        deadly: a task that kills it.
        wrong: a task that it refuses.
    """

    def __init__(self, deadly: int | None, wrong: int | None) -> None:
        self.deadly, self.wrong = deadly, wrong

    def do(self, lease: Lease, tell: Tell, asked: Interrupt) -> None:
        """See :class:`Worker`."""
        sent = lease.parcel or {}
        for task in lease.tasks:
            if task == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if task == self.wrong:
                raise UsageError(REASON)
            tell("square", {"of": task, "is": task * task, "sent": sent.get(task)})


def pack(tasks: Sequence[int]) -> dict[int, int]:
    """What is sent with them."""
    return {task: task for task in tasks}


def squares(place: str, deadly: int | None = None, wrong: int | None = None) -> Squares:
    """Makes one."""
    return Squares(deadly, wrong)


def question() -> int:
    """A number of the process that is asked."""
    return os.getpid()


def mistake() -> int:
    """What cannot be answered."""
    raise UsageError(REASON)
