"""Predictions on real clusters: the bytes of the local executor, whatever is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fashionbatch
import pytest
from fashionbatch.errors import ExecutionError, FashionbatchError, UsageError


def options(cluster: Any, *more: str) -> dict[str, Any]:
    return {"executor": "ray", "address": cluster.address, "executor_kwargs": tuple(more)}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_bytes_of_the_local_executor(
    cluster: Any, shards: Path, predict: Any, tmp_path: Path
) -> None:
    """In one go; with a worker, an actor and a node killed; and what is told adds up."""
    whole = predict(shards, "local.h5").read_bytes()
    nodes = cluster(2)
    items: list[int] = []
    pids: list[int] = []

    def count(event: str, values: dict[str, Any]) -> None:
        if event == "progress":
            items.append(values["items"])
        if event == "process":
            pids.append(values["pid"])

    assert predict(shards, "ray.h5", tell=count, **options(nodes)).read_bytes() == whole
    assert len(pids) == 2
    assert sum(items) == 24

    for victim in ("worker", "actor", "node"):
        items.clear(), pids.clear()
        killed: list[bool] = []

        def kill(
            event: str, values: dict[str, Any], victim: str = victim, killed: Any = killed
        ) -> None:
            count(event, values)
            if event == "progress" and values["items"] > 0 and not killed:
                killed.append(True)
                if victim == "node":
                    nodes.remove_node(sorted(nodes.worker_nodes, key=str)[0], allow_graceful=False)
                else:
                    os.kill(pids[0] if victim == "worker" else parent(pids[0]), signal.SIGKILL)

        found = predict(shards, f"{victim}.h5", tell=kill, **options(nodes)).read_bytes()
        assert killed
        assert found == whole, victim
        assert sum(items) == 24, victim  # what was done again counts once


@pytest.mark.slow
def test_killed_driver_is_gone_on_with(
    cluster: Any, shards: Path, predict: Any, trained: Path, tmp_path: Path
) -> None:
    """By a new one, and by the local executor."""
    whole = predict(shards, "local.h5").read_bytes()
    nodes = cluster(1)
    for name, again in (("one.h5", options(nodes)), ("two.h5", {})):
        driver = subprocess.Popen(
            [
                sys.executable, "-m", "fashionbatch", "predict", shards, "--model", trained, "-o",
                tmp_path / name, "--engine", "eager", "--device", "cpu", "--workers", "1",
                "--batch-size", "4", "--executor", "ray", "--address", nodes.address,
            ]
        )  # fmt: skip
        parts = tmp_path / f"{name}.parts"
        while not list(parts.glob("part-*.h5")) and driver.poll() is None:
            time.sleep(0.02)
        driver.kill()
        driver.wait()
        told = []
        predict(shards, name, tell=lambda event, values, told=told: told.append(event), **again)
        assert "resumed" in told or "complete" in told
        assert (tmp_path / name).read_bytes() == whole


@pytest.mark.slow
def test_bad_clusters(
    cluster: Any, shards: Path, predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cluster, none with room, other versions, a missing plugin: one line each."""
    nodes = cluster(1, FASHIONBATCH_PLUGINS="ray")
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
