"""Actors on a Ray cluster that do what fashionbatch lends them."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

# Ray reads it when it is imported. Under `uv run` it would copy the folder that one is in, data and
# all, to every machine, and build the environment there anew
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import fashionbatch
import ray
from fashionbatch.errors import ExecutionError
from ray import cloudpickle

from fashionbatch_ray.actor import Actor, answered

T = TypeVar("T")

#: seconds between two looks at whether somebody wants an end
_LOOK_EVERY = 0.5
#: seconds that workers have to finish what they are writing
_ENDS_WITHIN = 20.0
#: seconds that a cluster has to take a connection
_ANSWERS_WITHIN = 10.0
#: workers that die before they are ready, behind which no more are started beside others; and
#: times that a question is asked
_TRIES = 3
#: of an actor: the thread that is free while it works
_END = "end"
#: what workers must see as the process does that plans
_PASSED_ON = ("FASHIONBATCH_PLUGINS", "FASHIONBATCH_STRICT")


class Ray(fashionbatch.Executor):
    """Has actors of a cluster do the work; each holds one model.

    Args:
        address: of the cluster: ``auto`` for the one that this machine belongs to, ``HOST:PORT``,
            or ``ray://HOST:PORT``. Without one Ray finds a cluster, or starts one on this machine.
        workers: actors; as many as the cluster has room for when the work begins by default.
        num_cpus: cores that an actor counts for. Its engine takes so many threads.
        num_gpus: GPUs that an actor counts for; a fraction puts several on one.
        memory: GiB that an actor counts for.

    Raises:
        ExecutionError: no cluster answers, or it has no room for an actor.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        memory: float | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError("workers is at least 1")
        if num_cpus < 0 or num_gpus < 0 or num_cpus + num_gpus == 0:
            raise ValueError("an actor counts for some CPU or GPU")
        self._wanted = workers
        self._resources: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        if memory is not None:
            self._resources["memory"] = int(memory * (1 << 30))
        self._mine = not ray.is_initialized()
        if self._mine:
            self._connect(address)
        if not self._room():
            text = (
                f"the Ray cluster has no room for an actor with {num_cpus:g} CPUs and "
                f"{num_gpus:g} GPUs: it has {_described()}; see --executor-kwargs"
            )
            self.close()
            raise ExecutionError(text)

    def _connect(self, address: str | None) -> None:
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        threads = max(1, math.floor(self._resources["num_cpus"]))
        env["OMP_NUM_THREADS"] = str(threads)
        _refuse_unreachable(address)
        try:
            with _own_signals():
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    include_dashboard=False if address is None else None,
                    runtime_env={"env_vars": env},
                )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise _no_cluster(address, reason) from error

    def _room(self) -> int:
        """Actors that the cluster can hold, whatever runs on it now."""
        have = ray.cluster_resources()
        wants = {"CPU": self._resources["num_cpus"], "GPU": self._resources["num_gpus"],
                 "memory": self._resources.get("memory", 0)}  # fmt: skip
        return int(min(have.get(name, 0.0) // need for name, need in wants.items() if need))

    def workers(self) -> int:
        """See :class:`fashionbatch.Executor`."""
        return self._wanted or self._room()

    def ask(self, question: Callable[[], T]) -> T:
        """See :class:`fashionbatch.Executor`."""
        # Ray would ask a node without memory for ever
        spread = {"max_retries": 0, "scheduling_strategy": "SPREAD"}
        task = ray.remote(**self._resources, **spread)(answered)
        pickled = cloudpickle.dumps(question)
        for left in reversed(range(_TRIES)):
            try:
                said, answer = ray.get(task.remote(fashionbatch.__version__, pickled))
                break
            except ray.exceptions.RayError as error:
                if not left or isinstance(error, ray.exceptions.RayTaskError):
                    raise _foreign(error) from error
        if said == "error":
            raise ExecutionError(answer)
        found: T = answer
        return found

    def run(self, lending: fashionbatch.Lending) -> None:
        """See :class:`fashionbatch.Executor`."""
        crew = _Crew(lending, self.workers(), self._resources)
        try:
            crew.run()
        finally:
            crew.end()

    def close(self) -> None:
        """See :class:`fashionbatch.Executor`."""
        if self._mine:
            ray.shutdown()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Undoes that Ray takes SIGTERM for itself: the process would end with another code."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _refuse_unreachable(address: str | None) -> None:
    """Refuses an address at which nothing listens: Ray would try for minutes.

    Raises:
        ExecutionError: nothing does.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # Ray's own names, such as "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWERS_WITHIN).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from error


def _no_cluster(address: str | None, reason: str) -> ExecutionError:
    return ExecutionError(
        f"no Ray cluster answers at {address or 'this machine'} ({reason}): start one with `ray "
        "start --head`, or name another --address"
    )


class _Crew:
    """The actors of one run.

    Args:
        lending: whose leases they do.
        count: of them.
        resources: of each.
    """

    def __init__(
        self, lending: fashionbatch.Lending, count: int, resources: dict[str, Any]
    ) -> None:
        self.lending = lending
        self.count = min(count, lending.waiting)
        # one that is lost is not started anew by Ray: its lease must be known to be lost
        self.remote = ray.remote(**resources, max_restarts=0, concurrency_groups={_END: 1})(Actor)
        # in the cluster's store once, however many actors read it
        self.worker = ray.put(cloudpickle.dumps(lending.worker))
        self.actors: dict[Any, tuple[Any, fashionbatch.Lease | None]] = {}  # by their generator
        self.idle: list[Any] = []
        self.unready = 0  # that have died, one after the other, before they were ready
        if lending.waiting < count:
            shards = "shard is" if lending.waiting == 1 else "shards are"
            text = f"{lending.waiting} {shards} left for {count} workers: the others stay away"
            lending.hear(None, "warn", {"text": text})

    def run(self) -> None:
        lending = self.lending
        for _ in range(self.count):
            self._start()
        while not lending.over:
            ready, _ = ray.wait(list(self.actors), num_returns=1, timeout=_LOOK_EVERY)
            for generator in ready:
                self._hear(generator)
            if lending.asked:
                raise fashionbatch.StoppedHere

    def end(self) -> None:
        # politely: of what is killed while it writes, something stays where the parts lie
        busy = [actor for actor, lease in self.actors.values() if lease is not None]
        with contextlib.suppress(ray.exceptions.RayError):
            ends = [
                actor.end.options(concurrency_group=_END).remote() for actor in busy + self.idle
            ]
            if ends:
                ray.wait(ends, num_returns=len(ends), timeout=_ENDS_WITHIN)
        for actor in [*(actor for actor, _ in self.actors.values()), *self.idle]:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)

    def _start(self) -> None:
        actor = self.remote.remote()
        generator = actor.prepare.options(num_returns="streaming").remote(
            fashionbatch.__version__, self.worker, self.lending.places[0]
        )
        self.actors[generator] = actor, None

    def _hear(self, generator: Any) -> None:
        actor, lease = self.actors[generator]
        try:
            events = ray.get(next(generator))
        except StopIteration:
            del self.actors[generator]
            if lease is None:
                self.unready = 0
                self.lending.ready("")
            else:
                self.lending.finish(lease)
            self._lend(actor)
            return
        except ray.exceptions.RayTaskError as error:
            raise _foreign(error) from error  # the actor itself has a bug, or cannot be made
        except ray.exceptions.RayError as error:
            self._lose(generator, _words(error))
            return
        for event, values in events:
            if event == "dead":
                self._lose(generator, values["why"])
                return
            self.lending.hear(lease, event, values)

    def _lose(self, generator: Any, why: str) -> None:
        actor, lease = self.actors.pop(generator)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(actor)
        if lease is not None:
            self.lending.lose(lease, why)
        elif not self._spared(why):
            self.lending.unready("", why)
        while self.idle and self.lending.waiting:
            self._lend(self.idle.pop())
        if self.lending.waiting and (self.unready < _TRIES or not self.actors):
            self._start()

    def _spared(self, why: str) -> bool:
        """Whether the others go on without one that died before it was ready.

        One machine may lack what they have, such as memory.
        """
        if not (self.actors or self.idle):
            self.unready = 0
            return False
        self.unready += 1
        if self.unready == _TRIES:
            text = f"{_TRIES} workers died before they were ready ({why}): the others go on"
            self.lending.hear(None, "warn", {"text": text})
        return True

    def _lend(self, actor: Any) -> None:
        lease = self.lending.take(self.count)
        if lease is None:  # nothing to do until another one dies
            self.idle.append(actor)
            return
        generator = actor.do.options(num_returns="streaming").remote(lease)
        self.actors[generator] = actor, lease


def _words(error: Exception) -> str:
    """How an actor was lost."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "out of memory"
    text = str(error)
    if "out of memory" in text.lower() or "memory pressure" in text.lower():
        return "out of memory"
    return "its node was lost" if "node" in text.lower() and "died" in text.lower() else "killed"


def _foreign(error: Exception) -> Exception:
    """What Ray met before any of ours ran: for users where a package is missing."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, ImportError) or "ModuleNotFoundError" in str(error):
        name = getattr(cause, "name", None) or "fashionbatch or fashionbatch-ray"
        return ExecutionError(
            f"the workers of the cluster lack the package {name}: install the same packages "
            "everywhere"
        )
    if isinstance(error, ray.exceptions.RayTaskError):
        return error  # a bug
    return ExecutionError(
        f"the Ray cluster was lost ({_words(error)}): what is finished is kept; the same command "
        "goes on when the cluster is back"
    )


def _described() -> str:
    have = ray.cluster_resources()
    return f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
