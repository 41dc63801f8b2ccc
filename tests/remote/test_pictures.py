"""Pictures and reports of what lies elsewhere: predictions, runs, shards, single images."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.errors import RemoteError, ShardError, SourceError, StoreError, UsageError
from tests.remote.conftest import BUCKET
from tests.remote.hosts import Host

Upload = Callable[[Path, str], None]
FILE, SET = f"s3://{BUCKET}/preds/out.h5", f"s3://{BUCKET}/preds/set"


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """The data of a report's page."""
    text = Path(result["output"]).read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture
def stored(
    bucket: Any,
    upload: Upload,
    packed: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A data set, a run, and predictions of the one by the other, as a file and as parts, on an
    object store; gives the file on this disk."""
    monkeypatch.chdir(tmp_path)
    upload(packed, "photos")
    upload(trained, "runs/mine")
    for name, no_merge, split in (
        ("out.h5", False, "train"),
        ("set", True, "train"),
        ("few.h5", False, "val"),
    ):
        fashionbatch.predict(
            str(packed),
            model=str(trained),
            output=str(tmp_path / "preds" / name),
            no_merge=no_merge,
            split=split,
        )
    upload(tmp_path / "preds", "preds")
    return tmp_path / "preds" / "out.h5"


@pytest.mark.slow(seconds=20)
def test_reports(stored: Path, packed: Path, trained: Path, tmp_path: Path) -> None:
    """Of a file, of parts, and of a run elsewhere: what they are of the same on this disk."""
    there = {"model": f"s3://{BUCKET}/runs/mine", "catalog": f"s3://{BUCKET}/photos"}
    options = {"heatmaps": 3, "device": "cpu", "output": str(tmp_path / "r.html")}
    here = fashionbatch.report(stored, model=str(trained), catalog=str(packed), **options)
    known = shown(here)
    assert here["thumbnails"] == here["items"] > 10 and here["heatmaps"] == 3
    for address in (FILE, SET):
        made = fashionbatch.report(address, **there, **options)
        assert {**made, "bytes": 0} == {**here, "bytes": 0}
        data = shown(made)
        assert data["thumbnails"] == known["thumbnails"] and data["history"] == known["history"]
        assert data["history"]["rows"]
        assert ["Run", there["model"]] in data["about"]
        assert str(tmp_path / "cache") not in json.dumps(data)
    made = fashionbatch.report(f"s3://{BUCKET}/preds/few.h5", **there, heatmaps=0)
    assert any("audited: few.h5: of 2 items" in note for note in made["notes"])
    made = fashionbatch.report(
        f"s3://{BUCKET}/runs/mine", catalog=there["catalog"], heatmaps=0, device="cpu"
    )
    assert made["output"] == "reports/mine.html" and made["thumbnails"] == made["items"] > 0


def test_reports_read_single_images(
    stored: Path, packed: Path, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By their place in the index, some of them together; and never a shard as a whole."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_CACHE", "0")
    shutil.copytree(packed, host.root / "photos")
    options = {"thumbnails": 8, "heatmaps": 0, "output": str(tmp_path / "r.html")}
    made = fashionbatch.report(stored, catalog=f"{host.url}/photos", **options)
    assert made["thumbnails"] == 8
    asked = [one for one in host.of(".tar") if one.sent > 1]
    assert 0 < len(asked) <= 8
    index = fashionbatch.open_shards(packed).index
    assert sum(one.sent for one in asked) <= 8 * (int(index.size.max()) + 4096)


def test_a_host_that_is_away_ends_a_report(
    stored: Path, packed: Path, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would be waited for once for each photograph; one that is gone costs itself."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "1")
    monkeypatch.setenv("FASHIONBATCH_REMOTE_CACHE", "0")
    shutil.copytree(packed, host.root / "photos")
    options = {"catalog": f"{host.url}/photos", "heatmaps": 0, "output": str(tmp_path / "r.html")}
    host.trouble = lambda path, before: 503 if path.endswith(".tar") and before else None
    with pytest.raises(RemoteError, match="it answers 503"):
        fashionbatch.report(stored, **options)
    host.asked.clear()
    host.trouble = lambda path, before: 403 if path.endswith("0.tar") and before else None
    made = fashionbatch.report(stored, **options)
    assert 0 < made["thumbnails"] < made["items"]
    assert any("cannot be shown" in note for note in made["notes"])


def test_explaining_predictions(stored: Path, tmp_path: Path) -> None:
    """Rows of them, photographs from the data set, charts of the whole."""
    there = {"model": f"s3://{BUCKET}/runs/mine", "catalog": f"s3://{BUCKET}/photos"}
    options = {"output": str(tmp_path / "why"), "device": "cpu"}
    made = fashionbatch.explain(
        "grad-cam", predictions=FILE, rows="all", limit=3, **there, **options
    )
    assert made["pictures"] == 3 and not made["failed"]
    made = fashionbatch.explain("confusion", predictions=SET, **options)
    assert list(made["about"]) == ["confusion.set.png"]
    with fashionbatch.open_predictions(stored) as found:
        name = found[5].name
    made = fashionbatch.explain("grad-cam", [name], predictions=SET, **there, **options)
    assert made["items"] == 1 and not made["failed"]


def test_images(
    bucket: Any, host: Host, packed: Path, trained: Path, stored: Path, tmp_path: Path
) -> None:
    """At addresses of any kind: explained and looked for as if they were files of this disk."""
    file = packed.parent / "photos" / "dress" / "2.jpg"
    bucket.put_object(Bucket=BUCKET, Key="dress/2 é.jpg", Body=file.read_bytes())
    shutil.copy(file, host.root / "2.jpg")
    options = {"model": str(trained), "device": "cpu"}
    addresses = [f"s3://{BUCKET}/dress/2 é.jpg", f"{host.url}/2.jpg?signature=secret"]
    pictures = {}
    for number, image in enumerate([str(file), *addresses]):
        output = tmp_path / f"why{number}"
        made = fashionbatch.explain("grad-cam", [image], output=str(output), **options)
        assert made["pictures"] == 1 and not made["failed"]
        pictures[image] = [dict(about) for about in made["about"].values()]
        assert "secret" not in " ".join(made["about"])
    assert len({json.dumps(about) for about in pictures.values()}) == 1
    made = fashionbatch.explain(
        "grad-cam", [f"s3://{BUCKET}/dre*/*.jpg"], output=str(tmp_path / "some"), **options
    )
    assert made["items"] == 1
    expected = fashionbatch.search(stored, [str(file)], sheet=False, **options)
    found = fashionbatch.search(FILE, addresses, sheet=False, **options)
    assert [query["name"] for query in found["queries"]] == [
        addresses[0],
        addresses[1].partition("?")[0],
    ]
    for query in found["queries"]:
        assert query["neighbours"] == expected["queries"][0]["neighbours"]


def test_images_that_cannot_be_had(
    host: Host,
    trained: Path,
    packed: Path,
    stored: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is not there or not given costs itself, like a file; a host that is away the run."""
    shutil.copy(packed.parent / "photos" / "hat" / "1.jpg", host.root / "1.jpg")
    (host.root / "bad.jpg").write_text("<html>")
    shutil.copy(host.root / "1.jpg", host.root / "secret.jpg")
    host.trouble = lambda path, before: 403 if "secret" in path else None
    images = [f"{host.url}/{name}.jpg" for name in ("1", "none", "secret", "bad")]
    options = {"model": str(trained), "device": "cpu", "output": str(tmp_path / "out")}
    made = fashionbatch.explain("grad-cam", images, **options)
    reasons = {failure["name"]: failure["reason"] for failure in made["failed"]}
    assert made["pictures"] == 1 and set(reasons) == {"none.jpg", "secret.jpg", "bad.jpg"}
    assert "does not exist (it answers 404)" in reasons["none.jpg"]
    assert "refuses" in reasons["secret.jpg"] and "\n" not in "".join(reasons.values())
    found = fashionbatch.search(stored, images, sheet=False, **options)
    assert [failure["name"] for failure in found["failed"]] == images[1:]
    with pytest.raises(SourceError, match="none of the 1 images can be used"):
        fashionbatch.explain("grad-cam", [f"{host.url}/none.jpg"], **options)
    monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "1")
    host.trouble = lambda path, before: 503
    for job in (
        lambda: fashionbatch.explain("grad-cam", [images[0]], **options),
        lambda: fashionbatch.search(stored, [images[0]], sheet=False, **options),
    ):
        with pytest.raises(RemoteError, match="it answers 503"):
            job()


