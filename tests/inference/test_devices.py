"""Several devices: whole shards to each, and the file of one."""

from __future__ import annotations

import os
import signal

import pytest
from PIL import Image

from fashionbatch import api, open_predictions, plugins
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


DEADLY = """
import os
import signal

import fashionbatch
import torch


@fashionbatch.hookimpl
def fashionbatch_engines():
    yield fashionbatch.EngineSpec(name="deadly", factory="deadly_engine:Deadly", summary="")


class Deadly(fashionbatch.Engine):
    def __init__(self, job):
        self.module = job.module

    def run(self, images):
        if (images == 255).flatten(1).all(dim=1).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        with torch.inference_mode():
            return self.module(images)
"""


@pytest.mark.slow
def test_a_shard_that_kills_its_workers_costs_itself(
    catalogue, predict, monkeypatch, tmp_path, fresh_plugins
):
    """Three of them; then it is recorded as failed, and the run goes on with the others."""
    site = tmp_path / "site"
    about = site / "deadly_engine-1.dist-info"
    about.mkdir(parents=True)
    (site / "deadly_engine.py").write_text(DEADLY)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly-engine\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fashionbatch]\ndeadly = deadly_engine\n")
    monkeypatch.syspath_prepend(str(site))
    plugins.discover.cache_clear()
    monkeypatch.setattr(plans, "SLICE", 8)  # a batch: no neighbour shares it
    folder = catalogue(40)
    Image.new("RGB", (32, 32), "white").save(folder / "020.png")
    done, failed = [], []

    def count(event, values):
        if event == "progress":
            done.append(values["items"])
        if event == "failed":
            failed.append((values["name"], values["reason"]))

    options = {**BOTH, "engine": "deadly", "tell": count}
    path = predict(folder, **options)
    reason = "its worker died 3 times (exit code -11)"
    with open_predictions(path) as found:
        assert len(found) == 32
        gone = [(f["name"], f["stage"], f["reason"]) for f in found.failures]
        assert gone == [(f"{i:03d}.png", "model", reason) for i in range(16, 24)]
        assert not set(found.names[:]) & {name for name, _, _ in gone}
    assert sum(done) == 40
    assert failed == [("catalogue[16:24]", reason)]
    # the same command has nothing to do; tried again with another image in its place, it has
    events = []
    predict(folder, **{**options, "tell": lambda event, values: events.append(event)})
    assert "complete" in events
    (folder / "020.png").write_bytes((folder / "021.png").read_bytes())
    predict(folder, incremental=True, retry_failed=True, **options)
    with open_predictions(path) as found:
        assert len(found) == 40


def test_dry_run_prices_a_run(catalogue, run, tmp_path):
    """Items, bytes to read, shards of each worker, and the time at a rate that is given."""
    folder = catalogue(40)
    read = sum(path.stat().st_size for path in folder.iterdir())
    plan = {}
    for devices, parallel in (("cpu", 1), ("cpu,cpu", 2)):
        options = {**BOTH, "devices": devices, "rate": 5.0, "batch_size": 8, "model": run}
        plan[parallel] = api.predict(folder, dry_run=True, output=tmp_path / "o.h5", **options)
        assert plan[parallel]["bytes_read"] == read
        assert plan[parallel]["items"] == 40
        assert plan[parallel]["parallel"] == parallel
        assert plan[parallel]["shards_each"] == 1  # the slice of 40
        # five batches of 8, each at 5 images a second
        assert plan[parallel]["seconds"] == 5 * 8 / 5 / parallel
    assert not list(tmp_path.glob("o.h5*"))
