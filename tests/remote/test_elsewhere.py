"""Predictions by a worker on another machine, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.address import Address
from fashionbatch.api import inference
from fashionbatch.errors import ExecutionError, StoppedError
from fashionbatch.inference.delivery import Delivery
from fashionbatch.shards.read import open_shards
from fashionbatch.store import part as parts
from tests.remote.conftest import BUCKET
from tests.remote.machines import Apart, Machines
from tests.remote.test_outputs import OUT, content, keys

MODEL = f"s3://{BUCKET}/mine"
GIVEN = {"batch_size": 4, "workers": 1, "engine": "eager", "device": "cpu"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``run(executor, source, ...)`` predicts with this very executor."""

    def go(executor: Apart, source: object, **options: Any) -> Any:
        monkeypatch.setattr(inference, "executor_of", lambda config: nullcontext(executor))
        return fashionbatch.predict(source, executor="apart", **GIVEN, **options)

    return go


@pytest.mark.slow(seconds=20)
def test_nothing_in_common_but_the_store(
    run: Any,
    machines: Machines,
    bucket: Any,
    upload: Any,
    packed: Path,
    trained: Path,
    tmp_path: Path,
) -> None:
    """Stopped, its parts are counted where they lie; gone on with, it is that of this machine."""
    upload(packed, "photos")
    upload(trained, "mine")
    source = f"s3://{BUCKET}/photos"
    fashionbatch.predict(source, model=MODEL, output=tmp_path / "here.h5", **GIVEN)
    before = keys(bucket)
    done = sum(shard.items for shard in open_shards(packed).manifest.shards[:2])
    with pytest.raises(StoppedError, match=f"stopped: {done} of 24 items are finished and kept"):
        run(Apart(machines, leases=2), source, model=MODEL, output=OUT)
    names = ["about.json", "part-000000.h5", "part-000001.h5"]
    begun = sorted({*keys(bucket)} - {*before})
    assert begun == [f"preds/out.h5.parts/{name}" for name in names]
    told: dict[str, Any] = {}
    run(
        Apart(machines), source, model=MODEL, output=OUT,
        tell=lambda event, values: told.update({event: values}),
    )  # fmt: skip
    assert told["resumed"]["parts"] == 2
    assert content(bucket, "preds/out.h5") == (tmp_path / "here.h5").read_bytes()
    assert sorted({*keys(bucket)} - {*before}) == ["preds/out.h5"]
    (cache,) = machines.caches
    assert list(cache.rglob("model.safetensors"))
    assert not list(cache.rglob("part-*"))


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("there", [True, False])
def test_tar_files_made_elsewhere(
    there: bool,
    run: Any,
    machines: Machines,
    upload: Any,
    bucket: Any,
    data_set: Path,
    trained: Path,
    tmp_path: Path,
) -> None:
    """Each lease brings its rows, and those of neighbours in the same batches.

    Also where machines share a disk: the index is in the cache of the one that plans.
    """
    (data_set / "dataset.json").unlink()
    (data_set / "val-000000.tar").write_bytes(b"<html>not a tar file</html>" * 50)
    upload(data_set, "photos")
    source = f"s3://{BUCKET}/photos/*.tar" if there else data_set
    output = tmp_path / "here.h5"
    fashionbatch.predict(source, model=trained, output=output, **GIVEN)
    before = output.read_bytes()
    output.unlink()
    run(Apart(machines), source, model=trained, output=output)
    assert output.read_bytes() == before
    with fashionbatch.open_predictions(output) as found:
        assert len(found) > 12 and len(found.failures) == 1


def test_another_model_at_the_worker(
    run: Any, machines: Machines, bucket: Any, upload: Any, packed: Path, trained: Path
) -> None:
    """It was replaced in between, or the machine has another one at that path."""
    upload(trained, "mine")
    card = {**json.loads((trained / "model.json").read_bytes()), "temperature": 2.0}

    def replace() -> None:
        bucket.put_object(Bucket=BUCKET, Key="mine/model.json", Body=json.dumps(card).encode())

    with pytest.raises(ExecutionError, match=f"finds another model at {MODEL} than this run has"):
        run(Apart(machines, asked=replace), packed, model=MODEL, output=OUT)


def test_what_a_lost_worker_left_is_looked_for_where_it_lies(
    bucket: Any, packed: Path, trained: Path
) -> None:
    """A part that it wrote on this disk and did not put is not there; one that it put is."""
    fashionbatch.predict(packed, model=trained, output=OUT, keep_parts=True, **GIVEN)
    made = Delivery(Address(OUT), no_merge=False)
    made.fetch(6, restart=False)
    folder = made.output.with_name("out.h5.parts")
    bucket.delete_object(Bucket=BUCKET, Key="preds/out.h5.parts/part-000002.h5")
    parts.path_of(folder, 1).unlink()
    made.refresh([1, 2])
    assert parts.path_of(folder, 1).read_bytes() == content(
        bucket, "preds/out.h5.parts/part-000001.h5"
    )
    assert not parts.path_of(folder, 2).exists()
    assert parts.path_of(folder, 3).exists()
    assert made.there(6) == [0, 1, 3, 4, 5]
