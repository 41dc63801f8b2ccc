"""What actors count for on a node, and what becomes of them where it runs out."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fashionbatch
import pytest
import ray
from fashionbatch.errors import ExecutionError
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory
from ray.cluster_utils import Cluster

from fashionbatch_ray.executor import _Crew

GIB = 1 << 30
#: takes a quarter of a GiB of memory each time that it reads a line, and 6 GiB at most
TAKES = """
import sys
taken = []
for line in sys.stdin:
    if len(taken) == 24:
        taken.clear()
    taken.append(b"x" * (1 << 28))
    print(len(taken), flush=True)
"""


@pytest.fixture
def ended() -> Iterator[list[Cluster]]:
    """Clusters in it are ended."""
    clusters: list[Cluster] = []
    yield clusters
    ray.shutdown()
    for each in clusters:
        each.shutdown()


@pytest.mark.slow(seconds=40)
def test_shares_of_a_gpu_and_fewer_shards_than_workers(
    ended: list[Cluster], shards: Path, predict: Any, tmp_path: Path
) -> None:
    """Ray lets a node say that it has a GPU; two actors share it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    ended.append(cluster)
    where = {"executor": "ray", "address": cluster.address}
    half = {**where, "executor_kwargs": ("num_gpus=0.5",)}
    told: dict[str, Any] = {}
    seen: list[str] = []

    def look(event: str, values: dict[str, Any]) -> None:
        told[event] = values
        if event == "process":
            environment = Path(f"/proc/{values['pid']}/environ").read_text().split("\0")
            seen.extend(line for line in environment if line.startswith("CUDA_VISIBLE_DEVICES="))
            until = time.monotonic() + 30
            while ray.available_resources().get("GPU", 0) and time.monotonic() < until:
                time.sleep(0.1)
            told["free"] = ray.available_resources().get("GPU", 0)

    made = predict(shards, "ray.h5", tell=look, **half).read_bytes()
    assert made == predict(shards, "local.h5").read_bytes()
    assert told["plan"]["parallel"] == 2
    assert told["free"] == 0  # both count for one half
    assert {*seen} == {"CUDA_VISIBLE_DEVICES=0"}
    with pytest.raises(ExecutionError, match="no room for an actor with 1 CPUs and 2 GPUs"):
        predict(shards, "x.h5", **where, executor_kwargs=("num_gpus=2",))

    warned: list[str] = []

    def hear(event: str, values: dict[str, Any]) -> None:
        if event == "warn":
            warned.append(values["text"])

    photographs, one = shards.parent / "photographs", tmp_path / "one"
    made_of = fashionbatch.shard(photographs, output=one, check="none", tell=hear, **where)
    assert made_of["items"] == 24
    assert "1 shard is left for 2 workers: the others stay away" in warned


@pytest.mark.slow(seconds=40)
def test_memory_runs_out_on_one_node(
    ended: list[Cluster], many: Path, predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's memory monitor ends the actor on it: what it had is done by the other one."""
    fashionbatch.shard(many, output=tmp_path / "set", samples_per_shard=3)
    share = (get_used_memory() + 3 * GIB) / get_system_memory()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ended.append(cluster)
    for most in (1.0, share):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_memory_usage_threshold", f"{most:.4f}")
            patch.setenv("RAY_memory_monitor_refresh_ms", "100")
            cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ready: list[str] = []
    lost: list[str] = []
    lose, begin = _Crew._lose, fashionbatch.Lending.ready

    def losing(self: _Crew, generator: Any, why: str) -> None:
        lost.append(why)
        takes.kill()
        lose(self, generator, why)

    def beginning(self: fashionbatch.Lending, place: str) -> None:
        ready.append(place)
        begin(self, place)

    monkeypatch.setattr(_Crew, "_lose", losing)
    monkeypatch.setattr(fashionbatch.Lending, "ready", beginning)
    takes = subprocess.Popen(
        [sys.executable, "-c", TAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    items: list[int] = []

    def take(event: str, values: dict[str, Any]) -> None:
        if event == "progress":
            items.append(values["items"])
            if len(ready) >= 2 and not lost:
                assert takes.stdin is not None
                assert takes.stdout is not None
                takes.stdin.write("more\n")
                takes.stdin.flush()
                takes.stdout.readline()

    what = {"batch_size": 1, "limit": 300}
    where = {"executor": "ray", "address": cluster.address}
    try:
        made = predict(tmp_path / "set", "ray.h5", tell=take, **what, **where)
    finally:
        takes.kill()
        takes.communicate()
    assert {*lost} == {"out of memory"}
    assert sum(items) == 300
    whole = predict(tmp_path / "set", "local.h5", **what)
    assert made.read_bytes() == whole.read_bytes()
