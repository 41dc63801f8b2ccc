"""The tasks of a stage, lent out: who has which, and what becomes of them when a worker dies."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fashionbatch.errors import ExecutionError, FashionbatchError
from fashionbatch.execution.lease import Lease
from fashionbatch.execution.worker import Worker
from fashionbatch.interrupt import Interrupt

#: leases that a worker gets in a run, if all are as fast: fewer, and they do not end together
_EACH = 8
#: workers that a task may cost before it is given up, and a place before its first lease
DEATHS = 3


class Stage(Protocol):
    """What a lending asks of the stage whose tasks it lends."""

    def hear(self, lease: Lease, event: str, values: dict[str, Any]) -> None:
        """What a worker tells of its lease."""
        ...

    def unfinished(self, lease: Lease) -> Sequence[int]:
        """Those tasks of a lost lease that are to be done again; what was counted is taken back."""
        ...

    def give_up(self, task: int, reason: str) -> None:
        """A task cannot be done: it is recorded as failed, and the work goes on.

        Raises:
            FashionbatchError: the work cannot go on without it.
        """
        ...


class Lending:
    """Lends tasks to the workers of an executor.

    Args:
        tasks: numbers of them.
        stage: hears of them.
        worker: makes a worker in its own process; can be pickled. It is called with a place.
        asked: whether somebody wants an end.
        places: of local workers, one for each, such as devices of torch; the first is that of
            every worker elsewhere.
        most: tasks of one lease.
        here: a worker in this process, for an executor that has only one local worker.
        forks: workers may be forked: they need neither a GPU nor threads of this process.
        pack: makes what goes with the tasks of a lease, see :attr:`Lease.parcel`.
    """

    def __init__(
        self,
        tasks: Sequence[int],
        *,
        stage: Stage,
        worker: Callable[[str], Worker],
        asked: Interrupt,
        places: Sequence[str] = ("",),
        most: int = 16,
        here: Worker | None = None,
        forks: bool = False,
        pack: Callable[[Sequence[int]], Any] | None = None,
    ) -> None:
        self.stage, self.worker, self.asked = stage, worker, asked
        self.places, self.most, self.here, self.forks = tuple(places), most, here, forks
        self._pack = pack
        self._fresh = deque(sorted(tasks))
        self._again: deque[int] = deque()
        self._out: set[Lease] = set()
        self._deaths: Counter[int] = Counter()
        self._unready: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        """Every task is finished or given up."""
        return not (self._fresh or self._again or self._out)

    @property
    def waiting(self) -> int:
        """Tasks that nobody has."""
        return len(self._fresh) + len(self._again)

    def take(self, among: int) -> Lease | None:
        """The next lease; ``None`` where there is none now. More come when a worker is lost.

        Args:
            among: workers that share what is left.
        """
        if self._fresh:
            size = min(self.most, max(1, len(self._fresh) // (max(1, among) * _EACH)))
            tasks = [self._fresh.popleft() for _ in range(size)]
        elif self._again:
            tasks = [self._again.popleft()]  # one by one: the next death says which it was
        else:
            return None
        lease = Lease(tasks, self._pack)
        self._out.add(lease)
        return lease

    def rest(self) -> Lease:
        """All that nobody has, for a worker that is the only one."""
        tasks = [*self._fresh, *self._again]
        lease = Lease(tasks, self._pack)
        self._fresh.clear()
        self._again.clear()
        self._out.add(lease)
        return lease

    def hear(self, lease: Lease | None, event: str, values: dict[str, Any]) -> None:
        """Takes what a worker tells, of its lease or before it has one.

        Raises:
            FashionbatchError: the worker met what ends the work.
            RuntimeError: it met a bug.
        """
        if event == "error":
            raise FashionbatchError(values["text"])
        if event == "bug":
            raise RuntimeError(f"in a worker:\n{values['text']}")
        self.stage.hear(lease or Lease(()), event, values)

    def finish(self, lease: Lease) -> None:
        """All of it is done."""
        self._out.discard(lease)

    def lose(self, lease: Lease, why: str) -> None:
        """Its worker is gone. A task that has cost three of them is given up.

        Args:
            lease: that the worker had.
            why: in a few words, such as ``exit code -9``.

        Raises:
            FashionbatchError: the work cannot go on without such a task.
        """
        self._out.discard(lease)
        for task in self.stage.unfinished(lease):
            self._deaths[task] += 1
            if self._deaths[task] < DEATHS:
                self._again.append(task)
            else:
                self.stage.give_up(task, f"its worker died {DEATHS} times ({why})")

    def ready(self, place: str) -> None:
        """A worker of the place can take leases."""
        self._unready[place] = 0

    def unready(self, place: str, why: str) -> None:
        """A worker of the place died before it was ready.

        Raises:
            ExecutionError: so did others before it.
        """
        self._unready[place] += 1
        if self._unready[place] >= DEATHS:
            where = f" on {place}" if place else ""
            raise ExecutionError(
                f"the worker{where} died {DEATHS} times before it was ready ({why}): what is "
                "finished is kept, and the same command goes on from there"
            )
