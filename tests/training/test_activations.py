"""What the frozen part gives: computed once, kept whole or found out, read back as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fashionbatch.builtin.engines import Eager
from fashionbatch.errors import StoppedError, TrainingError, UnknownNameError
from fashionbatch.models import choice
from fashionbatch.models.build import Classifier, Head
from fashionbatch.models.cut import Crossing, Cut
from fashionbatch.pipeline.decode import decode
from fashionbatch.pipeline.transforms import fit
from fashionbatch.registry import Component
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.specs import EngineSpec, HeadSpec, Preprocessing
from fashionbatch.training.activations import computation, memory
from fashionbatch.training.activations.computation import Views, compute
from fashionbatch.training.activations.part import PLAIN, Collected, Part
from fashionbatch.training.activations.reader import Activations
from fashionbatch.training.cached import Cached
from fashionbatch.training.targets import Targets
from tests.forks import one_core

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
SMALL = Preprocessing(size=8, resize=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CROSSING = (Crossing("maps", (3, 4, 4)), Crossing("sums", (3,)))


class Prefix(nn.Module):
    """Maps and sums; counts what runs through it, and dies of a number of images."""

    def __init__(self, factor: float = 1.0, deadly: int | None = None) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))
        self.seen = 0
        self.deadly = deadly

    def __deepcopy__(self, memo: Any) -> Prefix:
        return self  # an engine runs a copy, whose counts nobody would see

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.seen += int((images > -1).flatten(1).any(1).sum())  # the black ones fill a batch up
        if self.deadly is not None and self.seen > self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return images[:, :, ::2, ::2] * self.factor, images.sum(dim=(2, 3))


class Tail(nn.Module):
    def forward(self, crossing: tuple[Tensor, ...]) -> Tensor:
        return crossing[0].flatten(1)


@pytest.fixture(scope="module")
def shards() -> Iterator[ShardSet]:
    with open_shards(SAMPLE) as opened:
        yield opened


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven images a part, in batches of four."""
    row = 2 * (3 * 4 * 4 + 3)
    monkeypatch.setattr(computation, "_PART_BYTES", 7 * row + 1)
    monkeypatch.setattr(computation, "_TOGETHER", 4)


def classifier() -> Classifier:
    return Classifier(nn.Flatten(), Head(48, 10, HeadSpec()), SMALL)


def made(
    shards: ShardSet, folder: Path, views: Views, prefix: Prefix | None = None, **options: Any
) -> Activations:
    values: dict[str, Any] = {
        "backbone": {"name": "x"}, "workers": 0, "device": torch.device("cpu"),
        "engine": "eager", "precision": "float32", "planned": lambda size, path: None,
        "progress": lambda count: None, "tell": lambda event, values: None,
    }  # fmt: skip
    parts = Cut(prefix=prefix or Prefix(), tail=Tail(), crossing=CROSSING)
    return compute(parts, classifier(), shards, views, SMALL, folder, **{**values, **options})


def pixels(shards: ShardSet, row: int) -> Tensor:
    image = torch.from_numpy(fit(decode(shards.read(row)), SMALL).copy()).permute(2, 0, 1)
    return (image / 255 - 0.5) / 0.5


def files_of(folder: Path) -> dict[str, bytes]:
    [own] = folder.iterdir()
    return {p.name: p.read_bytes() for p in sorted(own.glob("part-*.h5"))}


ROWS = np.arange(10, 40, dtype=np.int64)


