"""Several devices: whole shards to each, and the file of one."""

from __future__ import annotations

import os
import signal

import pytest

from fashionbatch.errors import ExecutionError, UsageError
from fashionbatch.inference import plan as plans

BOTH = {"devices": "cpu,cpu", "device": "auto", "engine": "eager"}


@pytest.mark.slow
def test_equals_one_device(catalogue, predict, monkeypatch, tmp_path):
    """The same bytes; also where one of the processes is killed, and where both are stopped."""
    monkeypatch.setattr(plans, "SLICE", 4)
    folder = catalogue(150, (5, 77))
    whole = predict(folder, "whole.h5").read_bytes()
    pids = []

    def count(event, values):
        if event == "process":
            pids.append(values["pid"])

    assert predict(folder, "two.h5", tell=count, **BOTH).read_bytes() == whole
    assert len(pids) == 2
    killed, done, failed = [], [], []

    def kill(event, values):
        if event == "process":
            pids.append(values["pid"])
        if event in ("failed", "forgotten"):
            failed.append(-values["failed"] if event == "forgotten" else 1)
        if event == "progress":
            done.append(values["items"])
        if event == "progress" and not killed:
            killed.append(pids[-1])
            os.kill(pids[-1], signal.SIGKILL)

    pids.clear()
    assert predict(folder, "killed.h5", tell=kill, **BOTH).read_bytes() == whole
    assert killed
    assert (sum(done), sum(failed)) == (150, 2)  # what was done again counts once


@pytest.mark.slow
def test_process_that_always_dies(catalogue, predict, tmp_path):
    """The run ends, and says how it died."""

    def kill(event, values):
        if event == "process":
            os.kill(values["pid"], signal.SIGKILL)

    with pytest.raises(ExecutionError, match="died 3 times before it was ready"):
        predict(catalogue(9), tell=kill, **BOTH)
    assert not (tmp_path / "out.h5").exists()


def test_devices_are_named(catalogue, predict):
    """Those that there are not, or of several kinds, are refused before any work."""
    folder = catalogue(2)
    for devices, text in (("", "name some"), ("cpu,meta", "several kinds"), ("77", "cuda:77")):
        with pytest.raises(UsageError, match=text):
            predict(folder, devices=devices, device="auto")
    with pytest.raises(UsageError, match="leave one"):
        predict(folder, devices="cpu,cpu", device="cpu")
