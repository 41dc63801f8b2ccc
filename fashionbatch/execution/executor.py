"""The contract of executors: they have workers do the tasks of a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fashionbatch.execution.lending import Lending

T = TypeVar("T")


class Executor:
    """Has workers do tasks, here or elsewhere; a subclass overrides :meth:`run`.

    The factory of its spec is called ``factory(**options)`` with what users give in ``--address``
    and ``--executor-kwargs``. What cannot work is a :class:`ValueError` of one line, or any error
    of fashionbatch.

    An executor knows nothing of what its workers do. It takes leases from a
    :class:`fashionbatch.Lending`, has each done by a worker, and reports what it hears: whatever
    happens to a worker, the lending knows which tasks are to be done again.

    Example, all in this process::

        class Plain(fashionbatch.Executor):
            def run(self, lending):
                worker = lending.worker("")
                while (lease := lending.take(1)) is not None:
                    worker.do(lease, lambda e, v: lending.hear(lease, e, v), lending.asked)
                    lending.finish(lease)
                worker.close()
    """

    #: whether its workers share this process's machine, its memory and devices
    local: bool = False

    def workers(self) -> int | None:
        """How many there are going to be; ``None`` where the stage decides."""
        return None

    def ask(self, question: Callable[[], T]) -> T:
        """What a function gives where a worker would run.

        Args:
            question: can be pickled, and so can its answer.

        Raises:
            FashionbatchError: what it raises, or no worker can be had.
        """
        return question()

    def run(self, lending: Lending) -> None:
        """Has all tasks done; returns when :attr:`Lending.over`.

        Where :attr:`Lending.asked` is true it ends its workers and raises :class:`StoppedHere`.

        Raises:
            StoppedHere: somebody asked for an end.
            FashionbatchError: the work cannot be done.
        """
        raise NotImplementedError  # the one method a subclass must write

    def close(self) -> None:
        """Frees what it holds."""
