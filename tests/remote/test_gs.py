"""Google's object store: what is listed there, read from it and written to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fashionbatch
from fashionbatch.address import Address
from fashionbatch.errors import RemoteError
from fashionbatch.remote import client
from fashionbatch.shards.read import open_shards
from tests.conftest import Photo
from tests.remote.conftest import BUCKET
from tests.remote.hosts import store_of
from tests.remote.test_loose import content

pytest.importorskip("gcsfs", reason="it needs gcsfs")
pytest.importorskip("gcp_storage_emulator", reason="it needs gcp-storage-emulator")


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """An object store on this machine, in memory, with a bucket."""
    command = ["gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", "PORT"]
    with store_of(*command, "--in-memory", "--default-bucket", BUCKET) as endpoint:
        yield endpoint


@pytest.fixture
def store(emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked as nobody."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")


def upload(folder: Path, prefix: str) -> None:
    """Puts every file of a folder below a prefix, by our own means."""
    for file in folder.rglob("*"):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(folder)}"
            client.put(Address(f"gs://{BUCKET}/{key}"), file.read_bytes())


@pytest.mark.slow(seconds=6)
def test_shards(store: None, packed: Path, tmp_path: Path) -> None:
    """A data set; tar files by pattern, by braces, and as a folder."""
    upload(packed, "set")
    here = open_shards(packed)
    with open_shards(f"gs://{BUCKET}/set") as shards:
        assert [shards.read(row) for row in range(24)] == [here.read(row) for row in range(24)]
        assert [shards.name(row) for row in range(24)] == [here.name(row) for row in range(24)]
    tars = shutil.copytree(packed, tmp_path / "tars", ignore=lambda *_: ["dataset.json"])
    upload(tars, "tars/deep")
    expected = sorted(here.read(row) for row in range(24))
    for pattern in ("tars/deep", "tars/deep/*.tar", "tars/*/t[er]*-*.tar"):
        with open_shards(f"gs://{BUCKET}/{pattern}") as shards:
            found = [shards.read(row) for row in range(len(shards))]
            whole = len(shards.manifest.shards) == len(here.manifest.shards)
            assert not whole or sorted(found) == expected
            assert set(found) <= set(expected) and len(found) > 12
    with open_shards(f"gs://{BUCKET}/tars/deep/train-{{000000..000001}}.tar") as shards:
        assert len(shards) == 12
    with pytest.raises(RemoteError, match=rf"gs://{BUCKET}/tars/none-\*\.tar fits nothing"):
        open_shards(f"gs://{BUCKET}/tars/none-*.tar")


def test_loose_photographs(
    store: None, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that the same folder makes on a disk; names that are hard to write."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("dress/1.jpg", "dress/é %41+#.jpg", "hat/deep er/2.jpg")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo(number, (40, 50)))
    upload(tmp_path / "photos", "photos")
    client.put(Address(f"gs://{BUCKET}/photos-2/other.jpg"), b"of another prefix")
    fashionbatch.shard("photos", output="here/photos", workers=1)
    fashionbatch.shard(f"gs://{BUCKET}/photos", output="there/photos", workers=1)
    assert content(Path("here/photos")) == content(Path("there/photos"))


def test_what_is_written_is_there_once(store: None) -> None:
    """Again over what was there, and away."""
    address = Address(f"gs://{BUCKET}/out/a.bin")
    for data in (b"one", b"another" * 1000):
        client.put(address, data)
        found = client.look(address)
        assert found.size == len(data) and b"".join(client.pieces(found)) == data
        assert client.read([client.Range(found, 1, 3)]) == [data[1:3]]
    client.remove([address, address])
    with pytest.raises(RemoteError, match="does not exist"):
        client.look(address)
