"""What is kept of computations: swept behind killed processes, cleared where nobody uses it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fashionbatch import files
from fashionbatch.training.activations import kept, memory
from fashionbatch.training.activations.kept import Hold
from tests.forks import one_core
from tests.training.runs import history

NAME = "0" * 32


@contextmanager
def process(work: Callable[[], object]) -> Iterator[int]:
    """A child that has done its work and lives until it is killed at the end."""
    told, say = os.pipe()
    child = os.fork()
    if not child:
        try:
            kept_alive = work()  # noqa: F841 - a hold
            os.write(say, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(say)
    assert os.read(told, 1) == b"x"
    os.close(told)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_killed_computation_leaves_nothing_behind(train, tmp_path, monkeypatch):
    """kill -9 while a part is written: the next training sweeps the temporary file."""
    train("whole", mode="bottleneck", output=tmp_path / "other")
    child = os.fork()
    if not child:
        one_core()
        sync = files.sync

        def die(path: Path) -> None:
            if path.name.startswith(".part-"):
                os.kill(os.getpid(), signal.SIGKILL)
            sync(path)

        files.sync = die
        try:
            train("cut", mode="bottleneck")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    [own] = (tmp_path / ".features").iterdir()
    assert [p.name for p in own.glob("*part-*")] == [p.name for p in own.glob(".part-*.tmp")] != []
    train("again", mode="bottleneck")
    assert sorted(p.name for p in own.iterdir()) == ["about.json", "lock", "part-000000.h5"]
    assert history(tmp_path / "again") == history(tmp_path / "other" / "whole")


def test_temporary_file_of_a_running_process_stays(tmp_path):
    """As long as another process uses the folder; behind its kill it goes."""
    own, left = tmp_path / NAME, tmp_path / NAME / ".part-000000.h5.1-a.tmp"

    def work() -> Hold:
        hold = Hold(own)
        left.write_bytes(b"half")
        return hold

    with process(work):
        Hold(own)
        assert left.exists()
    Hold(own)
    assert not left.exists()


def test_what_is_used_is_not_cleared(tmp_path):
    """In this process or another one, computing or only reading; a kill ends the use."""
    own = tmp_path / NAME
    hold = Hold(own)
    (own / "part-000000.h5").write_bytes(b"12345")
    second = Hold(own)
    del hold
    assert kept.clear(tmp_path) == kept.Cleared(used=1)
    with process(lambda: Hold(own)):
        del second
        [found] = kept.kept(tmp_path)
        assert (found.path, found.bytes, found.about, found.used) == (own, 5, {}, True)
        assert kept.clear(tmp_path) == kept.Cleared(used=1)
    assert not kept.kept(tmp_path)[0].used
    assert kept.size(tmp_path) == 5
    assert kept.clear(tmp_path) == kept.Cleared(removed=1, bytes=5)
    assert list(tmp_path.iterdir()) == []


def test_training_keeps_what_it_reads_and_lets_go_of_it(train, tmp_path, monkeypatch):
    """From the disk: in use to the last step, and not behind the end."""
    monkeypatch.setattr(memory, "available", lambda: 0)
    used = []

    def tell(event: str, values: object) -> None:
        if event in ("step", "epoch"):
            used.append([each.used for each in kept.kept(tmp_path / ".features")])

    train(mode="bottleneck", tell=tell)
    assert len(used) == 6 and all(each == [True] for each in used)
    assert [each.used for each in kept.kept(tmp_path / ".features")] == [False]


def test_remains_of_a_killed_clearing_go(tmp_path):
    """And what has another name than ours stays."""
    (tmp_path / f".{NAME}.ab.tmp").mkdir()
    for name in ("mine", NAME[1:]):
        (tmp_path / name).mkdir()
    (tmp_path / ("1" * 32)).write_text("a file")
    assert kept.clear(tmp_path) == kept.Cleared()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["mine", NAME[1:], "1" * 32])


def test_nothing_kept(tmp_path):
    """No folder is no error, and none is made."""
    folder = tmp_path / ".features"
    assert (kept.kept(folder), kept.size(folder), kept.clear(folder)) == ([], 0, kept.Cleared())
    assert not folder.exists()


def test_whoever_holds_a_folder_has_it_whatever_is_cleared_meanwhile(tmp_path):
    """A process clears without end: a folder that was taken stays until it is let go."""
    own = tmp_path / NAME
    child = os.fork()
    if not child:
        try:
            while True:
                kept.clear(tmp_path)
        finally:
            os._exit(1)
    try:
        gone = 0
        for _ in range(300):
            gone += not own.exists()
            hold = Hold(own)
            (own / "part").write_bytes(b"x")
            assert (own / "part").read_bytes() == b"x"
            assert (own / "lock").exists()
            del hold
        assert gone  # it was cleared in between
    finally:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)  # and no error of its own
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_that_cannot_be_written_can_be_read(tmp_path):
    """Features on a disk that is read-only: used without a lock, and nobody can clear them."""
    own = tmp_path / NAME
    Hold(own)
    (own / "lock").unlink()
    own.chmod(0o555)
    try:
        Hold(own)
        assert not (own / "lock").exists()
    finally:
        own.chmod(0o755)
