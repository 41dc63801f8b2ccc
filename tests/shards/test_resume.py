"""Runs that are killed, stopped or out of disk: nothing half, nothing twice, the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fashionbatch.errors import OutputExistsError
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.sources import Item

Write = Callable[..., Manifest]
Contents = Callable[[Path], dict[str, bytes]]
Dying = Callable[[Callable[[], object], int], bool]

# packs 60 files as 12 shards, or what the arguments say, and prints a line for each event
_SCRIPT = """
import resource, sys, time
from pathlib import Path
from fashionbatch.errors import FashionbatchError
from fashionbatch.shards.pack import Prepared
from fashionbatch.shards.write import Job, write
from fashionbatch.sources import Item, Source

here, workers, pause, limit = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]

class Made(Source):
    def items(self):
        for n in range(60):
            yield Item(name=f"{n}.jpg", path=str(here / "in" / f"{n}.jpg"), split="val")

def prepare(data):
    time.sleep(pause)
    return Prepared(data=data, extension="jpg")

def tell(event, values):
    print(event, flush=True)

if __name__ == "__main__":
    if limit != "none":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    job = Job(source=Made(), output=here / "set", prepare=prepare, workers=workers,
              samples_per_shard=5)
    try:
        write(job, tell)
    except FashionbatchError as error:
        sys.exit(f"Error: {error}")