def test_values_are_those_of_the_prefix(
    shards: ShardSet, tmp_path: Path, small_parts: None
) -> None:
    """float16 of what the prefix gives for each image, in any order; a second run computes none."""
    prefix, counts, planned = Prefix(), [], []
    found = made(
        shards, tmp_path, Views(plain=ROWS), prefix,
        progress=counts.append, planned=lambda size, path: planned.append(size),
    )  # fmt: skip
    assert (prefix.seen, sum(counts), found.reused, found.held) == (30, 30, False, True)
    rows = np.array([39, 10, 22, 22], np.int64)
    maps, sums = found.batch(found.places(rows, PLAIN))
    expected, expected_sums = Prefix()(torch.stack([pixels(shards, r) for r in rows.tolist()]))
    assert maps.dtype == torch.float32
    assert torch.equal(maps, expected.half().float())
    assert torch.equal(sums, expected_sums.half().float())
    assert found.places(np.array([9, 10, 40]), PLAIN).tolist() == [-1, 0, -1]
    assert found.places(rows, 0).tolist() == [-1] * 4
    stored = files_of(tmp_path)
    assert len(stored) == 5
    assert planned == [sum(map(len, stored.values()))]  # to the byte
    again = Prefix()
    second = made(shards, tmp_path, Views(plain=ROWS), again, planned=planned.append)
    assert (again.seen, second.reused, len(planned)) == (0, True, 1)


def test_anything_that_matters_is_in_the_key(
    shards: ShardSet, tmp_path: Path, small_parts: None
) -> None:
    """Other weights, rows, network, views or seed: computed anew, beside the others."""
    random = Views(plain=ROWS[:4], augmented=ROWS[4:8], copies=1, augment="flip", seed=1)
    made(shards, tmp_path, Views(plain=ROWS[:4]))
    made(shards, tmp_path, Views(plain=ROWS[:4]), Prefix(2.0))
    made(shards, tmp_path, Views(plain=ROWS[:5]))
    made(shards, tmp_path, Views(plain=ROWS[:4]), backbone={"name": "y"})
    made(shards, tmp_path, random)
    made(shards, tmp_path, Views(**{**vars(random), "seed": 2}))
    made(shards, tmp_path, Views(**{**vars(random), "copies": 2}))
    made(shards, tmp_path, Views(**{**vars(random), "augment": "paper"}))
    assert len(list(tmp_path.iterdir())) == 8


def test_memory_and_file_give_equal_batches(
    shards: ShardSet, tmp_path: Path, small_parts: None
) -> None:
    """Bit for bit, for any places, repeated and in any order; the budget decides."""
    held = made(shards, tmp_path, Views(plain=ROWS))
    read = made(shards, tmp_path, Views(plain=ROWS), budget=30 * (48 + 3) * 2 - 1)
    assert held.held and not read.held
    assert made(shards, tmp_path, Views(plain=ROWS), budget=30 * (48 + 3) * 2).held

    @given(st.lists(st.integers(0, 29), max_size=20))
    def check(places: list[int]) -> None:
        chosen = np.array(places, np.int64)
        for a, b in zip(held.batch(chosen), read.batch(chosen), strict=True):
            assert a.shape == b.shape and torch.equal(a, b)
            assert b.data_ptr() % 64 == 0 or not len(places)

    check()
    read.close()


