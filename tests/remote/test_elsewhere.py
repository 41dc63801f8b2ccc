"""Predictions by a worker on another machine, without a cluster."""

from __future__ import annotations

import json
from collections import Counter
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
from tests.conftest import Photo
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


@pytest.mark.slow(seconds=10)
def test_tar_files_made_elsewhere(
    run: Any, machines: Machines, data_set: Path, trained: Path, tmp_path: Path
) -> None:
    """Each lease brings its rows, and those of neighbours in the same batches.

    The machines share a disk, and not the cache of the one that plans, where the index is.
    """
    (data_set / "dataset.json").unlink()
    (data_set / "val-000000.tar").write_bytes(b"<html>not a tar file</html>" * 50)
    output = tmp_path / "here.h5"
    fashionbatch.predict(data_set, model=trained, output=output, **GIVEN)
    before = output.read_bytes()
    output.unlink()
    run(Apart(machines), data_set, model=trained, output=output)
    assert output.read_bytes() == before
    with fashionbatch.open_predictions(output) as found:
        assert len(found) > 12 and len(found.failures) == 1


@pytest.mark.slow(seconds=30)
def test_catalogues_that_change(
    run: Any,
    machines: Machines,
    bucket: Any,
    upload: Any,
    photo: Photo,
    trained: Path,
    tmp_path: Path,
) -> None:
    """Failed images are tried again, and new ones predicted; the rest is taken over there."""
    photos, packed = tmp_path / "photos", tmp_path / "set"
    source, given = f"s3://{BUCKET}/set", {"model": MODEL, "output": OUT}

    def pack(numbers: range, changed: int) -> None:
        for number in numbers:
            file = photos / ("dress", "hat")[number % 2] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photo(number + 1000 * (number == changed), (40, 50)))
        fashionbatch.shard(photos, output=packed, samples_per_shard=6, exist_ok=True, workers=1)
        upload(packed, "set")

    def updated(executor: Apart, **options: Any) -> dict[str, int]:
        sums: Counter[str] = Counter()

        def tell(event: str, values: dict[str, Any]) -> None:
            if event == "progress":
                sums.update(values)

        run(executor, source, tell=tell, **given, **options)
        return dict(sums)

    upload(trained, "mine")
    pack(range(20), -1)
    bucket.delete_object(Bucket=BUCKET, Key="set/train-000001.tar")
    made = fashionbatch.predict(source, **given, **GIVEN)
    assert made["failed"] == 6
    pack(range(0), -1)
    assert updated(Apart(machines), retry_failed=True) == {"items": 20, "reused": 14}
    with fashionbatch.open_predictions(OUT) as retried:
        assert (len(retried), len(retried.failures)) == (20, 0)

    pack(range(19, 30), 19)
    before = content(bucket, "preds/out.h5")
    with pytest.raises(StoppedError):
        updated(Apart(machines, leases=2), incremental=True)
    assert content(bucket, "preds/out.h5") == before
    found = updated(Apart(machines), incremental=True)
    assert found["items"] < 30 and 0 < found["reused"] <= 19
    fashionbatch.predict(source, model=MODEL, output=tmp_path / "fresh.h5", **GIVEN)
    assert content(bucket, "preds/out.h5") == (tmp_path / "fresh.h5").read_bytes()
    assert [key for key in keys(bucket) if key.startswith("preds")] == ["preds/out.h5"]


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