def test_bad_addresses(
    bucket: Any, trained: Path, stored: Path, nobody: Callable[[], None]
) -> None:
    """One line for each: not there, not allowed, no permission."""
    model = {"model": str(trained)}
    for job in (
        lambda where: fashionbatch.report(where),
        lambda where: fashionbatch.explain("confusion", predictions=where),
        lambda where: fashionbatch.explain("grad-cam", [where], **model),
        lambda where: fashionbatch.search(stored, [where], **model),
    ):
        for bad in ("pipe://cat x", "ftp://host/a.jpg", "simplecache::s3://bucket/x.h5"):
            with pytest.raises(UsageError, match=r"runs a program|are not read"):
                job(bad)
    for bad in (f"s3://{BUCKET}/none.h5", f"s3://{BUCKET}/none"):
        for job in (
            lambda where: fashionbatch.report(where),
            lambda where: fashionbatch.explain("confusion", predictions=where),
        ):
            with pytest.raises(StoreError, match=f"{bad} holds no predictions"):
                job(bad)
    with pytest.raises(ShardError, match="s3://bucket/none holds no shards"):
        fashionbatch.report(stored, catalog=f"s3://{BUCKET}/none")
    with pytest.raises(SourceError, match="s3://bucket/none.jpg does not exist"):
        fashionbatch.explain("grad-cam", [f"s3://{BUCKET}/none.jpg"], **model)
    nobody()
    with pytest.raises(RemoteError, match=r"refuses .*no credentials are set"):
        fashionbatch.report(FILE)
