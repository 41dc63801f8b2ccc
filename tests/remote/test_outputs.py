"""Predictions that are written to an object store: whole or not, gone on with, read back."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.errors import OutputExistsError, StoreError, UsageError
from fashionbatch.remote import client
from tests.remote.conftest import BUCKET
from tests.remote.hosts import Gate, Host

OUT = f"s3://{BUCKET}/preds/out.h5"
SET = f"s3://{BUCKET}/preds/set"


def keys(bucket: Any) -> list[str]:
    """What is in the bucket."""
    return sorted(one["Key"] for one in bucket.list_objects_v2(Bucket=BUCKET).get("Contents", ()))


def content(bucket: Any, key: str) -> bytes:
    """Bytes of an object."""
    data: bytes = bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return data


@pytest.fixture
def options(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How to predict; run elsewhere than in the clone."""
    monkeypatch.chdir(tmp_path)
    return {"model": str(trained), "batch_size": 4, "workers": 1, "engine": "eager"}


def another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The cache is empty, as on another machine."""
    monkeypatch.setenv("FASHIONBATCH_CACHE", str(tmp_path / name))


def test_file(
    bucket: Any,
    data_set: Path,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bytes of the file on a disk, put last; its parts are gone."""
    here = tmp_path / "here.h5"
    fashionbatch.predict(data_set, output=str(here), **options)
    order: list[str] = []
    put = client.put

    def recorded(address: Any, data: bytes) -> None:
        order.append(address.key)
        put(address, data)

    monkeypatch.setattr(client, "put", recorded)
    made = fashionbatch.predict(data_set, output=OUT, **options)
    assert made["output"] == OUT and made["predicted"] == 24
    assert keys(bucket) == ["preds/out.h5"]
    assert content(bucket, "preds/out.h5") == here.read_bytes()
    parts = [f"preds/out.h5.parts/part-{number:06d}.h5" for number in range(6)]
    assert order == ["preds/out.h5.parts/about.json", *parts, "preds/out.h5"]
    another_disk(tmp_path, monkeypatch, "other")
    told: list[str] = []
    fashionbatch.predict(
        data_set, output=OUT, **options, tell=lambda event, values: told.append(event)
    )
    assert "complete" in told and order[-1] == "preds/out.h5" and len(order) == 8
    with pytest.raises(OutputExistsError) as caught:
        fashionbatch.predict(data_set, output=OUT, **options, topk=1)
    assert str(caught.value).startswith(f"{OUT} is of another run (other topk)")
    fashionbatch.predict(data_set, output=OUT, **options, topk=1, restart=True)
    with fashionbatch.open_predictions(OUT) as found:
        assert len(found[0].classes) == 1