@pytest.mark.parametrize("copies", [0, 2])
def test_killed_computation_goes_on(
    shards: ShardSet, tmp_path: Path, small_parts: None, copies: int
) -> None:
    """After SIGKILL the finished parts are kept; the result is what it would have been."""
    views = Views(
        plain=ROWS, augmented=ROWS if copies else ROWS[:0], copies=copies, augment="paper"
    )
    made(shards, tmp_path / "whole", views)
    child = os.fork()
    if not child:
        one_core()
        try:
            made(shards, tmp_path / "cut", views, Prefix(deadly=17 + 30 * copies))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    kept = files_of(tmp_path / "cut")
    assert len(kept) == 2 + 5 * copies
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cut").glob("*/part-*")}
    prefix, counts = Prefix(), []
    made(shards, tmp_path / "cut", views, prefix, progress=counts.append)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert prefix.seen == 16 and sum(counts) == 30 * (1 + copies)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cut").glob("*/part-*")}
    assert all(after[name] == moment for name, moment in times.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_computation_goes_on(
    shards: ShardSet, tmp_path: Path, small_parts: None, number: int
) -> None:
    """A signal is answered behind the batch, in one line; finished parts are kept."""
    views = Views(plain=ROWS)
    made(shards, tmp_path / "whole", views)
    counts: list[int] = []

    def progress(count: int) -> None:
        counts.append(count)
        if len(counts) == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(StoppedError, match="the same command goes on from there"):
        made(shards, tmp_path / "cut", views, progress=progress)
    assert sum(counts) < 30 and len(list((tmp_path / "cut").glob("*/part-*"))) == 1
    made(shards, tmp_path / "cut", views)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_parts_are_of_some_minutes() -> None:
    """Features of a byte: what is lost with an unfinished part is bounded in images, too."""
    views = Views(plain=np.arange(20_000))
    found = views.parts([Crossing("x", (2,))])
    assert [len(part.rows) for part in found] == [8192, 8192, 3616]


def test_any_flipped_byte_is_found_and_only_its_part_is_made_again(
    shards: ShardSet, tmp_path: Path, small_parts: None
) -> None:
    """Wherever the byte lies, what is read back is what was written."""
    views = Views(plain=ROWS[:14])
    made(shards, tmp_path, views)
    whole = files_of(tmp_path)
    [path] = tmp_path.glob("*/part-000001.h5")
    with h5py.File(path) as file:
        inside = file["tensors/maps"].id.get_chunk_info(0).byte_offset
    size = len(whole[path.name])
    for place in (inside, inside + 300, *range(0, size, max(1, size // 40))):
        damaged = bytearray(whole[path.name])
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        prefix = Prefix()
        found = made(shards, tmp_path, views, prefix)
        assert prefix.seen in (0, 7)  # 0: the byte means nothing
        if place in (inside, inside + 300):
            assert prefix.seen == 7 and files_of(tmp_path) == whole
        path.write_bytes(whole[path.name])
        expected = made(shards, tmp_path, views)
        everything = np.arange(14)
        pairs = zip(found.batch(everything), expected.batch(everything), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_damage_while_training_is_one_line(
    shards: ShardSet, tmp_path: Path, small_parts: None
) -> None:
    """A file that was whole at the start and is not any more ends the training."""
    found = made(shards, tmp_path, Views(plain=ROWS[:4]), budget=0)
    [path] = tmp_path.glob("*/part-*.h5")
    with h5py.File(path) as file:
        place = file["tensors/maps"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match="damaged.*run the same command again") as caught:
        found.batch(np.arange(4))
    assert "\n" not in str(caught.value)


def test_too_little_room_is_said_before_anything_is_written(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
) -> None:
    """What it takes, what is free, what to do."""
    folder = tmp_path / "runs" / ".features"
    planned: list[int] = []
    made(shards, tmp_path / "other", Views(plain=ROWS), planned=lambda n, p: planned.append(n))

    def room(free: int) -> None:
        usage = lambda path: type("Usage", (), {"free": free})  # noqa: E731
        monkeypatch.setattr(computation.shutil, "disk_usage", usage)

    room(planned[0] - 1)
    with pytest.raises(TrainingError, match="30 images takes .*free.*--augment-copies") as caught:
        made(shards, folder, Views(plain=ROWS))
    assert "\n" not in str(caught.value) and not folder.exists()
    room(planned[0])
    made(shards, folder, Views(plain=ROWS))


def test_values_too_large_for_float16_are_kept(
    shards: ShardSet, tmp_path: Path, small_parts: None
) -> None:
    """Only that tensor of that part is float32, and nothing becomes infinite."""

    class Large(Prefix):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            maps, sums = super().forward(images)
            return torch.where(torch.tensor(self.seen > 8), maps.abs() + 70000.0, maps), sums

    for budget in (0, 1 << 20):
        found = made(shards, tmp_path, Views(plain=ROWS), Large(), budget=budget)
        maps, sums = found.batch(np.arange(30))
        expected = Large()
        expected.seen = 9
        exact, _ = expected(torch.stack([pixels(shards, r) for r in ROWS[-4:].tolist()]))
        assert torch.equal(maps[-4:], exact) and maps.isfinite().all() and sums.isfinite().all()
        assert maps[0].abs().max() < 2
    types = []
    for path in sorted(tmp_path.glob("*/part-*.h5")):
        with h5py.File(path) as file:
            types.append((file["tensors/maps"].dtype.itemsize, file["tensors/sums"].dtype.itemsize))
    assert types == [(2, 2), (4, 2), (4, 2), (4, 2), (4, 2)]


@given(st.floats(60000, 70000, width=32))
def test_the_border_of_float16(value: float) -> None:
    """float16 where it rounds to a finite number, else float32."""
    part = Part(number=0, copy=PLAIN, rows=np.arange(1))
    collected = Collected(part=part, crossing=(Crossing("x", (1,)),))
    collected.add(part.rows, (torch.tensor([[-value]]),))
    [kept] = collected._buffers
    assert np.isfinite(kept).all()
    assert kept.dtype == (np.float16 if value < 65520 else np.float32)


def test_images_that_cannot_be_used_are_failures(
    write: Callable[..., Any], photo: Callable[..., bytes], tmp_path: Path, small_parts: None
) -> None:
    """Bytes that are no image, and numbers that are not finite: by row, kept for the next run."""
    from fashionbatch.sources import Item

    items = [
        Item(
            name=f"{i}.jpg",
            data=b"no image" if i == 3 else photo(i),
            label="ab"[i % 2],
            split="train",
        )
        for i in range(12)
    ]
    write(items, samples_per_shard=20)

    class Odd(Prefix):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            maps, sums = super().forward(images)
            if self.seen <= 4:  # the first batch
                sums[0, 1] = float("nan")
            return maps, sums

    with open_shards(tmp_path / "set") as shards:
        rows = np.arange(12, dtype=np.int64)
        bad = next(r for r in range(12) if shards.name(r) == "3.jpg")
        results = [made(shards, tmp_path / "f", Views(plain=rows), Odd()) for _ in "ab"]
        assert results[1].reused
        for found in results:
            assert len(found) == 12 - len(found.failed)
            assert bad in found.failed and len(found.failed) == 2
            assert (found.places(rows, PLAIN) < 0).sum() == len(found.failed)
            assert all(t.isfinite().all() for t in found.batch(np.arange(len(found))))
        assert results[0].failed == results[1].failed
        task = Cached(
            model=classifier(), tail=Tail(), activations=results[1],
            targets=lambda r: Targets(category=torch.from_numpy(shards.labels[r].astype(np.int64))),
            names=shards.name, rows={"train": rows, "val": rows},
            orders=lambda epoch: [np.array([bad]), rows[::-1]], batch_size=5,
        )  # fmt: skip
        assert task.steps() == 2
        empty, full = task.train_batches(0)
        assert tuple(empty.keys) == () and len(empty.targets) == 0
        good = [r for r in rows[::-1].tolist() if r not in results[1].failed]
        assert tuple(full.keys) == tuple(shards.name(r) for r in good)
        assert full.targets.category is not None
        assert full.targets.category.tolist() == shards.labels[good].tolist()
        assert [len(b.keys) for b in task.train_batches(0, 1)] == [len(good)]
        assert sum(len(b.keys) for b in task.batches("val")) == len(good)
        assert task.forward(full.inputs).logits.shape == (len(good), 10)


def test_copies_are_views_of_their_own(shards: ShardSet, tmp_path: Path, small_parts: None) -> None:
    """Each epoch gets its copy, the others' images stay plain; the seed decides."""
    views = Views(plain=ROWS[20:], augmented=ROWS[:20], copies=3, augment="paper", seed=4)
    found = made(shards, tmp_path / "a", views)
    again = made(shards, tmp_path / "b", views, workers=1)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert len(found) == len(again) == 10 + 3 * 20
    task = Cached(
        model=classifier(), tail=Tail(), activations=found,
        targets=lambda r: Targets(category=torch.zeros(len(r), dtype=torch.int64)), names=str,
        rows={"val": ROWS[20:]}, orders=lambda epoch: [ROWS[:20]], batch_size=32, copies=3,
    )  # fmt: skip
    epochs = [next(task.train_batches(epoch)).inputs[0] for epoch in range(4)]
    assert torch.equal(epochs[0], epochs[3])
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    plain = Prefix()(torch.stack([pixels(shards, r) for r in ROWS.tolist()]))[0].half().float()
    assert not torch.equal(epochs[0], plain[:20])
    [val] = task.batches("val")
    assert torch.equal(val.inputs[0], plain[20:])


def test_available_memory_is_less_than_all() -> None:
    """More than nothing, and no more than the machine has."""
    assert 0 < memory.available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``engines(seconds)``: those are installed, and take so long for a batch; lists what ran."""
    find, listed = choice.registry.find, choice.registry.components

    def use(**seconds: float) -> list[str]:
        ran: list[str] = []

        def factory(name: str) -> type[Eager]:
            class Named(Eager):
                def run(self, images: Tensor) -> tuple[Tensor, ...]:
                    ran.append(name)
                    return super().run(images)

                @property
                def seconds(self) -> float:
                    return seconds[name]

            return Named

        known = [
            Component(
                kind="engine", provider="test", version="1",
                spec=EngineSpec(name=n, summary="", factory=factory(n), preparation=1.0),
            )
            for n in seconds
        ]  # fmt: skip

        def found(kind: str, name: str) -> Component:
            if kind != "engine":
                return find(kind, name)
            for each in known:
                if each.spec.name == name.rpartition(":")[2]:
                    return each
            raise UnknownNameError(kind, name, list(seconds))

        monkeypatch.setattr(
            choice.registry, "components", lambda kind: known if kind == "engine" else listed(kind)
        )
        monkeypatch.setattr(choice.registry, "find", found)
        monkeypatch.setattr(choice, "timed", lambda engine, job: engine.seconds)
        return ran

    return use


def test_the_quickest_engine_computes_and_any_is_gone_on_with(
    shards: ShardSet, tmp_path: Path, small_parts: None, engines: Callable[..., list[str]]
) -> None:
    """auto times them, and takes what is there, whoever computed it; a name means that one."""
    views, told = Views(plain=ROWS), []
    tell = lambda event, values: told.append((event, values))  # noqa: E731

    def ran(engine: str, **seconds: float) -> set[str]:
        counted = engines(**seconds)
        found = made(shards, tmp_path, views, engine=engine, tell=tell)
        assert found.reused is not bool(counted)
        return set(counted)

    assert ran("auto", eager=9.0, quick=1.0) == {"quick"}
    [(_, said)] = [each for each in told if each[0] == "engine"]
    assert said == {
        "engine": "quick", "rates": {"eager": 0.44, "quick": 4.0}, "left_out": {},
        "device": "cpu", "precision": "float32",
    }  # fmt: skip
    assert ran("auto", eager=1.0, quick=9.0) == set()
    assert ran("quick", eager=1.0, quick=9.0) == set()
    assert ran("auto", eager=1.0) == set()  # complete: nobody needs the engine any more
    assert ran("eager", eager=1.0, quick=9.0) == {"eager"}
    assert len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.glob("*/part-000002.h5"):
        path.unlink()
    assert ran("quick", eager=1.0, quick=9.0) == {"quick"}
    assert len(list(tmp_path.glob("*/part-000002.h5"))) == 1
    assert ran("auto", eager=1.0) == set()


def test_an_engine_that_is_gone_leaves_its_parts_alone(
    shards: ShardSet, tmp_path: Path, small_parts: None, engines: Callable[..., list[str]]
) -> None:
    """What it began is not mixed with another's; auto computes all anew."""
    engines(eager=9.0, quick=1.0)
    made(shards, tmp_path, Views(plain=ROWS), engine="auto")
    [own] = tmp_path.iterdir()
    (own / "part-000002.h5").unlink()
    counted = engines(eager=9.0)
    found = made(shards, tmp_path, Views(plain=ROWS), engine="auto")
    assert (len(found), set(counted)) == (30, {"eager"})
    assert not (own / "part-000002.h5").exists()
    with pytest.raises(UnknownNameError, match="quick"):
        made(shards, tmp_path, Views(plain=ROWS), engine="quick")
