"""Several devices: a process for each, and whole shards on lease to them.

The process that was asked to predict hands out runs of units, one after the other, to whoever has
none. Who gets a lease commits its parts; who dies loses it to the others. Which device predicted a
unit is not to be seen in its part.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fashionbatch.config import PredictConfig
from fashionbatch.errors import FashionbatchError, StoreError
from fashionbatch.inference import job as jobs
from fashionbatch.inference.plan import Plan
from fashionbatch.inference.reuse import Reuse
from fashionbatch.inference.stream import Failures, StoppedHere, Stream, Tell, Writer
from fashionbatch.interrupt import Interrupt, interrupts
from fashionbatch.models import choice
from fashionbatch.pipeline.pool import Pool
from fashionbatch.store import part as parts

#: leases that a device gets in a run, if all are as fast: fewer, and they do not end together
_EACH = 8
#: most units of a lease; batches are computed twice where two leases meet
_MOST = 16
#: processes that a unit may cost before the run gives up
_DEATHS = 3
#: that a process has for its end: a driver can hang
_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Lessee:
    """What a process needs to know to predict what it is given.

    Attributes:
        plan: of the run.
        model: folder of the model.
        config: of the run.
        output: the HDF5 file.
        engine: the fingerprint's words for it.
        fingerprint: of the run, for its parts.
        folder: of the parts.
        workers: processes that decode for it.
        retry: take rows over from the output that is there, without (``False``) or with what
            failed in it (``True``) to be tried again; ``None`` takes none over.
    """

    plan: Plan
    model: Path
    config: PredictConfig
    output: Path
    engine: dict[str, Any]
    fingerprint: str
    folder: Path
    workers: int
    retry: bool | None


def run(
    lessee: Lessee,
    devices: Sequence[str],
    pending: Sequence[int],
    failures: Failures,
    asked: Interrupt,
    tell: Tell,
) -> None:
    """Predicts the pending units on several devices.

    Args:
        lessee: what their processes need to know.
        devices: of torch.
        pending: numbers of units.
        failures: counts.
        asked: whether somebody wants an end.
        tell: gets what the processes tell, and ``("process", {"device", "pid"})`` for each.

    Raises:
        StoppedHere: somebody asked for an end.
        FashionbatchError: too much fails, a unit cost three processes, or whatever one of them met.
    """
    context = multiprocessing.get_context("spawn")  # a GPU's state does not bear a fork
    left = deque(_leases(sorted(pending), len(devices)))
    lost: Counter[int] = Counter()
    unready: Counter[str] = Counter()  # deaths before the first lease
    serving: dict[Connection, tuple[BaseProcess, str, list[int]]] = {}
    # since the lease was given: what is done again is not counted again
    told: dict[Connection, Counter[str]] = {}

    def start(device: str) -> None:
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, lessee, device), daemon=False)
        process.start()
        theirs.close()
        serving[mine] = process, device, []
        tell("process", {"device": device, "pid": process.pid})

    def lend(connection: Connection) -> None:
        process, device, _ = serving[connection]
        lease = left.popleft() if left else []
        serving[connection] = process, device, lease
        told[connection] = Counter()
        with suppress(OSError):  # it has died: that is heard of below
            connection.send(lease)

    try:
        for device in devices:
            start(device)
        while serving:
            for connection in wait(list(serving), timeout=1.0):
                assert isinstance(connection, Connection)
                process, device, lease = serving[connection]
                try:
                    event, values = connection.recv()
                except (EOFError, OSError):
                    del serving[connection]
                    _end(process)
                    if lease:
                        lost_now = told.pop(connection)
                        failures.forget(lost_now["failed"])
                        tell("progress", {name: -lost_now[name] for name in ("items", "reused")})
                        _count_loss(lost, lease, lessee.plan, device, process.exitcode)
                        left.append(lease)
                    elif left:
                        unready[device] += 1
                        if unready[device] >= _DEATHS:
                            raise _never_ready(device, process.exitcode) from None
                    if left and not asked:
                        start(device)
                    continue
                if event == "ready":
                    unready[device] = 0
                    lend(connection)
                elif event == "error":
                    raise FashionbatchError(values)
                elif event == "bug":
                    raise RuntimeError(f"in the process on {device}:\n{values}")
                elif event == "failed":
                    told[connection]["failed"] += values["count"]
                    failures.add(values["name"], values["reason"], values["count"])
                elif event == "known":
                    told[connection]["failed"] += values["count"]
                    failures.add_known(values["count"])
                else:
                    if event == "progress":
                        told[connection].update(values)
                    tell(event, values)
            if asked:
                raise StoppedHere
    finally:
        for connection, (process, _, _) in serving.items():
            connection.close()
            if process.is_alive():
                process.terminate()
        for process, _, _ in serving.values():
            _end(process)


def _end(process: BaseProcess) -> None:
    """Waits for it; what does not end of itself is killed."""
    process.join(_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


class Told(Failures):
    """Failures that another process counts."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(None, tell)

    def add(self, name: str, reason: str, count: int = 1) -> None:
        """See :class:`Failures`."""
        self.tell("failed", {"name": name, "reason": reason, "count": count})

    def add_known(self, count: int) -> None:
        """See :class:`Failures`."""
        self.tell("known", {"count": count})


