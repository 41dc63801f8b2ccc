"""Whole commands on data and models elsewhere; credentials are nowhere in what they make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.errors import ModelError, RemoteError, ShardError, UsageError
from tests.remote.conftest import BUCKET, KEYS
from tests.remote.hosts import Host

Upload = Callable[[Path, str], None]
SECRET = "secret-of-the-address"


def predicted(path: str | Path) -> dict[str, tuple[str, float]]:
    """Of each name the class and its probability."""
    with fashionbatch.open_predictions(path) as found:
        return {row.name: (row.classes[0], row.probabilities[0]) for row in found}


@pytest.fixture
def expected(data_set: Path, trained: Path, tmp_path: Path) -> dict[str, tuple[str, float]]:
    """What is predicted of the data set on this disk."""
    made = fashionbatch.predict(str(data_set), model=str(trained), output=str(tmp_path / "here.h5"))
    return predicted(made["output"])


def test_data_and_model_on_an_object_store(
    bucket: Any,
    upload: Upload,
    data_set: Path,
    trained: Path,
    expected: dict[str, tuple[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same predictions as from the disk; called after the address; done is done."""
    monkeypatch.chdir(tmp_path)
    upload(data_set, "sets/photos")
    upload(trained, "runs/mine")
    there, model = f"s3://{BUCKET}/sets/photos", f"s3://{BUCKET}/runs/mine"
    made = fashionbatch.predict(there, model=model)
    assert made["output"] == "predictions/photos-mine.h5" and made["model"] == model
    assert predicted(made["output"]) == expected
    told: list[str] = []
    fashionbatch.predict(
        there, model=f"{model}/model.safetensors", tell=lambda event, values: told.append(event)
    )
    assert "complete" in told
    figures = fashionbatch.evaluate(made["output"], labels=there)
    assert figures["top1"] is not None
    with fashionbatch.open_predictions(made["output"]) as found:
        assert str(found.source) == there


def test_damaged_models(host: Host, trained: Path, data_set: Path, tmp_path: Path) -> None:
    """Weights that are not those of the card, a damaged card, and none: one line each."""
    shutil.copytree(trained, host.root / "mine")
    weights = host.root / "mine" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    options = {"output": str(tmp_path / "out.h5")}
    with pytest.raises(ModelError, match=rf"{host.url}/mine/model.safetensors is not the file"):
        fashionbatch.predict(str(data_set), model=f"{host.url}/mine", **options)
    (host.root / "mine" / "model.json").write_text("{}")
    with pytest.raises(ModelError, match=rf"{host.url}/mine/model.json is damaged"):
        fashionbatch.predict(str(data_set), model=f"{host.url}/mine", **options)
    with pytest.raises(UsageError, match="there is no such run"):
        fashionbatch.predict(str(data_set), model=f"{host.url}/none", **options)


@pytest.mark.slow
def test_training_from_an_address(host: Host, packed: Path, trained: Path, tmp_path: Path) -> None:
    """Gives the weights that training from the disk gives."""
    shutil.copytree(packed, host.root / "photos")
    made = fashionbatch.train(
        data=f"{host.url}/photos",
        backbone="small-resnet",
        weights="none",
        epochs=1,
        img_size=32,
        batch_size=8,
        workers=2,
        output=str(tmp_path / "runs"),
    )
    assert made["run"].endswith("runs/photos-small-resnet-1")
    one, other = (json.loads((Path(r) / "model.json").read_text()) for r in (made["run"], trained))
    assert one["sha256"] == other["sha256"]
    assert one["lineage"]["data"] == f"{host.url}/photos"


