"""The contract of executors: they have workers do the tasks of a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fashionbatch.errors import FashionbatchError
from fashionbatch.interrupt import Interrupt

if TYPE_CHECKING:
    from fashionbatch.execution.lending import Lease, Lending

#: gets (event, values); of workers, what it is given travels between processes
Tell = Callable[[str, dict[str, Any]], None]
T = TypeVar("T")


class Worker:
    """Does tasks of a stage, one lease after the other, in a process that is its own.

    A stage gives executors a function that makes one, see :attr:`Lending.worker`.
    """

    def do(self, lease: Lease, tell: Tell, asked: Interrupt) -> None:
        """Does the tasks of a lease, each of them wholly or not at all.

        Args:
            lease: numbers of the stage's tasks, and what the stage sends with them.
            tell: gets what the stage is to hear of.
            asked: whether somebody wants an end; it ends then, at once.

        Raises:
            FashionbatchError: the whole work is to end with this line.
        """
        raise NotImplementedError  # of each stage

    def close(self) -> None:
        """Frees what it holds."""


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


class StoppedHere(Exception):
    """Somebody asked for an end; what was finished is kept."""


def guarded(work: Callable[[], None], tell: Tell) -> bool:
    """Does what a worker does, and tells what it raises as an event, which can travel.

    ``("error", {"text"})`` is for users, ``("bug", {"text"})`` a traceback;
    :meth:`fashionbatch.Lending.hear` knows both.

    Returns:
        whether it was done.
    """
    import traceback

    try:
        work()
    except FashionbatchError as error:
        tell("error", {"text": str(error)})
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        tell("error", {"text": f"{where}{error.strerror or error}"})
    except Exception as error:
        if isinstance(error, StoppedHere):
            raise
        tell("bug", {"text": traceback.format_exc()})
    else:
        return True
    return False
