"""Data sets and tar files elsewhere: the same images, and no more bytes moved than they have."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fashionbatch
from fashionbatch.errors import ImageError, RemoteError, ShardError
from fashionbatch.pipeline.pool import Limits, Pool
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.specs import Preprocessing
from tests.remote.conftest import BUCKET
from tests.remote.hosts import Host

Upload = Callable[[Path, str], None]


@pytest.fixture
def there(host: Host, data_set: Path) -> str:
    """The address of the data set on a web server."""
    shutil.copytree(data_set, host.root / "set")
    return f"{host.url}/set"


def every(shards: ShardSet) -> list[bytes]:
    """All images."""
    return [shards.read(row) for row in range(len(shards))]


def sent(host: Host) -> tuple[int, int]:
    """Requests for shards, and the bytes of their answers."""
    return len(host.of(".tar")), sum(one.sent for one in host.of(".tar"))


def test_the_same_images(there: str, data_set: Path) -> None:
    """And all that is known of them."""
    here = open_shards(data_set)
    with open_shards(there) as shards:
        assert every(shards) == every(here)
        assert shards.classes == here.classes and str(shards.path) == there
        assert [shards.name(row) for row in range(24)] == [here.name(row) for row in range(24)]
        assert [shards.about(row) for row in range(24)] == [here.about(row) for row in range(24)]
        assert shards.manifest.fingerprint == here.manifest.fingerprint


def test_selecting_moves_those_bytes_only(there: str, host: Host) -> None:
    """Of each chosen image its own, and the second time none: they are in the cache."""
    with open_shards(there) as shards:
        rows = shards.select("train", Selection(per_class=3))
        assert len(rows) == 6
        host.asked.clear()
        for row in rows.tolist():
            shards.read(row)
        assert sent(host) == (6, int(shards.index.size[rows].sum()))
    with open_shards(there) as shards:
        host.asked.clear()
        for row in rows.tolist():
            shards.read(row)
        assert sent(host) == (0, 0)


def test_expected_neighbours_come_together(
    there: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request for each shard; with what lies between images, and nothing else."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_CACHE", "0")
    with open_shards(there) as shards:
        host.asked.clear()
        shards.expect(range(len(shards)))
        images = every(shards)
        assert images == [images[row] for row in range(24)]
        requests, size = sent(host)
        assert requests == len(shards.manifest.shards)
        assert size < sum(shard.bytes for shard in shards.manifest.shards)
        host.asked.clear()
        rows = [0, 5, 3, 23, 3]
        shards.expect(rows)
        assert [shards.read(row) for row in rows] == [images[row] for row in rows]
        assert shards.read(7) == images[7]  # not expected
        assert len({one.part for one in host.of(".tar")}) == len(host.of(".tar"))


def test_object_store(bucket: Any, upload: Upload, data_set: Path) -> None:
    """A data set below a prefix; one shard of it is missing."""
    upload(data_set, "sets/one")
    here = open_shards(data_set)
    with open_shards(f"s3://{BUCKET}/sets/one/") as shards:
        assert every(shards) == every(here)
    file = here.manifest.shards[1].file
    bucket.delete_object(Bucket=BUCKET, Key=f"sets/one/{file}")
    with pytest.raises(ShardError, match=f"s3://bucket/sets/one/{file} is missing"):
        open_shards(f"s3://{BUCKET}/sets/one")
    assert list(open_shards(f"s3://{BUCKET}/sets/one", strict=False).damaged) == [1]


def test_forked_and_pickled(there: str, data_set: Path) -> None:
    """Children read what their parent has opened, in whichever way they were started."""
    expected = every(open_shards(data_set))
    with open_shards(there) as shards:
        assert shards.read(0) == expected[0]  # connections and threads are there
        for method in ("fork", "spawn"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert pool.map(shards.read, range(24)) == expected
        again = pickle.loads(pickle.dumps(shards))
        assert every(again) == expected


def test_decoding_processes(there: str, data_set: Path, host: Host) -> None:
    """They get the images of their batches in few requests."""

    def decoded(path: str | Path) -> list[np.ndarray]:
        with (
            open_shards(path) as shards,
            Pool(shards, Preprocessing(size=32), batch_size=12, workers=2, limits=Limits()) as pool,
        ):
            found = []
            host.asked.clear()
            for loaded in pool.batches([np.arange(12), np.arange(12, 24)]):
                assert not loaded.failures
                found.append(loaded.images.numpy().copy())
                loaded.release()
        return found

    there_too = decoded(there)
    assert sent(host)[0] <= 2 * 6
    for one, other in zip(there_too, decoded(data_set), strict=True):
        assert np.array_equal(one, other)


def test_damage_and_change_cost_their_shard(there: str, host: Host, data_set: Path) -> None:
    """Of flipped bytes the image; of a shard that is replaced or gone its images; no others."""
    with open_shards(there) as shards:
        files = [host.root / "set" / shard.file for shard in shards.manifest.shards]
        host.tags = False
        again = open_shards(there)
        place = again.index.offset.item(0) + 5
        whole = files[0].read_bytes()
        files[0].write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ImageError, match="SHA-256"):
            again.read(0)
        files[0].write_bytes(whole)
        assert again.read(0)  # the flipped bytes are not in the cache
        host.tags = True
        files[1].write_bytes(files[1].read_bytes()[:-1] + b"x")
        files[2].unlink()
        shards.expect(range(24))
        failed = set()
        for row in range(24):
            try:
                shards.read(row)
            except ShardError as error:
                assert "has changed while it was in use" in str(error) or "not exist" in str(error)
                failed.add(int(shards.index.shard[row]))
        assert failed == {1, 2}


def test_a_host_that_fails_ends_the_work(
    there: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are not damaged because a host is away: no other answer could be had of them."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "2")
    with open_shards(there) as shards:
        host.trouble = lambda path, before: 503
        with pytest.raises(RemoteError, match="it answers 503"):
            shards.read(0)


def test_what_is_no_data_set(host: Host, bucket: Any, data_set: Path) -> None:
    """One line that names the address, and not the copy in the cache."""
    with pytest.raises(RemoteError, match=r"/none/dataset\.json does not exist"):
        open_shards(f"{host.url}/none")
    with pytest.raises(ShardError, match=r"s3://bucket/none holds no shards"):
        open_shards(f"s3://{BUCKET}/none")
    shutil.copytree(data_set, host.root / "set")
    there = f"{host.url}/set"
    lengths = {}
    for name, damage in (
        ("index.h5", b"x"),
        ("dataset.json", b"{}"),
    ):
        file = next((host.root / "set").glob(name))
        whole = file.read_bytes()
        file.write_bytes(damage)
        with pytest.raises(ShardError) as caught:
            open_shards(there)
        said = lengths[name] = str(caught.value)
        assert f"{there}/{name}" in said and "cache" not in said
        file.write_bytes(whole)
    host.trouble = lambda path, before: "whole" if path.endswith(".tar") else None
    with pytest.raises(RemoteError, match="no range requests"):
        open_shards(there)


def test_tar_files(bucket: Any, upload: Upload, data_set: Path, host: Host) -> None:
    """With braces, by pattern, a folder of them; the same name in two folders."""
    (data_set / "dataset.json").unlink()
    upload(data_set, "a")
    upload(data_set, "b")
    here = open_shards(data_set)
    expected = {here.read(row) for row in range(len(here))}
    with open_shards(f"s3://{BUCKET}/a") as shards:
        assert set(every(shards)) == expected and shards.classes == ("dress", "hat")
        names = [shard.file for shard in shards.manifest.shards]
        assert names == [shard.file for shard in here.manifest.shards]
    with open_shards(f"s3://{BUCKET}/a/train-{{000000..000001}}.tar") as shards:
        assert len(shards) == 12 and shards.manifest.name == "train"
    with open_shards(f"s3://{BUCKET}/{{a,b}}/train-000000.tar") as shards:
        assert [s.file for s in shards.manifest.shards] == [
            "a/train-000000.tar",
            "b/train-000000.tar",
        ]
        assert len({shards.name(row) for row in range(12)}) == 12
        assert shards.read(0) == shards.read(6)


def test_tar_files_are_read_once(host: Host, data_set: Path, tmp_path: Path) -> None:
    """The first time all of each, then the images asked for; again when it is another version."""
    for file in data_set.glob("train-*.tar"):
        shutil.copy(file, host.root)
    pattern = f"{host.url}/train-{{000000..000001}}.tar"
    total = sum((host.root / f"train-00000{i}.tar").stat().st_size for i in (0, 1))
    with open_shards(pattern) as shards:
        assert sent(host)[1] == total + 2  # and a byte each, to see how long they are
        first = shards.read(0)
    host.asked.clear()
    with open_shards(pattern) as shards:
        assert sent(host)[1] == 2
        assert shards.read(0) == first
    shutil.copy(data_set / "train-000002.tar", host.root / "train-000001.tar")
    host.asked.clear()
    with open_shards(pattern) as shards:
        assert sent(host)[1] > total / 2
        assert len(shards) == 12
    (host.root / "train-000000.tar").write_bytes(b"<html>not a tar file</html>" * 50)
    assert list(open_shards(pattern, strict=False).damaged) == [0]


def test_inspect_and_verify(there: str, host: Host, data_set: Path, tmp_path: Path) -> None:
    """The same numbers as of the folder, and the same damage."""
    for options in ({"pictures": False}, {"pictures": True, "samples": 1}):
        found = fashionbatch.inspect(there, output=str(tmp_path / "out"), **options)
        known = fashionbatch.inspect(str(data_set), output=str(tmp_path / "out"), **options)
        assert {**found, "data": "", "name": "", "pictures": ""} == {
            **known,
            "data": "",
            "name": "",
            "pictures": "",
        }
        assert found["data"] == there and found["name"] == "set"
    whole = fashionbatch.verify(there)
    assert whole["ok"] and whole == {**fashionbatch.verify(str(data_set)), "path": there}
    file = host.root / "set" / "train-000001.tar"
    data = bytearray(file.read_bytes())
    data[600] ^= 1
    file.write_bytes(data)
    (host.root / "set" / "train-000000.tar").unlink()
    reasons = {f["shard"]: f["reason"] for f in fashionbatch.verify(there)["findings"]}
    assert set(reasons) == {"train-000000.tar", "train-000001.tar"}
    assert "does not exist" in reasons["train-000000.tar"]