@pytest.mark.slow
def test_a_run_goes_on_when_its_host_is_back(
    host: Host,
    data_set: Path,
    trained: Path,
    expected: dict[str, tuple[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host that is away ends it with one line; no image counts as failed."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "3")
    shutil.copytree(data_set, host.root / "photos")
    host.trouble = lambda path, before: 503 if before and "train-000002" in path else None
    options: dict[str, Any] = {
        "model": str(trained),
        "output": str(tmp_path / "out.h5"),
        "batch_size": 4,
        "workers": 1,
    }
    with pytest.raises(RemoteError, match="answers 503"):
        fashionbatch.predict(f"{host.url}/photos", **options)
    kept = len(list((tmp_path / "out.h5.parts").glob("part-*")))
    assert 0 < kept < 6
    host.trouble = lambda path, before: None
    made = fashionbatch.predict(f"{host.url}/photos", **options)
    assert made["failed"] == 0
    found = predicted(made["output"])
    assert {name: answer for name, (answer, _) in found.items()} == {
        name: answer for name, (answer, _) in expected.items()
    }


def test_a_shard_that_is_gone_fails_by_name(
    host: Host, data_set: Path, trained: Path, tmp_path: Path
) -> None:
    """The others are predicted; training refuses the data set."""
    shutil.copytree(data_set, host.root / "photos")
    (host.root / "photos" / "train-000001.tar").unlink()
    made = fashionbatch.predict(
        f"{host.url}/photos", model=str(trained), output=str(tmp_path / "out.h5")
    )
    assert made["predicted"] == 18 and made["failed"] > 0
    with fashionbatch.open_predictions(made["output"]) as found:
        assert all("train-000001.tar" in failure["reason"] for failure in found.failures)
    with pytest.raises(ShardError, match="is missing"):
        fashionbatch.train(
            data=f"{host.url}/photos",
            backbone="small-resnet",
            weights="none",
            output=str(tmp_path / "runs"),
        )


def test_no_credentials_in_what_is_made(
    host: Host, data_set: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a user's name and password, of a query: in no result, event or file."""
    shutil.copytree(data_set, host.root / "photos")
    shutil.copytree(trained, host.root / "mine")
    address = f"{host.url}/photos?signature={SECRET}".replace("//", f"//me:{SECRET}@")
    told: list[Any] = []
    made = fashionbatch.predict(
        address,
        model=f"{host.url}/mine?signature={SECRET}",
        output=str(tmp_path / "out" / "x.h5"),
        keep_parts=True,
        tell=lambda event, values: told.append((event, values)),
    )
    trained_too = fashionbatch.train(
        data=address,
        backbone="small-resnet",
        weights="none",
        epochs=1,
        img_size=32,
        workers=0,
        output=str(tmp_path / "out"),
        tell=lambda event, values: told.append((event, values)),
    )
    assert SECRET not in repr((made, trained_too, told)) + "".join(capsys.readouterr())
    files = [p for part in ("out", "cache") for p in (tmp_path / part).rglob("*") if p.is_file()]
    assert {"x.h5", "part-000000.h5", "config.toml", "model.json"} <= {p.name for p in files}
    for file in files:
        assert SECRET.encode() not in file.read_bytes() + str(file).encode(), file


@pytest.mark.slow
def test_no_credentials_in_anything(
    bucket: Any, upload: Upload, host: Host, data_set: Path, trained: Path, tmp_path: Path
) -> None:
    """Of the environment, of a user's name and password, of a query: in no output, log or file."""
    shutil.copytree(data_set, host.root / "photos")
    shutil.copytree(trained, host.root / "mine")
    upload(data_set, "photos")
    secret = f"?X-Amz-Signature={SECRET}"
    with_user = host.url.replace("http://", f"http://me:{SECRET}@")
    work = tmp_path / "work"
    work.mkdir()

    def command(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "fashionbatch", *arguments],
            cwd=work,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            check=False,
        )

    tars = "train-{000000..000001}.tar"
    calls = {
        ("predict", f"{host.url}/photos{secret}", "--model", f"{with_user}/mine", "--json"): 0,
        ("predict", f"{with_user}/photos/{tars}{secret}", "--model", f"{host.url}/mine{secret}"): 0,
        ("predict", f"s3://{BUCKET}/photos", "--model", f"{with_user}/mine", "-o", "s3.h5"): 0,
        ("verify", f"{with_user}/photos{secret}", "--json"): 0,
        ("predict", f"{with_user}/none{secret}", "--model", f"{host.url}/mine"): 1,
        ("predict", f"s3://me:{SECRET}@{BUCKET}/photos", "--model", f"{host.url}/mine"): 2,
    }
    for arguments, code in calls.items():
        made = command(*arguments)
        assert made.returncode == code, made.stderr
        for text in (made.stdout, made.stderr):
            assert SECRET.encode() not in text
            assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in text
            assert b"Traceback" not in text and b"Unclosed" not in text
    files = [p for folder in (work, tmp_path / "cache") for p in folder.rglob("*") if p.is_file()]
    assert len([p for p in files if p.suffix == ".h5"]) > 3
    for file in files:
        data = file.read_bytes() + str(file).encode()
        assert SECRET.encode() not in data, file
        assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in data, file
