"""A real Ray cluster on this machine, a data set of many shards, and predictions of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fashionbatch_ray.executor  # noqa: F401  # before Ray, which it has settings for

# isort: split
import fashionbatch
import pytest
import ray
from fashionbatch.testing.fixtures import *  # noqa: F403
from ray.cluster_utils import Cluster

Predict = Callable[..., Path]


@pytest.fixture
def cluster() -> Iterator[Callable[..., Cluster]]:
    """``cluster(2)``: so many nodes with one CPU each; the first one has none."""
    made: list[Cluster] = []

    def start(nodes: int = 2, **env: str) -> Cluster:
        os.environ.update(env)
        try:
            found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
            made.append(found)
            for _ in range(nodes):
                found.add_node(num_cpus=1)
            found.wait_for_nodes()
        finally:
            for name in env:
                del os.environ[name]
        return found

    yield start
    ray.shutdown()
    for each in made:
        each.shutdown()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, photograph: Any) -> Path:
    """24 photographs in 8 shards; one of them is damaged."""
    folder = tmp_path_factory.mktemp("many")
    photographs = folder / "photographs"
    photographs.mkdir()
    for number in range(24):
        data = photograph(number)
        whole = number != 13
        (photographs / f"{number:02}.jpg").write_bytes(data if whole else data[: len(data) // 2])
    fashionbatch.shard(photographs, output=folder / "shards", samples_per_shard=3, check="none")
    return folder / "shards"


@pytest.fixture
def predict(trained: Path, tmp_path: Path) -> Predict:
    """``predict(source, name, **options)``: the file, or whatever is raised."""

    def go(source: Path, name: str, **options: Any) -> Path:
        given = {
            "model": trained, "output": tmp_path / name, "engine": "eager", "device": "cpu",
            "workers": 1, "batch_size": 4,
        }  # fmt: skip
        fashionbatch.predict(source, **{**given, **options})
        return tmp_path / name

    return go