@pytest.mark.slow
def test_parts(
    bucket: Any,
    data_set: Path,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of a folder on a disk, and a manifest, last; one that is damaged is not believed."""
    fashionbatch.predict(data_set, output=str(tmp_path / "here"), no_merge=True, **options)
    order: list[str] = []
    put = client.put

    def recorded(address: Any, data: bytes) -> None:
        order.append(address.key)
        put(address, data)

    monkeypatch.setattr(client, "put", recorded)
    fashionbatch.predict(data_set, output=SET, no_merge=True, **options)
    assert order[-1] == "preds/set/predictions.json"
    for file in (tmp_path / "here").iterdir():
        assert content(bucket, f"preds/set/{file.name}") == file.read_bytes()
    assert len(keys(bucket)) == len(list((tmp_path / "here").iterdir()))
    another_disk(tmp_path, monkeypatch, "other")
    told: list[str] = []
    fashionbatch.predict(
        data_set, output=SET, no_merge=True, **options, tell=lambda event, v: told.append(event)
    )
    assert "complete" in told
    with pytest.raises(OutputExistsError, match=f"{SET} holds predictions"):
        fashionbatch.predict(data_set, output=SET, no_merge=True, incremental=True, **options)
    with fashionbatch.open_predictions(SET) as found:
        assert len(found) == 24
    another_disk(tmp_path, monkeypatch, "third")
    damaged = bytearray(content(bucket, "preds/set/part-000002.h5"))
    damaged[-100] ^= 1
    bucket.put_object(Bucket=BUCKET, Key="preds/set/part-000002.h5", Body=bytes(damaged))
    with fashionbatch.open_predictions(SET) as found, pytest.raises(StoreError, match="checksum"):
        found.text("items/name").read(0, 24)


@pytest.mark.slow
@pytest.mark.parametrize("no_merge", [False, True])
def test_killed_runs_go_on_elsewhere(
    no_merge: bool,
    bucket: Any,
    gate: Gate,
    host: Host,
    data_set: Path,
    trained: Path,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After kill -9 another machine takes the parts that are there; the output is the same."""
    shutil.copytree(data_set, host.root / "photos")
    host.trouble = lambda path, before: 503 if before and "train-000002" in path else None
    output = SET if no_merge else OUT
    flags = ["-o", output, "--model", str(trained), "-b", "4", "-j", "1", "--engine", "eager"]
    flags += ["--no-merge"] if no_merge else []
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fashionbatch",
            "predict",
            f"{host.url}/photos",
            *flags,
        ],
        env={**os.environ, "FASHIONBATCH_REMOTE_SECONDS": "20"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            done = [key for key in keys(bucket) if "part-" in key]
            if len(done) >= 2:
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    done = [key for key in keys(bucket) if "part-" in key]
    assert len(done) >= 2 and not {"preds/out.h5", "preds/set/predictions.json"} & set(keys(bucket))
    host.trouble = lambda path, before: None
    another_disk(tmp_path, monkeypatch, "other")
    with pytest.raises(OutputExistsError, match="the same command takes over in 1"):
        # which cannot know that it was killed
        fashionbatch.predict(f"{host.url}/photos", output=output, no_merge=no_merge, **options)
    (lies,) = [key for key in keys(bucket) if key.endswith("claim.json")]
    gate.ages[content(bucket, lies)] = 130
    told: dict[str, Any] = {}
    made = fashionbatch.predict(
        f"{host.url}/photos",
        output=output,
        no_merge=no_merge,
        **options,
        tell=lambda event, values: told.update({event: values}),
    )
    assert told["resumed"]["parts"] == len(done) and made["failed"] == 0
    another_disk(tmp_path, monkeypatch, "third")
    whole = f"s3://{BUCKET}/preds/whole" + ("" if no_merge else ".h5")
    fashionbatch.predict(f"{host.url}/photos", output=whole, no_merge=no_merge, **options)
    if no_merge:
        names = [key.rpartition("/")[2] for key in keys(bucket) if key.startswith("preds/set/")]
        assert len(names) == 8
        for name in names:
            assert content(bucket, f"preds/set/{name}") == content(bucket, f"preds/whole/{name}")
    else:
        assert content(bucket, "preds/out.h5") == content(bucket, "preds/whole.h5")
        assert keys(bucket) == ["preds/out.h5", "preds/whole.h5"]


def test_commands_read_them(
    bucket: Any, data_set: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """As they read files; what they make is called on this disk."""
    fashionbatch.predict(data_set, output=OUT, **options)
    fashionbatch.predict(data_set, output=SET, no_merge=True, **options)
    for address in (OUT, SET):
        assert fashionbatch.evaluate(address)["top1"] is not None
        fashionbatch.export(address, output=str(tmp_path / "x.csv"), exist_ok=True)
        with (tmp_path / "x.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 24
    fashionbatch.merge([SET], output=str(tmp_path / "merged.h5"))
    with fashionbatch.open_predictions(tmp_path / "merged.h5") as found:
        assert len(found) == 24
    with fashionbatch.open_predictions(OUT) as found:
        copy = found.path
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    assert fashionbatch.evaluate(OUT)["predictions"] == OUT
    assert copy.read_bytes() == content(bucket, "preds/out.h5")  # what rots is fetched again
    with pytest.raises(UsageError, match="name a file of this disk"):
        fashionbatch.export(OUT)
    with pytest.raises(StoreError, match=r"none\.h5 holds no predictions"):
        fashionbatch.open_predictions(f"s3://{BUCKET}/none.h5")


@pytest.mark.parametrize("address", ["https://host/out.h5", "s3://bucket", "s3://bucket/*.h5"])
def test_outputs_that_cannot_be(address: str, data_set: Path, options: dict[str, Any]) -> None:
    """They are refused before any work."""
    with pytest.raises(UsageError, match="nothing is written there"):
        fashionbatch.predict(data_set, output=address, **options)
