"""What is in the cache is whole and as it was checked, or it is not there."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from fashionbatch_onnxruntime.cache import Cache
from fashionbatch_onnxruntime.export import Exported

KEY = {"module": "a" * 64, "shape": (2, 3, 8, 8)}
MADE = Exported(data=b"an ONNX file" * 20_000, outputs=((2, 10), (2, 0)))


def test_gives_back_what_was_written(tmp_path: Path) -> None:
    Cache(tmp_path, KEY).write(MADE, {"differences": [0.0]})
    assert Cache(tmp_path, KEY).read() == MADE
    assert json.loads(Cache(tmp_path, KEY).record.read_text())["compared"] == {"differences": [0.0]}
    assert len(list(tmp_path.iterdir())) == 2


def test_other_key_is_another_network(tmp_path: Path) -> None:
    Cache(tmp_path, KEY).write(MADE, {})
    assert Cache(tmp_path, {**KEY, "shape": (4, 3, 8, 8)}).read() is None


def test_what_nobody_uses_goes(tmp_path: Path) -> None:
    """30 days after it was last read, when another network is written; other files stay."""
    old, used = Cache(tmp_path, KEY), Cache(tmp_path, {**KEY, "shape": (4, 3, 8, 8)})
    other = tmp_path / "notes.json"
    other.write_text("{}")
    for cache in (old, used):
        cache.write(MADE, {})
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 31 * 86400,) * 2)
    assert used.read() == MADE
    Cache(tmp_path, {**KEY, "shape": (8, 3, 8, 8)}).write(MADE, {})
    assert old.read() is None
    assert used.read() == MADE
    assert len(list(tmp_path.iterdir())) == 5
    assert other.exists()


def test_damage_counts_as_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, KEY)
    cache.write(MADE, {})
    flipped = bytearray(MADE.data)
    flipped[777] ^= 1
    record = cache.record.read_bytes()
    for path, data in (
        (cache.model, bytes(flipped)),
        (cache.model, MADE.data[:-1]),
        (cache.model, b""),
        (cache.record, record[:-9]),
        (cache.record, b"{}"),
        (cache.record, b'["sha256"]'),
        (cache.record, record.replace(b"10", b'"x"')),
    ):
        before = path.read_bytes()
        path.write_bytes(data)
        assert cache.read() is None
        path.write_bytes(before)
    assert cache.read() == MADE
    cache.record.unlink()
    assert cache.read() is None


def test_folder_that_cannot_be_written_to_is_warned_of(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "gone", KEY)
    with pytest.warns(UserWarning, match="is not kept"):
        cache.write(MADE, {})
    assert cache.read() is None


def test_disk_that_fills_up_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cache(tmp_path, KEY).write(MADE, {})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        Cache(tmp_path, KEY).write(Exported(data=b"another", outputs=()), {})
    assert Cache(tmp_path, KEY).read() == MADE
    assert len(list(tmp_path.iterdir())) == 2


def write_for_ever(folder: Path) -> None:
    while True:
        Cache(folder, KEY).write(MADE, {})


def test_two_writers_and_kills_leave_no_half(tmp_path: Path) -> None:
    Cache(tmp_path, KEY).write(MADE, {})
    context = multiprocessing.get_context("fork")
    for kill in range(6):
        writers = [context.Process(target=write_for_ever, args=(tmp_path,)) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            end = time.monotonic() + 0.1 + 0.02 * kill
            while time.monotonic() < end:
                assert Cache(tmp_path, KEY).read() == MADE
        finally:
            for writer in writers:
                assert writer.pid is not None
                os.kill(writer.pid, signal.SIGKILL)
                writer.join()
        assert Cache(tmp_path, KEY).read() == MADE
    for path in tmp_path.glob(".*.tmp"):  # of killed writers, as old as they get
        os.utime(path, (0, 0))
    Cache(tmp_path, KEY).write(MADE, {})
    assert len(list(tmp_path.iterdir())) == 2
