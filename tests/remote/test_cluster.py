"""Predictions on a Ray cluster of other machines, which have the object store in common only."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.errors import FashionbatchError
from tests.remote.conftest import BUCKET
from tests.remote.machines import Machines
from tests.remote.test_outputs import OUT, SET, content, keys


@pytest.fixture
def address(machines: Machines) -> Iterator[str]:
    """Of a cluster of two of them."""
    import fashionbatch_ray.executor  # noqa: F401  # before Ray, which it has settings for

    # isort: split
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for name in ("one", "two"):
        with machines.on(name):
            cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow(seconds=60)
def test_nothing_in_common_but_the_store(
    address: str,
    machines: Machines,
    bucket: Any,
    upload: Any,
    packed: Path,
    trained: Path,
    tmp_path: Path,
) -> None:
    """Data, model and output lie there: the bytes of the local executor, also of lost workers."""
    upload(packed, "photos")
    upload(trained, "mine")
    source, model = f"s3://{BUCKET}/photos", f"s3://{BUCKET}/mine"
    given = {"batch_size": 4, "workers": 1, "engine": "eager", "device": "cpu"}
    ray = {**given, "executor": "ray", "address": address}
    here = tmp_path / "here.h5"
    fashionbatch.predict(source, model=model, output=here, **given)
    fashionbatch.predict(source, model=model, output=tmp_path / "here", no_merge=True, **given)

    before = keys(bucket)
    fashionbatch.predict(source, model=model, output=OUT, **ray)
    assert sorted({*keys(bucket)} - {*before}) == ["preds/out.h5"]
    assert content(bucket, "preds/out.h5") == here.read_bytes()
    assert any(list(cache.rglob("model.safetensors")) for cache in machines.caches)
    assert not any(list(cache.rglob("part-*")) for cache in machines.caches)

    items: list[int] = []
    pids: list[int] = []

    def kill(event: str, values: dict[str, Any]) -> None:
        if event == "process":
            pids.append(values["pid"])
        if event == "progress":
            if not items:
                os.kill(pids[0], signal.SIGKILL)
            items.append(values["items"])

    fashionbatch.predict(source, model=model, output=SET, no_merge=True, tell=kill, **ray)
    assert sum(items) == 24
    made = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert made == {name: content(bucket, f"preds/set/{name}") for name in made}
    assert len([key for key in keys(bucket) if key.startswith("preds/set/")]) == len(made)

    machines.permit(False)
    other = f"s3://{BUCKET}/other.h5"
    with pytest.raises(FashionbatchError) as caught:
        fashionbatch.predict(packed, model=trained, output=other, **ray)
    said = str(caught.value)
    assert "bucket bucket refuses s3://bucket/other.h5.parts/" in said
    assert "no credentials are set" in said
    assert "\n" not in said
