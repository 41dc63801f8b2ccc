"""Which addresses are read, how they are shown, and what they stand for."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from fashionbatch.address import Address, located, name_of
from fashionbatch.config import PredictConfig
from fashionbatch.errors import UsageError
from fashionbatch.fields import make
from fashionbatch.remote import pattern
from fashionbatch.remote.pattern import expand

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a b/x.tar", "s3://bucket/a b/x.tar"),
        ("S3://bucket/x", "s3://bucket/x"),
        ("gs://bucket", "gs://bucket"),
        (f"https://me:{SECRET}@host:8000/x.tar?sig={SECRET}", "https://host:8000/x.tar"),
        (f"http://{SECRET}@[::1]:80/x?{SECRET}", "http://[::1]:80/x"),
    ],
)
def test_addresses_show_no_credentials(text: str, shown: str) -> None:
    """However they are written; pickles keep the whole."""
    address = located(text)
    assert isinstance(address, Address)
    assert str(address) == f"{address}" == shown
    assert repr(address) == f"Address({shown!r})"
    assert SECRET not in str([address]) + repr(make(PredictConfig, {"model": text}).to_json())
    assert pickle.loads(pickle.dumps(address)) == address
    below = address / "y.json"
    assert str(below) == f"{shown}/y.json" and below.url.count(SECRET) == text.count(SECRET)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://host/x", "ftp: addresses are not read"),
        ("sftp://host/x", "sftp"),
        ("memory://x", "memory"),
        ("simplecache::s3://bucket/x", "simplecache: addresses are not read, and not chained"),
        ("zip://a.tar::https://host/a.zip", "zip: addresses are not read"),
        ("s3://bucket/x::pipe:ls", "chained addresses"),
        ("pipe::ls", "runs a program"),
        ("pipe://ls", "runs a program"),
        ("s3:/bucket/x", "two slashes"),
        ("s3:bucket/x", "two slashes"),
        ("https:/host/x", "two slashes"),
        ("s3://", "names no bucket"),
        (f"s3://me:{SECRET}@bucket/x", "AWS_ACCESS_KEY_ID"),
        (f"s3://bucket/x?X-Amz-Signature={SECRET}", "no ?query"),
        ("s3://buc ket/x", "no name of a bucket"),
        ("https://", "names no host"),
        ("https://host:port/x", "names no host"),
        ("https://host/sh#1.tar", "%23"),
        ("https://host/\x1b[2J", "cannot be printed"),
        ("file://host/x", "file:///PATH"),
        ("file:x", "two slashes"),
    ],
)
def test_refused_addresses(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that names the scheme and shows no credentials."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        located(text)
    said = str(caught.value)
    assert words in said and SECRET not in said and "\n" not in said and said.isprintable()


def test_paths_stay_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with colons of what is there, too; a file address is a path."""
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.tar", "pipe:x", "s3:x"):
        Path(name).touch()
        assert located(name) == Path(name)
    assert located("photos/x") == Path("photos/x")
    assert located("file:///data/my%20set") == Path("/data/my set")
    with pytest.raises(UsageError, match="Path loses one"):
        located(Path("s3://bucket/x"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("s3://bucket/photos/", "photos"),
        ("s3://bucket/photos/train-{000..099}.tar", "train"),
        ("s3://bucket/photos/*.tar", "photos"),
        ("s3://my-bucket/{a,b}.tar", "my-bucket"),
        ("https://host:80/a%2F..%2Fb.tar?x=1", "a_.._b"),
        ("https://host:80/", "host_80"),
    ],
)
def test_names_of_addresses_can_be_names_of_files(text: str, name: str) -> None:
    """So that results can be called after them."""
    assert name_of(located(text)) == name


def test_braces(monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, in any part, the query left as it is; each address once."""
    found = expand(Address("https://{a,b}/{08..10}.tar?sign={x,y}"))
    assert [str(one) for one in found] == [
        f"https://{host}/{number}.tar" for host in "ab" for number in ("08", "09", "10")
    ]
    assert {one.url.partition("?")[2] for one in found} == {"sign={x,y}"}
    assert len(expand(Address("s3://bucket/{a,a}.tar"))) == 1
    monkeypatch.setattr(pattern, "_MOST", 99)
    for bad, words in (("s3://bucket/{1,{2}.tar", "braces"), ("s3://b/{0..99}", "over")):
        with pytest.raises(UsageError, match=words):
            expand(Address(bad))


def test_local_work_imports_no_clients(tmp_path: Path) -> None:
    """Not for the help, and not to open a data set on the disk."""
    code = (
        "import sys, fashionbatch.cli.app\n"
        "assert 'fashionbatch.remote' not in sys.modules and 'fsspec' not in sys.modules\n"
        "import fashionbatch.shards.read\n"
        "fashionbatch.shards.read.open_shards('shards/fashion-mnist').read(0)\n"
        "assert not [m for m in sys.modules if m.startswith('fashionbatch.remote.')]\n"
        "assert not {'s3fs', 'aiohttp', 'botocore'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "FASHIONBATCH_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=True)