"""


def prepared(place: Path) -> Path:
    """60 files; five of the last are large."""
    (place / "in").mkdir()
    for number in range(60):
        size = 20_000 if 45 <= number < 50 else 100
        data = random.Random(number).randbytes(size)
        (place / "in" / f"{number}.jpg").write_bytes(data)
    (place / "pack.py").write_text(_SCRIPT)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A catalogue and the script that packs it as ``set``."""
    return prepared(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run without interruption makes."""
    place = prepared(tmp_path_factory.mktemp("expected"))
    assert start(place).wait() == 0
    made = {p.name: p.read_bytes() for p in (place / "set").iterdir()}
    assert len(made) == 12 + 3
    return made


def start(
    place: Path, *, workers: int = 2, pause: float = 0, limit: int | None = None
) -> subprocess.Popen[str]:
    arguments = [place, workers, pause, "none" if limit is None else limit]
    return subprocess.Popen(
        [sys.executable, str(place / "pack.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell that runs us in its background has interrupts ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def alive(session: int) -> list[int]:
    """Processes of the session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, _, _, own = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(own) == session and state != "Z":
                found.append(int(entry.name))
    return found


def stop_after(process: subprocess.Popen[str], lines: int, kind: int, delay: float = 0) -> None:
    """Signals the process when it has printed so many lines."""
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    time.sleep(delay)
    process.send_signal(kind)
    process.wait()


def all_end(session: int) -> bool:
    for _ in range(100):
        if not alive(session):
            return True
        time.sleep(0.05)
    return False


def finished(place: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each shard that counts as done."""
    work = place / ".set.partial"
    names = [p.name.removesuffix(".part") for p in work.glob("work/*.part")]
    status = {n: (work / "data" / n).stat() for n in names if not n.startswith(".")}
    return {n: (s.st_ino, s.st_mtime_ns) for n, s in status.items()}


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize(
    "kind",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    place: Path, expected: dict[str, bytes], contents: Contents, kind: signal.Signals
) -> None:
    """Workers end with it; what is finished is not written again; the output is whole or not."""
    moments = random.Random(int(kind))
    known: dict[str, tuple[int, int]] = {}
    for lines in (0, 2, 3, 6, 9):  # two lines come before the first shard
        process = start(place, pause=0.02)
        stop_after(process, lines, kind, moments.uniform(0, 0.05))
        assert all_end(process.pid), "a worker outlives the process that started it"
        if (place / "set").exists():
            break  # workers finish what they have begun, so the last kills can come too late
        assert process.returncode in (-kind, 1)
        now = finished(place)
        assert {n: now[n] for n in known} == known
        known = now
    else:
        process = start(place)
        assert process.wait() == 0
    assert known
    assert contents(place / "set") == expected
    for name, (inode, changed) in known.items():
        status = (place / "set" / name).stat()
        assert (status.st_ino, status.st_mtime_ns) == (inode, changed)
    assert {p.name for p in place.iterdir()} - {".set.partial"} == {"in", "pack.py", "set"}


@needs_proc
def test_what_a_killed_worker_had_is_packed_by_another(
    place: Path, expected: dict[str, bytes], contents: Contents
) -> None:
    """As the kernel kills for want of memory; nothing is to be seen of it."""
    process = start(place, pause=0.02)
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    workers = [p for p in alive(process.pid) if p != process.pid]
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert all_end(process.pid)
    assert contents(place / "set") == expected


def test_second_writer_gets_one_line(
    place: Path, expected: dict[str, bytes], contents: Contents, write: Write
) -> None:
    """The first goes on undisturbed."""
    process = start(place, pause=0.01)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(OutputExistsError, match="another fashionbatch is packing"):
        write([Item(name="a", data=b"x")])
    assert process.wait() == 0
    assert contents(place / "set") == expected


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("limit", "kept"),
    [(0, False), (3000, False), (9000, False), (50_000, True), (110_000, True)],
    ids=["at once", "catalogue", "first shard", "large shard", "after the payload"],
)
def test_disk_that_is_full_is_one_line(
    place: Path,
    expected: dict[str, bytes],
    contents: Contents,
    workers: int,
    limit: int,
    kept: bool,
) -> None:
    """The kernel refuses to write on: finished shards stay, and the same command completes."""
    process = start(place, workers=workers, limit=limit)
    _, err = process.communicate()
    assert process.returncode == 1, err
    assert err.startswith(f"Error: {place / 'set'} cannot be written (File too large): ")
    assert err.count("\n") == 1 and not (place / "set").exists()
    before = finished(place) if kept else {}
    if kept:
        assert f"{len(before)} finished shards are kept in" in err
    else:
        assert "nothing was kept" in err and not (place / ".set.partial").exists()
    assert start(place, workers=workers).wait() == 0
    assert contents(place / "set") == expected
    for name, (inode, changed) in before.items():
        status = (place / "set" / name).stat()
        assert (status.st_ino, status.st_mtime_ns) == (inode, changed)


ITEMS = [Item(name=f"{n}", data=b"%d" % n, label="ab"[n % 2], split="train") for n in range(8)]


def remains(folder: Path) -> Iterator[str]:
    return (p.name for p in folder.iterdir() if p.name not in ("set", "new", "whole"))


def test_death_at_any_change_of_a_new_data_set(
    write: Write,
    tmp_path: Path,
    contents: Contents,
    dying: Dying,
) -> None:
    """It is not there, or it is whole; the next run completes it and leaves nothing behind."""
    write(ITEMS, "whole/set")
    expected = contents(tmp_path / "whole/set")
    number = 0
    ended = False
    while not ended:
        number += 1
        ended = dying(lambda: write(ITEMS), number)
        if (tmp_path / "set").exists():
            assert contents(tmp_path / "set") == expected
            write(ITEMS, replace=True)
        else:
            write(ITEMS)
        assert contents(tmp_path / "set") == expected
        assert list(remains(tmp_path)) == []
        for path in (tmp_path / "set").iterdir():
            path.unlink()
        (tmp_path / "set").rmdir()
    assert number > 15


def test_death_at_any_change_of_a_replacement(
    write: Write,
    tmp_path: Path,
    contents: Contents,
    dying: Dying,
) -> None:
    """The old one is there, or the new one; between two renames neither, and nothing is lost."""
    write(ITEMS, "whole/set")
    expected = contents(tmp_path / "whole/set")
    number = 0
    ended = False
    gaps = 0
    while not ended:
        write(ITEMS[:2], replace=True)
        old = contents(tmp_path / "set")
        number += 1
        ended = dying(lambda: write(ITEMS, replace=True), number)
        if (tmp_path / "set").exists():
            assert contents(tmp_path / "set") in (old, expected)
        else:
            gaps += 1
            assert contents(tmp_path / ".set.old") == old
        write(ITEMS, replace=True)
        assert contents(tmp_path / "set") == expected
        assert list(remains(tmp_path)) == []
    assert number > 15 and gaps <= 1


def test_other_options_after_a_kill_leave_nothing_stale(
    write: Write,
    tmp_path: Path,
    contents: Contents,
    dying: Dying,
) -> None:
    """Every file of the data set is one that the new options make."""
    ways = [
        {"samples_per_shard": 5},
        {"samples_per_shard": 1, "settings": {"resize": 9}},
        {"split": {"train": 0.5, "val": 0.5}},
    ]
    for place, way in enumerate(ways):
        write(ITEMS, f"whole{place}/set", **way)
        expected = contents(tmp_path / f"whole{place}/set")
        assert not dying(lambda: write(ITEMS, samples_per_shard=1), 30)
        assert list((tmp_path / ".set.partial/work").glob("*.part"))
        write(ITEMS, **way)
        assert contents(tmp_path / "set") == expected
        for path in (tmp_path / "set").iterdir():
            path.unlink()
        (tmp_path / "set").rmdir()


def test_other_items_after_a_kill_are_packed_anew(
    write: Write,
    tmp_path: Path,
    contents: Contents,
    dying: Dying,
) -> None:
    """A label that changed changes its shard."""
    changed = [*ITEMS[:2], Item(name="2", data=b"2", label="b", split="train"), *ITEMS[3:]]
    write(changed, "whole/set")
    assert not dying(lambda: write(ITEMS), 25)
    write(changed)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole/set")


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "part cut", "part gone", "part garbage"])
def test_damaged_finished_shard_is_written_again(
    write: Write,
    tmp_path: Path,
    contents: Contents,
    dying: Dying,
    damage: str,
) -> None:
    """Found by its hash; what is known of it alone does not count."""
    write(ITEMS, "whole/set")
    assert not dying(lambda: write(ITEMS), 25)
    part = sorted((tmp_path / ".set.partial/work").glob("*.part"))[0]
    shard = tmp_path / ".set.partial/data" / part.name.removesuffix(".part")
    path = part if damage.startswith("part") else shard
    data = bytearray(path.read_bytes())
    if damage.endswith("gone"):
        path.unlink()
    elif damage.endswith("cut"):
        path.write_bytes(data[: len(data) // 2])
    elif damage.endswith("garbage"):
        path.write_bytes(b"garbage")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    write(ITEMS)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole/set")


def test_remains_without_a_lock_or_shards_are_removed(write: Write, tmp_path: Path) -> None:
    """Files of unknown origin in the partial folder do not get into the data set."""
    for folder in ("data", "work"):
        (tmp_path / ".set.partial" / folder).mkdir(parents=True)
        (tmp_path / ".set.partial" / folder / "train-000099.tar").write_bytes(b"old")
    manifest = write(ITEMS)
    names = {p.name for p in (tmp_path / "set").iterdir()}
    assert names == {
        "dataset.json", "index.h5", "failures.jsonl", *(s.file for s in manifest.shards)
    }  # fmt: skip
    assert list(remains(tmp_path)) == []
    assert len(open_shards(tmp_path / "set")) == 8


def test_files_that_changed_after_a_kill_are_read_again(write: Write, tmp_path: Path) -> None:
    """A mended image is packed, a replaced one with its new bytes; groups are of the new run."""
    paths = [tmp_path / f"{n}.jpg" for n in range(9)]
    for path in paths:
        path.write_bytes(path.name.encode())
    items = [Item(name=p.name, path=p, metadata={"sku": p.name}) for p in paths]
    paths[0].unlink()

    def stop(event: str, values: dict[str, Any]) -> None:
        if event == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(items, tell=stop, split={"train": 1.0}, selection=Selection(seed=1))
    for path in paths:
        path.write_bytes(b"new " + path.name.encode())
    write(items, split={"train": 1.0}, selection=Selection(seed=1), group_by="sku")
    shards = open_shards(tmp_path / "set")
    assert len(shards) == 9 and shards.manifest.failed == 0
    assert sorted(shards.read(row) for row in range(9)) == sorted(p.read_bytes() for p in paths)
    assert (shards.index.group != 0).all()
