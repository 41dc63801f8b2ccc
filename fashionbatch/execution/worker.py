"""The contract of workers: they do the tasks of a stage, in processes that are their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fashionbatch.errors import FashionbatchError
from fashionbatch.execution.lease import Lease
from fashionbatch.interrupt import Interrupt

#: gets (event, values); of workers, what it is given travels between processes
Tell = Callable[[str, dict[str, Any]], None]


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
