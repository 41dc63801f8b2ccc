"""A web server and an object store on this machine, and a data set to put there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fashionbatch
from fashionbatch.remote import client
from tests.conftest import Photo
from tests.remote.hosts import Gate, Host, store_of

if TYPE_CHECKING:
    from tests.remote.machines import Machines

BUCKET = "bucket"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-environment",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for each test, and no proxy to this machine."""
    monkeypatch.setenv("FASHIONBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(client, "_stores", {})


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A web server over ``tmp_path / "www"``."""
    root = tmp_path / "www"
    root.mkdir()
    with Host(root) as made:
        yield made


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """The endpoint of an object store: moto, a process of its own."""
    with store_of("moto.server", "-H", "127.0.0.1", "-p", "PORT", **KEYS) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of botocore for the object store, with an empty bucket ``bucket``."""
    import botocore.session

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    made = botocore.session.get_session().create_client("s3")
    made.create_bucket(Bucket=BUCKET)
    yield made
    for one in made.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        made.delete_object(Bucket=BUCKET, Key=one["Key"])
    made.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def gate(bucket: Any, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The way to the object store, for all but the client of ``bucket``."""
    with Gate(store) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made


@pytest.fixture
def upload(bucket: Any) -> Callable[[Path, str], None]:
    """``upload(folder, "prefix")`` puts every file of a folder below a prefix."""

    def put(folder: Path, prefix: str) -> None:
        for file in folder.rglob("*"):
            if file.is_file():
                key = f"{prefix}/{file.relative_to(folder)}"
                bucket.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())

    return put


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, photo: Photo) -> Path:
    """A packed data set of 24 photographs of 2 classes, in 6 shards; to be copied."""
    folder = tmp_path_factory.mktemp("remote")
    for number in range(24):
        file = folder / "photos" / ("dress", "hat")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo(number, (40 + number % 5, 50 + number % 7)))
    output = folder / "packed"
    fashionbatch.shard(folder / "photos", output=str(output), samples_per_shard=6, workers=1)
    return output


@pytest.fixture
def data_set(packed: Path, tmp_path: Path) -> Path:
    """The same, one's own."""
    return shutil.copytree(packed, tmp_path / "packed")


@pytest.fixture(scope="session")
def trained(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the data set."""
    made = fashionbatch.train(
        data=str(packed),
        backbone="small-resnet",
        weights="none",
        epochs=1,
        img_size=32,
        batch_size=8,
        workers=0,
        output=str(tmp_path_factory.mktemp("runs")),
        name="mine",
    )
    return Path(made["run"])


@pytest.fixture
def machines(bucket: Any, tmp_path: Path) -> Machines:
    """Other machines, which do not see the cache of this process."""
    from tests.remote import machines

    return machines.Machines(tmp_path / "machines", tmp_path / "cache")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Takes the credentials for the object store away."""

    def take() -> None:
        monkeypatch.setattr(client, "_stores", {})  # which were opened with them
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, "/nowhere")

    return take
