"""Workers on this machine: a process for each, or this process where one is enough."""

from __future__ import annotations

from functools import partial
from multiprocessing.connection import Connection, wait

from fashionbatch.execution.executor import Executor
from fashionbatch.execution.lease import Lease
from fashionbatch.execution.lending import Lending
from fashionbatch.execution.process import WorkerProcess
from fashionbatch.execution.worker import StoppedHere


class Local(Executor):
    """A process for each place of the lending."""

    local = True

    def run(self, lending: Lending) -> None:
        """See :class:`fashionbatch.Executor`."""
        if len(lending.places) == 1 and lending.here is not None:
            lease = lending.rest()
            lending.here.do(lease, partial(lending.hear, lease), lending.asked)
            lending.finish(lease)
            return
        crew = _Crew(lending)
        try:
            crew.run()
        finally:
            crew.end()


class _Crew:
    """The processes of one run."""

    def __init__(self, lending: Lending) -> None:
        self.lending = lending
        self.serving: dict[Connection, tuple[WorkerProcess, Lease | None]] = {}
        self.idle: set[WorkerProcess] = set()  # ready, and without a lease

    def run(self) -> None:
        lending = self.lending
        for place in lending.places[: lending.waiting]:
            self._start(place)
        while not lending.over:
            for connection in wait(list(self.serving), timeout=1.0):
                assert isinstance(connection, Connection)
                self._hear(connection)
            if lending.asked:
                raise StoppedHere

    def end(self) -> None:
        processes = [process for process, _ in self.serving.values()]
        for process in processes:
            process.ask_to_end()
        for process in processes:
            process.end()

    def _start(self, place: str) -> None:
        process = WorkerProcess(self.lending.worker, place, forks=self.lending.forks)
        self.serving[process.connection] = process, None

    def _hear(self, connection: Connection) -> None:
        process, lease = self.serving[connection]
        lending = self.lending
        told = process.next()
        if told is None:
            del self.serving[connection]
            self.idle.discard(process)
            why = process.end()
            if lease is not None:
                lending.lose(lease, why)
            elif lending.waiting:
                lending.unready(process.place, why)
            self._fill(process.place)
        elif told[0] == "ready":
            if lease is not None:
                lending.finish(lease)
            lending.ready(process.place)
            self._lend(process)
        else:
            lending.hear(lease, *told)

    def _lend(self, process: WorkerProcess) -> None:
        lease = self.lending.take(len(self.lending.places))
        self.serving[process.connection] = process, lease
        if lease is None:  # it has nothing to do until another one dies
            self.idle.add(process)
        else:
            self.idle.discard(process)
            process.lend(lease)

    def _fill(self, place: str) -> None:
        """Has what a lost worker has left done by one that waits, or by a new one."""
        for process in list(self.idle)[: self.lending.waiting]:
            self._lend(process)
        if self.lending.waiting and not self.lending.asked:
            self._start(place)