def _untold(event: str, values: dict[str, Any]) -> None:
    """What the process that lends has told already."""


def _leases(pending: Sequence[int], devices: int) -> list[list[int]]:
    size = min(_MOST, max(1, len(pending) // (devices * _EACH)))
    return [list(pending[i : i + size]) for i in range(0, len(pending), size)]


def _never_ready(device: str, code: int | None) -> StoreError:
    return StoreError(
        f"the process on {device} died {_DEATHS} times before it was ready (exit code {code}): "
        "what is finished is kept; try --device in place of --devices"
    )


def _count_loss(
    lost: Counter[int], lease: Sequence[int], plan: Plan, device: str, code: int | None
) -> None:
    lost.update(lease)
    if max(lost[number] for number in lease) >= _DEATHS:
        first, last = (plan.units[n].name for n in (lease[0], lease[-1]))
        where = first if first == last else f"{first} to {last}"
        raise StoreError(
            f"{where}: the process on {device} died {_DEATHS} times (exit code {code}): what is "
            "finished is kept; try a smaller --batch-size, or --device in place of --devices"
        )


def _serve(connection: Connection, lessee: Lessee, device: str) -> None:
    """A process's whole life: prepares, then predicts lease after lease."""
    try:
        with interrupts() as asked:
            _predict(connection, lessee, device, asked)
    except (EOFError, BrokenPipeError, StoppedHere):
        return  # nobody waits for more
    except FashionbatchError as error:
        connection.send(("error", str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        connection.send(("error", f"{where}{error.strerror or error}"))
    except KeyboardInterrupt:
        return  # the process that lends tells of it
    except Exception:
        connection.send(("bug", traceback.format_exc()))


def _predict(connection: Connection, lessee: Lessee, device: str, asked: Interrupt) -> None:
    def tell(event: str, values: dict[str, Any]) -> None:
        connection.send((event, values))

    config = dataclasses.replace(lessee.config, device=device, devices=None)
    job = jobs.prepare(lessee.plan, lessee.model, config, lessee.output, _untold)
    with Pool(
        job.plan.catalogue,
        job.card.preprocessing,
        batch_size=job.grid.batch_size,
        workers=lessee.workers,
        limits=job.limits,
    ) as pool:
        engine = choice.remade(lessee.engine, job.engine_job()).engine
        reuse = None
        if lessee.retry is not None:
            reuse = Reuse(lessee.output, job.answers, retry=lessee.retry)
        connection.send(("ready", {}))
        while lease := connection.recv():
            stream = Stream(
                plan=job.plan,
                labels=job.labels,
                grid=job.grid,
                answers=job.answers,
                engine=engine,
                device=job.device,
                pool=pool,
                fingerprint=lessee.fingerprint,
                failures=Told(tell),
                asked=asked,
                tell=tell,
                reuse=reuse,
            )
            with Writer(lambda part: parts.commit(lessee.folder, part, again=True)) as writer:
                stream.run(lease, writer.put)
            connection.send(("ready", {}))
        engine.close()
