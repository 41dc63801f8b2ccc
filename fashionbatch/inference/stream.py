"""The streaming loop of a bulk prediction: images in, parts out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.errors import ImageError
from fashionbatch.execution.worker import StoppedHere, Tell
from fashionbatch.inference.answers import Answers
from fashionbatch.inference.gathering import Gathering
from fashionbatch.inference.grid import Grid, Rows, Share
from fashionbatch.inference.plan import Plan, Unit
from fashionbatch.inference.reuse import Reuse
from fashionbatch.interrupt import Interrupt
from fashionbatch.models.engine import Engine, answers
from fashionbatch.pipeline.pool import Loaded, Pool
from fashionbatch.store.part import Part


class Writer:
    """Commits parts while the network goes on; a context manager.

    Args:
        commit: writes a part for good.
    """

    #: parts that wait to be written: more would only fill the memory
    MOST = 2

    def __init__(self, commit: Callable[[Part], None]) -> None:
        self._commit = commit
        self._thread = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[None]] = deque()

    def put(self, part: Part) -> None:
        """Hands a part over; waits where the disk is slower than the network.

        Raises:
            OSError: an earlier one could not be written.
        """
        while len(self._waiting) >= self.MOST:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._commit, part))

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # what is complete is written, also where the run ends with an error
        self._thread.shutdown()
        while self._waiting:
            failed = self._waiting.popleft().exception()
            if failed is not None and error is None:
                raise failed


class Stream:
    """Predicts units.

    Args:
        plan: what there is.
        labels: gives those of a unit's images, int32.
        grid: which images go through the network together.
        answers: makes columns of what it says.
        engine: runs it.
        device: that it runs on.
        pool: reads and decodes.
        fingerprint: of the run, for its parts.
        reuse: an earlier file to take rows from.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        labels: Callable[[Unit], npt.NDArray[np.int32]],
        grid: Grid,
        answers: Answers,
        engine: Engine,
        device: torch.device,
        pool: Pool,
        fingerprint: str,
        reuse: Reuse | None = None,
    ) -> None:
        self.plan, self.labels, self.grid, self.answers = plan, labels, grid, answers
        self.engine, self.pool, self.fingerprint = engine, pool, fingerprint
        self.reuse = reuse
        # a GPU works on a batch while the answers to the one before it are sorted in
        self._lead = 1 if device.type == "cuda" else 0

    def run(
        self,
        pending: Sequence[int],
        put: Callable[[Part], None],
        tell: Tell,
        asked: Interrupt,
    ) -> None:
        """Predicts units.

        Args:
            pending: their numbers.
            put: gets the part of each.
            tell: gets ``("progress", {"items"})``, with ``"reused"`` of rows that were taken over;
                ``("failed", {"name", "reason", "count"})``; ``("known", {"count"})`` of what
                failed in an earlier run; ``("warn", {"text"})``. What it raises ends the run.
            asked: whether somebody wants an end.

        Raises:
            StoppedHere: somebody asked for an end.
            ModelError: the memory is too small for a batch.
        """
        self._put, self._tell = put, tell
        self._open: dict[int, Gathering] = {}
        self._shares: deque[list[Share]] = deque()  # of the batches on their way
        order = self._in_grid(pending) if self.reuse is None else self._what_is_new(pending)
        told = 0
        running: deque[tuple[Loaded, tuple[Tensor, ...]]] = deque()
        for loaded in self.pool.batches(order):
            running.append((loaded, answers(self.engine, self._pinned(loaded.images))))
            if len(running) > self._lead:
                self._sort_in(*running.popleft())
            for note in self.engine.notes[told:]:
                tell("warn", {"text": note})
            told = len(self.engine.notes)
            if asked:
                raise StoppedHere
        while running:
            self._sort_in(*running.popleft())

    def _pinned(self, images: Tensor) -> Tensor:
        return images.pin_memory() if self._lead else images

    def _in_grid(self, pending: Sequence[int]) -> Iterator[Rows]:
        """The batches of a run that starts or goes on."""
        wanted = set(pending)
        waiting = deque(sorted(pending))

        def open_to(last: int) -> None:
            while waiting and waiting[0] <= last:
                gathering = self._opened(waiting.popleft())
                if gathering.complete:  # damaged, or empty
                    self._finish(gathering)

        for number in self.grid.numbers(pending):
            shares = [share for share in self.grid.shares(number) if share.unit in wanted]
            open_to(shares[-1].unit)
            self._shares.append(shares)
            yield self.grid.rows(number)
        open_to(len(self.plan.units))

    def _what_is_new(self, pending: Sequence[int]) -> Iterator[Rows]:
        """Batches of what the earlier file does not know."""
        assert self.reuse is not None
        rows: list[Rows] = []
        shares: list[Share] = []
        count, size = 0, self.grid.batch_size
        for number in pending:
            gathering = self._opened(number)
            places = np.empty(0, np.int64)
            if gathering.unit.damage is None:
                places = self.reuse.fill(gathering)
            self._taken_over(gathering, len(places))
            if gathering.complete:
                self._finish(gathering)
            while len(places):
                chosen = places[: size - count]
                places = places[len(chosen) :]
                rows.append(gathering.unit.rows[chosen])
                shares.append(Share(unit=number, places=chosen, offset=count))
                count += len(chosen)
                if count == size:
                    self._shares.append(shares)
                    yield np.concatenate(rows)
                    rows, shares, count = [], [], 0
        if count:
            self._shares.append(shares)
            yield np.concatenate(rows)

    def _opened(self, number: int) -> Gathering:
        unit = self.plan.units[number]
        labels = self.labels(unit)
        gathering = Gathering(number, unit, self.plan.catalogue, self.answers, labels)
        self._open[number] = gathering
        for skipped in unit.skipped:
            self._tell_failed(skipped.name, skipped.reason)
        if unit.damage is not None:
            self._tell_failed(unit.name, unit.damage, unit.count - len(unit.skipped))
        given_up = unit.count if unit.damage is not None else len(unit.skipped)
        if given_up:
            self._tell("progress", {"items": given_up})
        return gathering

    def _taken_over(self, gathering: Gathering, left: int) -> None:
        if gathering.unit.damage is None:
            taken = len(gathering.unit.chosen) - left
            known = gathering.failed - len(gathering.unit.skipped)
            self._tell("known", {"count": known})
            self._tell("progress", {"items": taken, "reused": taken})

    def _sort_in(self, loaded: Loaded, answers: tuple[Tensor, ...]) -> None:
        columns, refused = self.answers.columns(answers)
        failed = {**refused, **loaded.failures}
        for share in self._shares.popleft():
            gathering = self._open[share.unit]
            at = np.arange(share.offset, share.offset + len(share.places))
            bad = np.array([place in failed for place in at.tolist()], bool)
            good = at[~bad]
            gathering.add(
                share.places[~bad], {n: v[good] for n, v in columns.items()}, loaded.sha256[good]
            )
            for place, offset in zip(share.places[bad].tolist(), at[bad].tolist(), strict=True):
                self._fail(gathering, place, failed[offset], loaded.sha256[offset].tobytes())
            self._tell("progress", {"items": len(at)})
            if gathering.complete:
                self._finish(gathering)
        loaded.release()

    def _fail(self, gathering: Gathering, place: int, error: ImageError, sha256: bytes) -> None:
        gathering.fail(place, error, sha256)
        name = self.plan.catalogue.name(int(gathering.unit.rows[place]))
        self._tell_failed(name, str(error))

    def _tell_failed(self, name: str, reason: str, count: int = 1) -> None:
        self._tell("failed", {"name": name, "reason": reason, "count": count})

    def _finish(self, gathering: Gathering) -> None:
        del self._open[gathering.number]
        self._put(gathering.close(self.fingerprint))
