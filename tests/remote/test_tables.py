"""Tables elsewhere: read like those of a disk, with the images that lie beside them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.errors import RemoteError, SourceError, UsageError
from tests.conftest import Photo
from tests.predictions import write
from tests.remote.conftest import BUCKET
from tests.remote.hosts import Host
from tests.remote.test_loose import content, failures

SECRET = "x9secret"
Rows = list[tuple[str, str, str]]


@pytest.fixture
def rows(tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Of a table in ``cat/``, whose images are there too."""
    monkeypatch.chdir(tmp_path)
    found = []
    for number in range(10):
        name = f"img/{number}.jpg"
        file = tmp_path / "cat" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo(number, (40, 50)))
        found.append((name, ("dress", "hat")[number % 2], f"brand {number % 3}"))
    return found


def table(path: Path, rows: Rows) -> Path:
    """Of a kind by its suffix."""
    columns = ("image", "label", "brand")
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        values = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(arrow.table(values), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([columns, *rows])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_bytes_that_a_table_of_a_disk_makes(
    suffix: str, rows: Rows, bucket: Any, upload: Callable[[Path, str], None]
) -> None:
    """Of all kinds, with labels and what else is known; the output is called like the table."""
    table(Path(f"cat/list{suffix}"), rows)
    upload(Path("cat"), "deep/cat")
    here = fashionbatch.shard(f"cat/list{suffix}", output="here/list", workers=1)
    made = fashionbatch.shard(f"s3://{BUCKET}/deep/cat/list{suffix}", workers=1)
    assert made == {**here, "output": "shards/list"} and made["items"] == 10
    assert content(Path("shards/list")) == content(Path("here/list"))


def test_grown_and_with_a_root(rows: Rows, bucket: Any, upload: Any) -> None:
    """What is there now counts; ``--root`` is another folder than the table's."""
    upload(Path("cat/img"), "elsewhere")
    names = [(name.removeprefix("img/"), *rest) for name, *rest in rows]
    for count in (8, 10):
        upload(table(Path("cat/list.csv"), names[:count]).parent, "lists")
        made = fashionbatch.shard(
            f"s3://{BUCKET}/lists/list.csv",
            root=f"s3://{BUCKET}/elsewhere",
            append=count == 10,
            workers=1,
        )
    assert made["items"] == 10


def test_what_is_wrong_is_said_of_the_address(
    rows: Rows, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not of the copy; nor is anything shown of a signature."""
    list_ = table(host.root / "list.csv", [*rows, ("img/none.jpg", "hat", "")])
    (host.root / "img").symlink_to(Path("cat/img").absolute())
    address = f"{host.url}/list.csv?signature={SECRET}"
    made = fashionbatch.shard(address, output="made", workers=1)
    assert (made["items"], made["failed"]) == (10, 1)
    assert failures(Path("made"))["img/none.jpg"][0] == "read"
    assert all(SECRET.encode() not in data for data in content(Path("made")).values())
    with pytest.raises(UsageError, match=rf"^{host.url}/list\.csv has no column 'sku'"):
        fashionbatch.shard(address, output="wrong", image_column="sku", workers=1)
    list_.write_text("image,label\n../x.jpg,hat\n")
    with pytest.raises(SourceError, match=rf"^{host.url}/list\.csv, line 2: '\.\./x\.jpg' leads"):
        fashionbatch.shard(address, output="wrong", workers=1)
    list_.write_text('image,label\n1.jpg,"hat\n2.jpg,hat\n')
    with pytest.raises(SourceError, match=rf"^{host.url}/list\.csv, lines 2 to 3"):
        fashionbatch.shard(address, output="wrong", workers=1)
    with pytest.raises(RemoteError, match=rf"^{host.url}/none\.csv does not exist"):
        fashionbatch.shard(f"{host.url}/none.csv?signature={SECRET}", output="wrong")
    assert not Path("wrong").exists() and SECRET not in "".join(capsys.readouterr())


def test_labels(rows: Rows, bucket: Any, upload: Any, tmp_path: Path) -> None:
    """Of predictions, with slices and attributes: as of the same table on a disk."""
    names = [f"img/{number}.jpg" for number in range(10)]
    given = {"classes": ("dress", "hat"), "attributes": ("red",), "features": None}
    file = write(tmp_path / "p.h5", {"a.tar": (names, [])}, **given)
    labelled = [(name, row[1], row[2]) for name, row in zip(names, rows, strict=True)]
    upload(table(Path("cat/list.csv"), labelled).parent, "cat")
    found = [
        fashionbatch.evaluate(file, labels=labels, by="brand")
        for labels in ("cat/list.csv", f"s3://{BUCKET}/cat/list.csv")
    ]
    assert found[0] == found[1] and found[1]["slices"]
    with pytest.raises(UsageError, match=rf"^s3://{BUCKET}/cat/list\.csv has no column 'sku'"):
        fashionbatch.evaluate(file, labels=f"s3://{BUCKET}/cat/list.csv", image_column="sku")
