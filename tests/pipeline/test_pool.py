"""The pool: batches in order, each row its own image, whatever happens to the processes."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fashionbatch.errors import FashionbatchError, ImageError, ShardError, UnknownNameError
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.pool import Limits, Loaded, Pool, worker
from fashionbatch.pipeline.pool import pool as module
from fashionbatch.specs import Preprocessing
from tests.conftest import encode
from tests.pipeline.files import Files, descendants, pooled

SMALL = Preprocessing(size=8, resize=8, crop_mode="squash")
COUNT = 24
#: row n is an image of the grey n + 1
GREYS = [encode(Image.new("RGB", (9, 7), (n + 1,) * 3), "PNG") for n in range(COUNT)]
ORDER = [np.arange(start, start + 4) for start in range(0, COUNT, 4)]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process, zombie or descriptor survives a test."""
    processes, descriptors = descendants(os.getpid()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # the name of the folder's own descriptor is gone behind it
    yield
    assert descendants(os.getpid()) == processes
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def opened(images: Any, **options: Any) -> Pool:
    given: dict[str, Any] = {"batch_size": 4, "workers": 2, "limits": Limits()}
    return Pool(images, SMALL, **{**given, **options})


def greys(loaded: Loaded) -> list[int]:
    """The grey of each place; each image is of one."""
    flat = loaded.images.flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def run(pool: Pool, order: Sequence[np.ndarray] = ORDER) -> list[int]:
    """Greys of all batches, one after the other."""
    seen = []
    for loaded in pool.batches(order):
        seen += greys(loaded)
        loaded.release()
    return seen


def expected(*failed: int) -> np.ndarray:
    """Greys of all rows; black where they failed."""
    greys = np.arange(1, COUNT + 1)
    greys[list(failed)] = 0
    return greys


def through(images: Files, **options: Any) -> tuple[list[int], dict[int, str]]:
    found, failures = pooled(images, SMALL, **options)
    assert (found == found[:, :1, :1, :1]).all()
    return found[:, 0, 0, 0].tolist(), failures


class Acting(Files):
    """Greys, and something that is done when a row is read, in the process that reads it."""

    def __init__(self, act: Callable[[int, int], Any]) -> None:
        super().__init__(GREYS)
        self.act = act

    def read(self, row: int) -> bytes:
        """Calls ``act`` with the row and how often it was read before."""
        before = int(self.reads[row])
        data = super().read(row)
        self.act(row, before)
        return data


def at(row: int, act: Callable[[], Any], times: int = 100) -> Acting:
    """Acts at that row, the first so many times."""
    return Acting(lambda read, before: act() if read == row and before < times else None)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(workers: int) -> None:
    """Each row its own image, in order, with its hash, in the layout that networks like."""
    order = [np.array([7, 3, 5]), np.array([2]), np.array([], np.int64), np.array([9, 9, 1, 0])]
    with opened(Files(GREYS), workers=workers) as pool:
        for _ in range(2):  # a pool can be used again
            numbers = []
            for loaded, rows in zip(pool.batches(iter(order)), order, strict=True):
                numbers.append(loaded.number)
                assert loaded.rows.tolist() == rows.tolist()
                assert greys(loaded) == [*(rows + 1), *[0] * (4 - len(rows))]
                assert loaded.images.shape == (4, 3, 8, 8) and loaded.images.dtype == torch.uint8
                assert loaded.images.is_contiguous(memory_format=torch.channels_last)
                hashes = [hashlib.sha256(GREYS[row]).digest() for row in rows.tolist()]
                assert [h.tobytes() for h in loaded.sha256] == hashes
                assert not loaded.failures
                loaded.release()
            assert numbers == [0, 1, 2, 3]


def test_pixels_are_loads(clothing: Path) -> None:
    """Real photographs come as load makes them."""
    files = [p.read_bytes() for p in sorted((clothing / "validation").rglob("*.jpg"))[:10]]
    how = Preprocessing()
    found, failures = pooled(Files(files), how, workers=2)
    assert not failures
    assert (found == np.stack([load(data, how) for data in files])).all()


def test_buffers_bound_what_is_read() -> None:
    """Nothing is taken from the order, or read, before there is a free buffer."""
    images, taken = Files(GREYS), []

    def lazily() -> Iterator[np.ndarray]:
        for rows in ORDER:
            taken.append(rows)
            yield rows

    with opened(images, ahead=2) as pool:
        batches = pool.batches(lazily())
        held = [next(batches), next(batches)]
        time.sleep(0.1)
        assert len(taken) == 2 and images.reads.sum() == 8
        assert [greys(loaded) for loaded in held] == [[1, 2, 3, 4], [5, 6, 7, 8]]
        held[0].release()
        third = next(batches)
        assert greys(third) == [9, 10, 11, 12] and greys(held[1]) == [5, 6, 7, 8]
        assert len(taken) == 3
        with pytest.raises(RuntimeError, match="release"):
            next(batches)


def test_giving_back_twice_is_once() -> None:
    """A buffer that was given back twice is not used twice."""
    with opened(Files(GREYS), ahead=2) as pool:
        for loaded in pool.batches(ORDER[:3]):
            loaded.release()
            loaded.release()
        held = list(itertools.islice(pool.batches(ORDER), 2))
        assert [greys(loaded) for loaded in held] == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_batches_can_be_left_early() -> None:
    """What nobody waits for any more does not turn up later, and its buffers come back."""
    with opened(Files(GREYS)) as pool:
        for _ in range(5):
            batches = pool.batches(ORDER)
            loaded = next(batches)
            loaded.release()
            batches.close()
        rest = [greys(b) for b in pool.batches(ORDER[3:4])]
        assert rest == [[13, 14, 15, 16]]


def test_too_large_batches_are_a_mistake() -> None:
    """More rows than there is room for; and no workers at all."""
    with opened(Files(GREYS)) as pool, pytest.raises(ValueError, match="5 rows"):
        next(pool.batches([np.arange(5)]))
    for options in ({"workers": 0}, {"batch_size": 0}, {"ahead": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            opened(Files(GREYS), **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_images_that_cannot_be_used(workers: int) -> None:
    """Reasons by place, from reading and decoding; nothing of an earlier batch shows through."""

    def refuse(row: int, before: int) -> None:
        if row % 5 == 0:
            raise ImageError("read", "flipped")

    images = Acting(refuse)
    images.files = [b"junk" if n % 7 == 0 else data for n, data in enumerate(GREYS)]
    with opened(images, workers=workers, ahead=1) as pool:
        for loaded in pool.batches(ORDER):
            wrong = {r: "read" if r % 5 == 0 else "decode" for r in loaded.rows.tolist()
                     if r % 5 == 0 or r % 7 == 0}  # fmt: skip
            places = {loaded.rows.tolist().index(r): stage for r, stage in wrong.items()}
            assert {p: e.stage for p, e in loaded.failures.items()} == places
            for place, row in enumerate(loaded.rows.tolist()):
                assert greys(loaded)[place] == (0 if place in places else row + 1)
                assert loaded.sha256[place].any() == (places.get(place) != "read")
            loaded.release()


def stop(error: Exception) -> Acting:
    """Raises at row 9."""

    def act() -> None:
        raise error

    return at(9, act)


def test_errors_that_end_the_run_come_in_turn() -> None:
    """A damaged shard, say: behind the batches in front of it, and the pool goes on living."""
    images = stop(ShardError("shard-7.tar ends early"))
    with opened(images) as pool:
        batches = pool.batches(ORDER)
        for first in (0, 4):
            loaded = next(batches)
            assert greys(loaded)[0] == first + 1
            loaded.release()
        with pytest.raises(ShardError, match=r"^shard-7.tar ends early$"):
            next(batches)
        assert run(pool, ORDER[4:5]) == [17, 18, 19, 20]


def test_errors_that_cannot_be_pickled_keep_their_words() -> None:
    """Some error classes cannot be made from their message alone."""
    error = UnknownNameError("class", "drss", ["dress"])
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(error))
    with opened(stop(error)) as pool, pytest.raises(FashionbatchError, match="did you mean"):
        run(pool)


def test_bugs_show_where_they_are() -> None:
    """An exception that nobody foresaw ends the run, with the traceback of the worker."""
    with opened(stop(ZeroDivisionError("bug"))) as pool, pytest.raises(ZeroDivisionError) as caught:
        run(pool)
    assert "in act" in caught.value.__notes__[0]


DEATHS: dict[str, tuple[Callable[[], Any], str]] = {
    "segfault": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "the decoder crashed (signal 11)"),
    "abort": (os.abort, "the decoder crashed (signal 6)"),
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "the decoder crashed (signal 9)"),
    "exit": (lambda: os._exit(3), "the decoder ended (exit code 3)"),
}


@pytest.mark.parametrize(
    ("death", "row"), [*((death, 5) for death in DEATHS), ("abort", 0), ("abort", COUNT - 1)]
)
def test_fault_36_crash_costs_one_image(death: str, row: int) -> None:
    """Whatever place in a batch: tried twice, by two processes; all others are there."""
    act, reason = DEATHS[death]
    images = at(row, act)
    found, failures = through(images)
    assert failures == {row: reason}
    assert found == expected(row).tolist()
    assert images.reads[row] == 2


def test_decoder_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In decoding, too; its bytes have been read, so their hash is known."""

    def crash(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
        if data == GREYS[2]:
            os.abort()
        return load(data, preprocessing)

    monkeypatch.setattr(worker, "load", crash)
    with opened(Files(GREYS)) as pool:
        (loaded,) = pool.batches(ORDER[:1])
        assert str(loaded.failures[2]) == "decode: the decoder crashed (signal 6)"
        assert loaded.sha256[2].tobytes() == hashlib.sha256(GREYS[2]).digest()
        assert greys(loaded) == [1, 2, 0, 4]


def test_accident_costs_nothing() -> None:
    """A process that died at an image, but not at its second try: somebody else was at fault."""
    found, failures = through(at(6, lambda: os.kill(os.getpid(), signal.SIGKILL), times=1))
    assert not failures
    assert found == expected().tolist()


def test_many_crashes_in_a_row() -> None:
    """Each is found out on its own, with others that merely fail in between."""

    def act(row: int, before: int) -> None:
        if row in (4, 5, 6, 7, 12, 14):
            os.abort()
        if row in (13, 20):
            raise ImageError("read", "gone")

    found, failures = through(Acting(act), workers=2)
    assert sorted(failures) == [4, 5, 6, 7, 12, 13, 14, 20]
    assert failures[13] == failures[20] == "gone"
    assert found == expected(*failures).tolist()


def test_hang_costs_one_image() -> None:
    """Those that hang in several workers at the same time, too; none gets a second try."""

    def act(row: int, before: int) -> None:
        if row in (1, 6):
            time.sleep(600)

    images = Acting(act)
    found, failures = through(images, workers=2, limits=Limits(seconds=0.4))
    assert failures == {1: "took over 0.4 s", 6: "took over 0.4 s"}
    assert found == expected(1, 6).tolist()
    assert images.reads.tolist() == [1] * COUNT


def test_fresh_workers_get_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes a while to start does not hang, however long the pool has been waiting."""
    settle = worker._settle

    def slowly(limits: Limits) -> None:
        time.sleep(0.3)
        settle(limits)

    monkeypatch.setattr(worker, "_settle", slowly)
    monkeypatch.setattr(module, "_MOST_ACCIDENTS", 0)

    _, failures = through(at(5, lambda: time.sleep(600)), limits=Limits(seconds=1))
    assert failures == {5: "took over 1 s"}


def test_time_in_which_nobody_waits_does_not_count() -> None:
    """A program that does something else, or is stopped, for longer than the limit."""
    slow = {0: 0.3, 4: 1.7}  # the pool waits for row 0 and sees that row 4 is being read
    images = Acting(lambda row, before: time.sleep(slow.get(row, 0)))
    with opened(images, limits=Limits(seconds=1)) as pool:
        batches = pool.batches(ORDER)
        next(batches)
        time.sleep(1.2)
        assert not next(batches).failures
        assert images.reads[4] == 1


def hoard() -> None:
    """Takes 4 GiB; untouched, so that the machine does not suffer."""
    kept = [np.empty(16 << 20, np.uint8) for _ in range(256)]
    assert len(kept) == 256


def test_memory_limit_costs_one_image() -> None:
    """An image that takes more memory than it may: recorded, and the process lives."""
    images = at(6, hoard)
    found, failures = through(images, limits=Limits(memory=1 << 30))
    assert failures == {6: "took over 1 GiB of memory"}
    assert found == expected(6).tolist()
    assert len(set(images.read_by.tolist())) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        OSError("out of memory error when reading image file"),
        ImageError("decode", "not enough memory"),
    ],
)
def test_all_that_says_memory(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Python, the system, torch, Pillow and our own decoder each say it in their way."""

    def refuse(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
        raise error

    monkeypatch.setattr(worker, "load", refuse)
    with opened(Files(GREYS), limits=Limits(memory=512 << 20)) as pool:
        (loaded,) = pool.batches([np.array([0])])
        assert str(loaded.failures[0]) == "decode: took over 512 MiB of memory"


def test_worker_killed_from_outside_loses_nothing() -> None:
    """The process that was at work, again and again, as if memory had run out elsewhere."""
    images = Acting(lambda row, before: time.sleep(0.02))
    with opened(images, workers=2) as pool:
        seen, killed = [], set()
        for loaded in pool.batches(ORDER):
            assert not loaded.failures
            seen += greys(loaded)
            loaded.release()
            # where each is: never twice at the same image, which would then be to blame
            at_work = {int(p): row for row, p in enumerate(images.read_by) if p}
            for process in (at_work.keys() & descendants(os.getpid())) - killed:
                if images.reads[at_work[process]] == 1:
                    os.kill(process, signal.SIGKILL)
                    killed.add(process)
        assert seen == expected().tolist() and len(killed) >= 4


def test_processes_that_cannot_begin_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is blamed for a machine on which nothing starts, and nothing is tried for ever."""
    monkeypatch.setattr(worker, "_settle", lambda limits: os._exit(4))
    with opened(Files(GREYS)) as pool, pytest.raises(FashionbatchError, match=r"exit code 4"):
        next(pool.batches(ORDER))


def test_nursery_killed_from_outside_ends_the_run() -> None:
    """Nobody could replace a worker: said in one line, not waited for."""
    images = Acting(lambda row, before: time.sleep(0.05))
    with opened(images) as pool:
        batches = pool.batches(ORDER)
        next(batches)
        os.kill(nursery_of(pool), signal.SIGKILL)
        with pytest.raises(FashionbatchError, match=r"was killed.*--workers"):
            list(batches)


def nursery_of(pool: Pool) -> int:
    return int(pool._starter._process)  # type: ignore[attr-defined]  # it is forked here


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_workers_are_not_forked_from_a_process_of_threads() -> None:
    """Not even replacements: a lock that a thread of ours holds does not stop them."""
    images, lock, crash = Files(GREYS), threading.RLock(), at(5, os.abort)

    class Locking(Acting):
        def read(self, row: int) -> bytes:
            with lock:
                return super().read(row)

    images = Locking(crash.act)
    with opened(images, workers=1, limits=Limits(seconds=5)) as pool:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        for loaded in pool.batches(ORDER):
            assert parent_of(int(images.read_by[loaded.rows[-1]])) == nursery_of(pool)
            assert set(loaded.failures) == ({1} if loaded.number == 1 else set())
            loaded.release()
        done.set()
        thread.join()


def test_workers_ignore_what_ends_the_main_process_gently() -> None:
    """Ctrl-C goes to all processes of a terminal, a scheduler's SIGTERM too: ours decides."""
    images = Acting(lambda row, before: time.sleep(0.01))
    with opened(images) as pool:
        seen = []
        for loaded in pool.batches(ORDER):
            for process in descendants(os.getpid()):
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.kill(process, number)
            seen += greys(loaded)
            loaded.release()
        assert seen == expected().tolist()
        assert images.reads.tolist() == [1] * COUNT


def test_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers share the cores by their number, not by threads."""

    def say(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
        return np.full((8, 8, 3), torch.get_num_threads(), np.uint8)

    monkeypatch.setattr(worker, "load", say)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found, _ = pooled(Files(GREYS[:1]), SMALL)
    finally:
        torch.set_num_threads(before)
    assert (found == 1).all()


def test_few_images_start_few_processes() -> None:
    """One batch needs one worker."""
    before = descendants(os.getpid())
    with opened(Files(GREYS), workers=8) as pool:
        next(pool.batches(ORDER[:1])).release()
        assert len(descendants(os.getpid()) - before) == 2  # and the nursery


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_block_that_fails_ends_all(error: type[BaseException]) -> None:
    """Whatever ends the block, even while workers hang."""
    images = at(4, lambda: time.sleep(600))

    def fail() -> None:
        with opened(images) as pool:
            next(pool.batches(ORDER))
            raise error

    with pytest.raises(error):
        fail()


@pytest.mark.parametrize("busy", [False, True])
def test_parent_killed_leaves_no_process(busy: bool) -> None:
    """kill -9 of the main process: the others end by themselves, one that hangs, too."""
    reading, writing = os.pipe()
    main = os.fork()
    if not main:
        images = at(6, lambda: time.sleep(600))
        try:
            with opened(images) as pool:
                for _ in pool.batches(ORDER):
                    os.write(writing, b"ready")
                    time.sleep(600 if busy else 0)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 5) == b"ready"
    assert len(descendants(main)) >= 2  # the nursery and a worker
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    # the pipe, which all of them have inherited, ends with the last
    assert select.select([reading], [], [], 30)[0] and os.read(reading, 1) == b""
    os.close(reading)
