"""Predictions on real clusters: the bytes of the local executor, whatever is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fashionbatch
import pytest
from fashionbatch.errors import ExecutionError, FashionbatchError, OutputExistsError, UsageError

#: holds the lock of a run at work, until it is killed
HOLDS = """
import pathlib, sys, time
from fashionbatch import files
with files.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def options(cluster: Any, *more: str) -> dict[str, Any]:
    return {"executor": "ray", "address": cluster.address, "executor_kwargs": tuple(more)}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow(seconds=60)
def test_lost_workers_actors_and_nodes(cluster: Any, shards: Path, predict: Any) -> None:
    """One of each in one run: the bytes of the local executor, and what is told adds up."""
    whole = predict(shards, "local.h5").read_bytes()
    for attempt in range(3):
        nodes = cluster(3)
        items: list[int] = []
        pids: list[int] = []
        victims = ["worker", "actor", "node"]

        def kill(
            event: str,
            values: dict[str, Any],
            nodes: Any = nodes,
            items: list[int] = items,
            pids: list[int] = pids,
            victims: list[str] = victims,
        ) -> None:
            if event == "process":
                pids.append(values["pid"])
            if event != "progress":
                return
            items.append(values["items"])
            if values["items"] > 0 and victims:
                victim = victims.pop(0)
                if victim == "node":
                    nodes.remove_node(sorted(nodes.worker_nodes, key=str)[0], allow_graceful=False)
                else:
                    os.kill(pids[0] if victim == "worker" else parent(pids[1]), signal.SIGKILL)

        found = predict(shards, f"ray-{attempt}.h5", tell=kill, **options(nodes)).read_bytes()
        assert not victims
        assert found == whole
        assert sum(items) == 24  # what was done again counts once
        if min(items) <= 0:
            return  # what a lost one had told was taken back
    pytest.fail("no worker was lost that had something to do, in three runs")


@pytest.mark.slow(seconds=45)
def test_killed_driver_is_gone_on_with(
    cluster: Any, shards: Path, predict: Any, trained: Path, tmp_path: Path
) -> None:
    """By a new one, after the local executor had begun."""
    whole = predict(shards, "local.h5", keep_parts=True).read_bytes()
    nodes = cluster(1)
    parts, begun = tmp_path / "ray.h5.parts", tmp_path / "local.h5.parts"
    parts.mkdir()
    for path in (begun / "about.json", *sorted(begun.glob("part-*.h5"))[:2]):
        shutil.copy(path, parts)
    command = [
        sys.executable, "-m", "fashionbatch", "predict", shards, "--model", trained, "-o",
        tmp_path / "ray.h5", "--engine", "eager", "--device", "cpu", "--workers", "1",
        "--batch-size", "4", "--executor", "ray", "--address", nodes.address,
        "--executor-kwargs", "workers=9",
    ]  # fmt: skip
    driver = subprocess.Popen(command)
    while len(list(parts.glob("part-*.h5"))) < 3 and driver.poll() is None:
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    assert parts.exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr  # one image is damaged
    assert "of 24 items were finished by an earlier run" in done.stderr
    assert "left for 9 workers: the others stay away" in done.stderr
    assert (tmp_path / "ray.h5").read_bytes() == whole


@pytest.mark.slow
def test_bad_clusters(
    cluster: Any, shards: Path, predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cluster, none with room, other versions, a missing plugin: one line each."""
    nodes = cluster(1, FASHIONBATCH_PLUGINS="ray")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path / ".x.h5.driver"], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline()
    with pytest.raises(OutputExistsError, match="another run predicts into"):
        predict(shards, "x.h5", **options(nodes))
    other.kill()
    other.wait()
    with pytest.raises(FashionbatchError, match="onnxruntime"):
        predict(shards, "x.h5", **{**options(nodes), "engine": "onnxruntime"})
    with pytest.raises(ExecutionError, match=r"no room for an actor with 4 CPUs .* has 1 CPUs"):
        predict(shards, "x.h5", **options(nodes, "num_cpus=4"))
    with pytest.raises(UsageError, match=r"no option .* 'cpus'"):
        predict(shards, "x.h5", **options(nodes, "cpus=4"))
    with pytest.raises(UsageError, match="has its own workers"):
        predict(shards, "x.h5", **options(nodes), devices="cpu,cpu", device="auto")
    monkeypatch.setattr(fashionbatch, "__version__", "9.9")
    with pytest.raises(ExecutionError, match=r"planned with 9\.9: install the same version"):
        predict(shards, "x.h5", **options(nodes))
    monkeypatch.undo()
    assert not list(tmp_path.glob("x.h5*"))
    with pytest.raises(ExecutionError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        predict(shards, "x.h5", executor="ray", address="127.0.0.1:9")


@pytest.mark.slow
def test_packs_the_bytes_of_the_local_executor(
    cluster: Any, catalogue: Path, tmp_path: Path
) -> None:
    """Manifest, index and shards."""
    nodes = cluster(2)
    for name, where in (("local", {}), ("ray", options(nodes))):
        fashionbatch.shard(catalogue, output=tmp_path / name / "set", samples_per_shard=4, **where)
    local, ray = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "set").iterdir()}
        for name in ("local", "ray")
    )
    assert local == ray
