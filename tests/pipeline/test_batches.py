"""Batches: the same whatever the workers, and every row its own image."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fashionbatch.errors import ImageError, ShardError
from fashionbatch.pipeline import batches as module
from fashionbatch.pipeline.batches import Batch, Order, batches, default_workers
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.pool import Limits, worker
from fashionbatch.specs import Preprocessing
from tests.conftest import encode
from tests.pipeline.files import descendants

SMALL = Preprocessing(size=8, resize=8, crop_mode="squash")
ROWS = np.arange(10, dtype=np.int64)


class Plain:
    """Row ``n`` is an image of the grey ``n``; rows of ``bad`` cannot be used."""

    def __init__(self, *bad: int, fatal: int | None = None) -> None:
        self.bad = bad
        self.fatal = fatal

    def read(self, row: int) -> bytes:
        if row == self.fatal:
            raise ShardError("shard-7.tar ends early")
        if row in self.bad:
            return b"garbage" if row % 2 else self._refuse()
        return encode(Image.new("RGB", (9, 7), (row, row, row)), "PNG")

    def _refuse(self) -> bytes:
        raise ImageError("read", "flipped")


class Without(Plain):
    """Its bad images are told of, and say nothing of why."""

    def read(self, row: int) -> bytes:
        if row in self.bad:
            raise ImageError("decode", "left out")
        return super().read(row)


def views(size: int, augment: str, start: int = 0) -> Order:
    """Backwards, and as random views."""
    batches = Order.sequential(ROWS[::-1], size).batches
    return Order(batches=batches, start=start, augment=augment, seed=(1, 2))


def run(images: Plain, order: Order, workers: int = 0) -> list[Batch]:
    return list(batches(images, order, SMALL, workers=workers))


def same(one: list[Batch], two: list[Batch]) -> bool:
    return len(one) == len(two) and all(
        a.number == b.number
        and a.rows.tolist() == b.rows.tolist()
        and torch.equal(a.images, b.images)
        and [(r, str(e)) for r, e in a.failures] == [(r, str(e)) for r, e in b.failures]
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("augment", ["none", "paper"])
def test_workers_change_nothing(augment: str) -> None:
    """0, 1 and 2 workers give the same batches in the same order, random views included."""
    order = views(3, augment)
    images = Plain(4, 7)
    alone = run(images, order)
    assert [b.number for b in alone] == [0, 1, 2, 3]
    for workers in (1, 2):
        assert same(alone, run(images, order, workers))
        for start in (1, 3, 4):  # as a resumed training begins within an epoch
            assert same(alone[start:], run(images, views(3, augment, start), workers))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@pytest.mark.parametrize("workers", [0, 1])
def test_pinned_memory_changes_nothing(workers: int) -> None:
    """Where there is no GPU the loader leaves it out; failures and errors come through as ever."""
    made = batches(Plain(4, 7), views(3, "paper"), SMALL, workers=workers, pinned=True)
    assert same(list(made), run(Plain(4, 7), views(3, "paper")))
    with pytest.raises(ShardError, match="shard-7.tar ends early"):
        list(batches(Plain(fatal=5), views(3, "none"), SMALL, workers=workers, pinned=True))


def test_a_batch_is_pinned_by_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of it stays as it is."""
    made = Batch(number=3, rows=np.arange(2), images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    pinned = made.pin_memory()
    assert (pinned.number, pinned.rows, pinned.failures) == (3, made.rows, ())
    assert torch.equal(pinned.images, made.images + 1)


def test_loading_draws_nothing() -> None:
    """The generator that a resumed training goes on with is left alone."""
    before = torch.get_rng_state()
    run(Plain(), views(3, "paper"), 1)
    assert torch.equal(before, torch.get_rng_state())


def test_rows_match_images() -> None:
    """images[i] is the image of rows[i]; on the scale 0..255, uint8."""
    for batch in run(Plain(0, 5), views(4, "none"), 2):
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (len(batch.rows), 3, 8, 8)
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            assert (image == row).all()


def test_failures_are_separated_from_their_neighbours() -> None:
    """Fault 27: every row is either in a batch or in its failures, with stage and reason."""
    found = run(Plain(3, 4, 9), Order.sequential(ROWS, 5), 2)
    assert [b.rows.tolist() for b in found] == [[0, 1, 2], [5, 6, 7, 8]]
    assert [[r for r, _ in b.failures] for b in found] == [[3, 4], [9]]
    stages = {row: error.stage for b in found for row, error in b.failures}
    assert stages == {3: "decode", 4: "read", 9: "decode"}


def test_batch_of_failures_only_is_empty() -> None:
    """It still comes, so that nothing is left uncounted."""
    (batch,) = run(Plain(0, 1), Order.sequential(ROWS[:2], 2))
    assert batch.rows.tolist() == [] and batch.images.shape == (0, 3, 8, 8)
    assert len(batch.failures) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_fatal_errors_come_through_as_they_are(workers: int) -> None:
    """A damaged shard ends the run with its own message, also out of a worker."""
    with pytest.raises(ShardError) as caught:
        run(Plain(fatal=8), Order.sequential(ROWS, 2), workers)
    assert str(caught.value) == "shard-7.tar ends early"


def test_environment_drops_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 42: leftovers of a cluster job in the environment change nothing."""
    order = Order.sequential(ROWS, 3)
    alone = run(Plain(), order)
    leftovers = {"WORKER": "1", "NUM_WORKERS": "4", "RANK": "1", "WORLD_SIZE": "2"}
    for name, value in {**leftovers, "LOCAL_RANK": "1", "GOPEN_VERBOSE": "0"}.items():
        monkeypatch.setenv(name, value)
    for workers in (0, 2):
        assert same(alone, run(Plain(), order, workers))


def test_no_rows_make_no_batches() -> None:
    """An empty order ends at once, with workers too."""
    assert run(Plain(), Order.sequential(ROWS[:0], 4), 2) == []


def test_sequential_keeps_the_order() -> None:
    """The last batch holds what is left."""
    assert [b.tolist() for b in Order.sequential(ROWS, 4).batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_views_differ_between_epochs_and_batches() -> None:
    """Each epoch and each batch has its own random views."""
    same_rows = [np.array([200, 201]), np.array([200, 201])]

    class Photos(Plain):
        def read(self, row: int) -> bytes:
            noise = np.random.default_rng(row).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            return encode(Image.fromarray(noise), "PNG")

    one, two = run(Photos(), Order(batches=same_rows, augment="paper", seed=(0, 0)))
    other = run(Photos(), Order(batches=same_rows, augment="paper", seed=(0, 1)))[0]
    assert not torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)


HANG = ctypes.PyDLL(None).pause  # waits in C, holding the interpreter: no Python runs


def hoard() -> None:
    """Takes 4 GiB; untouched, so that the machine does not suffer."""
    kept = [np.empty(16 << 20, np.uint8) for _ in range(256)]
    assert len(kept) == 256


def test_fault_36_images_that_end_or_stop_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang, a crash and a memory hog cost themselves; all other batches are what they were."""
    bad = {2: HANG, 5: hoard, 9: os.abort}

    def decode(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
        pixels = load(data, preprocessing)
        bad.get(int(pixels[0, 0, 0]), int)()
        return pixels

    order = views(3, "paper")
    without = run(Without(*bad), order)
    monkeypatch.setattr(worker, "load", decode)
    monkeypatch.setattr(module, "Limits", lambda: Limits(seconds=0.5, memory=1 << 30))
    found = run(Plain(), order, workers=2)
    for batch, expected in zip(found, without, strict=True):
        assert batch.rows.tolist() == expected.rows.tolist()
        assert torch.equal(batch.images, expected.images)
    assert {row: str(error) for batch in found for row, error in batch.failures} == {
        2: "decode: took over 0.5 s",
        5: "decode: took over 1 GiB of memory",
        9: "decode: the decoder crashed (signal 6)",
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_no_process_is_left(workers: int) -> None:
    """Neither of an epoch that came to its end, nor of one that was left."""
    before = descendants(os.getpid())
    run(Plain(), views(3, "none"), workers)
    left = batches(Plain(), views(2, "none"), SMALL, workers=workers)
    next(left)
    until = time.monotonic() + 20
    while len(descendants(os.getpid()) - before) < 3 * workers:  # loaders, nurseries, decoders
        assert time.monotonic() < until
        time.sleep(0.02)
    left.close()
    until = time.monotonic() + 20
    while descendants(os.getpid()) - before and time.monotonic() < until:
        time.sleep(0.02)
    assert descendants(os.getpid()) == before


def test_default_workers_fit_the_machine() -> None:
    """At least one, at most the cores."""
    for device in ("cpu", "cuda"):
        assert 1 <= default_workers(device) <= (os.cpu_count() or 1)


def test_shards_feed_batches(catalog: object, pack: object, tmp_path: Path) -> None:
    """Packed photographs come through two workers, each beside its own row."""
    from fashionbatch.shards.read import open_shards

    shards = open_shards(pack(catalog({"dress": 6, "hat": 6}))[0])  # type: ignore[operator]  # fixtures
    found = list(batches(shards, Order.sequential(shards.select(), 5), SMALL, workers=2))
    assert np.concatenate([b.rows for b in found]).tolist() == list(range(12))
    for batch in found:
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            expected = load(shards.read(row), SMALL)
            assert (image.permute(1, 2, 0).numpy() == expected).all()
