"""Ctrl-C and the scheduler's SIGTERM: asked for politely, answered between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether somebody wants the work to end.

    Attributes:
        signal: number of the signal that asked; 0 as long as none did.
        ending: the work has failed and ends by itself: a launcher that tells this process to end,
            because another one is gone, must not keep it from saying why.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.ending = False

    def __bool__(self) -> bool:
        return self.signal != 0

    def ask(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler; the second Ctrl-C ends the work at once."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Catches SIGINT and SIGTERM; in a thread of its own (a notebook's) nothing is caught."""
    asked = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(n) for n in numbers]
    for number, old in zip(numbers, before, strict=True):
        if old is not signal.SIG_IGN:  # a shell's background job is not to hear Ctrl-C
            signal.signal(number, asked.ask)
    try:
        yield asked
    finally:
        for number, old in zip(numbers, before, strict=True):
            deaf = asked.ending and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if deaf else old)
