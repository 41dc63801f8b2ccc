"""Loose photographs elsewhere: packed, predicted and explained as if they lay on this disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.errors import FashionbatchError, RemoteError, SourceError, UsageError
from fashionbatch.remote import client, stores
from fashionbatch.remote.stores import Listed
from tests.conftest import Photo
from tests.remote.conftest import BUCKET
from tests.remote.hosts import Host

Upload = Callable[[Path, str], None]
PHOTOS = f"s3://{BUCKET}/cat/photos"


@pytest.fixture
def photos(tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, names that are hard to write, and files that are no images."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "photos"
    for number in range(12):
        file = root / ("dress", "hat & cap")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo(number, (40, 50)))
    (root / "dress" / "deep er").mkdir()
    (root / "dress" / "deep er" / "é%41+#.jpg").write_bytes(photo(50, (30, 30)))
    (root / "dress" / "a{1,2}[x]*.jpg").write_bytes(photo(51, (30, 30)))
    (root / "dress" / "half.jpg").write_bytes(photo(52, (60, 60))[:500])
    (root / "dress" / ".hidden" / "x").mkdir(parents=True)
    (root / "dress" / ".hidden" / "x" / "1.jpg").write_bytes(b"x")
    (root / "dress" / ".hidden" / "2.jpg").write_bytes(b"x")
    (root / "hat & cap" / "Thumbs.db").write_bytes(b"x")
    (root / "README.md").write_text("about them")
    return root


@pytest.fixture
def there(bucket: Any, upload: Upload, photos: Path) -> str:
    """The same on an object store, with what tools leave there."""
    upload(photos, "cat/photos")
    bucket.put_object(Bucket=BUCKET, Key="cat/photos/", Body=b"")
    bucket.put_object(Bucket=BUCKET, Key="cat/photos/dress/", Body=b"")
    bucket.put_object(Bucket=BUCKET, Key="cat/photos-2/other.jpg", Body=b"of another prefix")
    return PHOTOS


def content(folder: Path) -> dict[str, bytes]:
    """Every file."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def failures(folder: Path) -> dict[str, tuple[str, str]]:
    """Stage and reason of what could not be packed."""
    lines = (folder / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    return {f["name"]: (f["stage"], f["reason"]) for f in map(json.loads, lines)}


@pytest.mark.parametrize("layout", ["auto", "flat"])
def test_the_bytes_that_a_folder_makes(there: str, photos: Path, layout: str) -> None:
    """Of everything: shards, index, failures, manifest."""
    here = fashionbatch.shard(photos, output="here/photos", layout=layout, workers=1)
    made = fashionbatch.shard(f"{there}/", output="there/photos", layout=layout, workers=2)
    assert made["failed"] == here["failed"] >= 3 and made["items"] == here["items"] == 14
    one, other = content(Path("here/photos")), content(Path("there/photos"))
    assert one == other


def test_order_and_pages(there: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that comes in pieces and in no order makes the same; and so do split folders."""
    page = stores.S3.page

    async def scrambled(self: Any, address: Any, token: str) -> tuple[list[Listed], str]:
        found, _ = await page(self, address, "")
        place = int(token or 0)
        some = found[::-1][place : place + 3]
        return some, str(place + 3) if some else ""

    monkeypatch.setattr(stores.S3, "page", scrambled)
    here = fashionbatch.shard(photos, output="here/photos", workers=1)
    fashionbatch.shard(there, output="there/photos", workers=1)
    assert here["items"] and content(Path("here/photos")) == content(Path("there/photos"))


def test_split_folders(bucket: Any, upload: Upload, photos: Path) -> None:
    """They are recognized, and an ambiguous layout is refused in the same words."""
    (photos / "README.md").unlink()
    tree = photos.parent / "tree"
    shutil.copytree(photos, tree / "train")
    shutil.copytree(photos, tree / "val")
    upload(tree, "tree")
    fashionbatch.shard(tree, output="here/tree", workers=1)
    fashionbatch.shard(f"s3://{BUCKET}/tree", output="there/tree", workers=1)
    assert content(Path("here/tree")) == content(Path("there/tree"))
    shutil.copytree(photos, tree / "others")
    upload(tree, "tree")
    said = []
    for source in (tree, f"s3://{BUCKET}/tree"):
        with pytest.raises(SourceError) as caught:
            fashionbatch.shard(source, output="none", workers=1)
        said.append(str(caught.value).replace(str(source), "X"))
    assert said[0] == said[1] and "beside another folder" in said[0]


def test_what_cannot_be_read_costs_itself(
    bucket: Any, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gone or replaced since it was listed, or has a name that no address can have."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_CACHE", "0")
    odd = ("dress/wh?at.jpg", "dress/a::b.jpg", "dress//x.jpg", "dress/line\nbreak.jpg")
    listed = stores.S3.page

    async def then_changed(self: Any, address: Any, token: str) -> tuple[list[Listed], str]:
        found, token = await listed(self, address, token)
        bucket.delete_object(Bucket=BUCKET, Key="cat/photos/dress/0.jpg")
        bucket.put_object(Bucket=BUCKET, Key="cat/photos/dress/2.jpg", Body=b"another one")
        return [*found, *(Listed(f"cat/photos/{name}", 1, "x") for name in odd)], token

    monkeypatch.setattr(stores.S3, "page", then_changed)
    made = fashionbatch.shard(there, output="out", workers=1)
    assert made["items"] == 12
    known = failures(Path("out"))
    assert known["dress/0.jpg"][0] == "read" and "not exist" in known["dress/0.jpg"][1]
    assert known["dress/2.jpg"][0] == "read" and "has changed" in known["dress/2.jpg"][1]
    for name in odd:
        assert known[name][0] == "source", name
    assert all("\n" not in reason for _, reason in known.values())


def test_few_requests(there: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each image one, several at the same time; the second time none, they are in the cache."""
    sizes: list[int] = []
    wholes = client.wholes

    def counted(found: Any) -> Any:
        sizes.append(len(found))
        return wholes(found)

    monkeypatch.setattr(client, "wholes", counted)
    fashionbatch.shard(there, output="one", workers=1, samples_per_shard=100, split="train=1")
    assert sum(sizes) == 15 and max(sizes) > 10
    sizes.clear()
    fashionbatch.shard(there, output="two", workers=1, samples_per_shard=100, split="train=1")
    assert sum(sizes) == 0


def test_a_host_that_is_away_ends_the_work(
    host: Host, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is recorded as a damaged image; the same command goes on."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "1")
    shutil.copytree(photos, host.root / "photos")
    table = Path("catalog.csv")
    rows = [f"{host.url}/photos/dress/{n}.jpg?sign=secret,dress" for n in (0, 2, 4)]
    table.write_text("image,label\n" + "\n".join(rows) + "\n")
    # the third image, whichever that is
    host.trouble = lambda path, before: 503 if len({a.path for a in host.asked}) > 2 else None
    with pytest.raises(RemoteError, match="it answers 503"):
        fashionbatch.shard(table, output="out", workers=1, split="train=1", samples_per_shard=1)
    assert not Path("out").exists()
    host.trouble = lambda path, before: None
    told: dict[str, Any] = {}
    made = fashionbatch.shard(
        table, output="out", workers=1, split="train=1", samples_per_shard=1,
        tell=lambda event, values: told.update({event: values}),
    )  # fmt: skip
    assert made["items"] == 3 and made["failed"] == 0 and told["done"]["resumed"] >= 1


def test_tables(bucket: Any, upload: Upload, host: Host, photos: Path, photo: Photo) -> None:
    """Their image column has addresses of any kind, files, or paths below an address."""
    upload(photos, "cat/photos")
    shutil.copytree(photos, host.root / "photos")
    (host.root / "secret.jpg").write_bytes(photo(60, (30, 30)))
    Path("own.jpg").write_bytes(photo(61, (30, 30)))
    Path("a:b.jpg").write_bytes(photo(62, (30, 30)))
    host.trouble = lambda path, before: 403 if path == "/secret.jpg" else None
    rows = [
        f"{PHOTOS}/dress/0.jpg",
        f"{host.url}/photos/dress/2.jpg?w=300&token=hidden",
        "own.jpg",
        "a:b.jpg",
        Path("own.jpg").absolute().parent.joinpath("photos/dress/4.jpg").as_uri(),
        f"{PHOTOS}/none.jpg",
        f"{host.url}/secret.jpg",
        "pipe:cat own.jpg",
        "ftp://host/1.jpg",
        "zip://x::https://host/1.zip",
    ]
    table = Path("catalog.csv")
    table.write_text("image,label\n" + "".join(f'"{row}",dress\n' for row in rows))
    made = fashionbatch.shard(table, output="out", workers=1, split="train=1")
    with fashionbatch.open_shards("out") as shards:
        names = {shards.name(row): shards.read(row) for row in range(len(shards))}
    assert names == {
        f"{PHOTOS}/dress/0.jpg": (photos / "dress" / "0.jpg").read_bytes(),
        f"{host.url}/photos/dress/2.jpg": (photos / "dress" / "2.jpg").read_bytes(),
        "own.jpg": Path("own.jpg").read_bytes(),
        "a:b.jpg": Path("a:b.jpg").read_bytes(),
        "photos/dress/4.jpg": (photos / "dress" / "4.jpg").read_bytes(),
    }
    assert made["failed"] == 5
    lines = [json.loads(one) for one in Path("out/failures.jsonl").read_text().splitlines()]
    by_line = {failure["line"]: failure for failure in lines}
    for line, stage, words in (
        (7, "read", "does not exist"),
        (8, "read", "refuses"),
        (9, "source", "runs a program"),
        (10, "source", "ftp: addresses are not read"),
        (11, "source", "zip: addresses are not read"),
    ):
        assert by_line[line]["stage"] == stage and words in by_line[line]["reason"], line
    for file in Path("out").iterdir():
        assert b"hidden" not in file.read_bytes()
    table.write_text("image,label\ndress/0.jpg,dress\nhat & cap/1.jpg,hat\n../x.jpg,hat\n")
    with pytest.raises(SourceError, match=f"leads out of {PHOTOS}"):
        fashionbatch.shard(table, output="below", root=PHOTOS, workers=1)
    table.write_text("image,label\ndress/0.jpg,dress\nhat & cap/1.jpg,hat\n")
    fashionbatch.shard(table, output="below", root=PHOTOS, workers=1, split="train=1")
    with fashionbatch.open_shards("below") as shards:
        assert {shards.name(row) for row in range(2)} == {"dress/0.jpg", "hat & cap/1.jpg"}
    figures = fashionbatch.inspect("below", pictures=False)
    assert figures["data"] == "below"


def test_drop_duplicates_and_append(bucket: Any, there: str, photos: Path, photo: Photo) -> None:
    """As of a folder."""
    twin = (photos / "dress" / "0.jpg").read_bytes()
    bucket.put_object(Bucket=BUCKET, Key="cat/photos/dress/twin.jpg", Body=twin)
    made = fashionbatch.shard(there, output="out", workers=1, drop_duplicates=True)
    assert made["items"] == 14
    assert failures(Path("out"))["dress/twin.jpg"][1] == "the same bytes as 'dress/0.jpg'"
    bucket.put_object(Bucket=BUCKET, Key="cat/photos/dress/new.jpg", Body=photo(70, (30, 30)))
    made = fashionbatch.shard(there, output="out", workers=1, append=True, drop_duplicates=True)
    assert made["items"] == 15


def predicted(path: str | Path) -> tuple[list[tuple[str, str | None, str, float]], list[Any]]:
    """Rows, and what failed."""
    with fashionbatch.open_predictions(path) as found:
        rows = [(r.name, r.label, r.classes[0], float(r.probabilities[0])) for r in found]
        return rows, [(f["name"], f["stage"]) for f in found.failures]


@pytest.mark.slow(seconds=15)
def test_predicting(
    there: str, bucket: Any, photos: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and failures of a folder; done is done, and pictures are found where they lie."""
    options = {"model": str(trained), "device": "cpu", "engine": "eager", "workers": 1}
    here = fashionbatch.predict(photos, output="here.h5", **options)
    made = fashionbatch.predict(there, **options)
    assert made["output"] == "predictions/photos-mine.h5"
    assert predicted(made["output"]) == predicted(here["output"])
    assert made["failed"] == here["failed"] == 2
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(client, "wholes", None)  # nothing is read
        fashionbatch.predict(there, **options, tell=lambda event, values: told.append(event))
    assert "complete" in told
    bucket.put_object(
        Bucket=BUCKET, Key="cat/photos/dress/0.jpg", Body=(photos / "dress/2.jpg").read_bytes()
    )
    with pytest.raises(FashionbatchError, match="--restart"):
        fashionbatch.predict(there, **options)
    made = fashionbatch.predict(there, **options, incremental=True)
    rows = {row[0]: row[2:] for row in predicted(made["output"])[0]}
    assert rows["dress/0.jpg"] == rows["dress/2.jpg"]
    fetched: list[int] = []
    wholes = client.wholes
    monkeypatch.setenv("FASHIONBATCH_CACHE", str(photos.parent / "empty"))
    monkeypatch.setattr(client, "wholes", lambda these: fetched.append(len(these)) or wholes(these))
    found = fashionbatch.report(
        made["output"], model=str(trained), catalog=there, heatmaps=0, output="r.html"
    )
    assert found["thumbnails"] == made["predicted"] and not [
        note for note in found["notes"] if "photograph" in note
    ]
    assert sum(fetched) == made["predicted"] == max(fetched)
    single = fashionbatch.predict(f"{there}/dress/2.jpg", output="single.h5", **options)
    assert single["predicted"] == 1
    assert predicted("single.h5")[0][0][0] == "2.jpg"
    explained = fashionbatch.explain(
        "grad-cam", [there], model=str(trained), device="cpu", limit=4, output="why"
    )
    assert explained["items"] == 4 and explained["pictures"] >= 3


def test_bad_sources(
    bucket: Any,
    upload: Upload,
    photos: Path,
    host: Host,
    there: str,
    trained: Path,
    nobody: Callable[[], None],
) -> None:
    """One line for each, and nothing is written."""
    model = {"model": str(trained)}
    for bad, words in (
        ("pipe:ls", "runs a program"),
        ("pipe://ls", "runs a program"),
        ("ftp://host/photos", "ftp: addresses are not read"),
        (f"s3://{BUCKET}/none", "s3://bucket/none holds no files"),
        ("s3://no-such-bucket/photos", "does not exist|refuses"),
        (f"{host.url}/photos", "not a catalogue that an installed source reads"),
        (f"s3://{BUCKET}/cat/*.jpg", "not a catalogue that an installed source reads"),
    ):
        with pytest.raises(FashionbatchError, match=words) as caught:
            fashionbatch.shard(bad, output="out")
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="--source idx reads nothing at addresses"):
        fashionbatch.shard(f"s3://{BUCKET}/x", source_type="idx", output="out")
    for bad, words in (
        ("pipe://ls", "runs a program"),
        (f"s3://{BUCKET}/none", "s3://bucket/none holds no shards"),
        (f"s3://{BUCKET}/cat/photos/dress/*.jpg", "name the folder"),
    ):
        with pytest.raises(FashionbatchError, match=words):
            fashionbatch.predict(bad, output="p.h5", **model)
    with pytest.raises(UsageError, match="has no splits"):
        fashionbatch.predict(there, split="val", output="p.h5", **model)
    (photos / "a.tar").write_bytes(b"x")  # beside photographs it is one of the files
    upload(photos, "cat/photos")
    assert fashionbatch.shard(there, output="beside", layout="flat")["items"] == 14
    bucket.put_object(Bucket=BUCKET, Key="set/train-000000.tar", Body=b"x")
    with pytest.raises(SourceError, match="holds shards"):
        fashionbatch.shard(f"s3://{BUCKET}/set", output="out")
    nobody()
    with pytest.raises(RemoteError, match=r"refuses .*no credentials are set"):
        fashionbatch.shard(there, output="out")
    assert not Path("out").exists() and not Path("p.h5").exists()
