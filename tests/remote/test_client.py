"""Requests to a host that misbehaves, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fashionbatch.address import Address
from fashionbatch.errors import RemoteError, UsageError
from fashionbatch.remote import client, stores
from fashionbatch.remote.client import Range
from fashionbatch.remote.pattern import expand
from fashionbatch.remote.trouble import ChangedError, MissingError
from tests.remote.conftest import BUCKET
from tests.remote.hosts import Host

BYTES = bytes(range(256)) * 40


@pytest.fixture
def address(host: Host) -> Address:
    """Of an object of 10,240 bytes."""
    (host.root / "x.bin").write_bytes(BYTES)
    return Address(f"{host.url}/x.bin")


def once(wrong: int | str) -> Callable[[str, int], int | str | None]:
    """The second and third request go wrong; the first one only looks."""
    return lambda path, before: wrong if before in (1, 2) else None


def test_ranges_and_whole_objects(address: Address, host: Host) -> None:
    """Just the bytes asked for are moved."""
    found = client.look(address)
    assert (found.size, found.ranged) == (len(BYTES), True)
    host.asked.clear()
    parts = [Range(found, 0, 10), Range(found, 300, 700), Range(found, 10_000, 10_240)]
    assert client.read(parts) == [BYTES[p.start : p.stop] for p in parts]
    assert sum(one.sent for one in host.asked) == 10 + 400 + 240
    assert client.whole(address, 1 << 20) == BYTES
    assert client.read([Range(found, 5, 5)]) == [b""]


@pytest.mark.parametrize("wrong", [500, 429, "cut", "stall", "long", "short", "elsewhere"])
def test_what_passes_is_tried_again(
    wrong: int | str, address: Address, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are those of the object, whatever was answered in between."""
    if wrong == "stall":
        monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "3")  # of silence, a third
    found = client.look(address)
    host.trouble = once(wrong)
    assert client.read([Range(found, 100, 5000)]) == [BYTES[100:5000]]
    assert len(host.asked) == 4


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (500, "it answers 500"),
        ("cut", "cut short"),
        ("stall", "no answer"),
        ("elsewhere", "another part than was asked for"),
    ],
)
def test_what_does_not_pass_ends_in_time(
    wrong: int | str,
    reason: str,
    address: Address,
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line that names the host, the address and the reason."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "1")
    found = client.look(address)
    host.trouble = lambda path, before: wrong
    began = time.monotonic()
    with pytest.raises(RemoteError) as caught:
        client.read([Range(found, 100, 5000)])
    said = str(caught.value)
    assert reason in said and str(address) in said and "within" in said and "\n" not in said
    assert time.monotonic() - began < 15  # and not the 20 s that the host is silent
    assert len(host.asked) > 2


@pytest.mark.parametrize(
    ("wrong", "kind", "reason"),
    [
        (404, MissingError, "does not exist"),
        (403, RemoteError, "refuses"),
        (401, RemoteError, "refuses"),
        ("whole", RemoteError, "gives the whole"),
        (400, RemoteError, "answers 400"),
    ],
)
def test_what_cannot_pass_is_not_tried_again(
    wrong: int | str, kind: type[RemoteError], reason: str, address: Address, host: Host
) -> None:
    """It is said at once."""
    found = client.look(address)
    host.trouble = lambda path, before: wrong
    with pytest.raises(kind, match=reason):
        client.read([Range(found, 100, 5000)])
    assert len(host.asked) == 2


@pytest.mark.parametrize("change", [BYTES[::-1], BYTES + b"more", BYTES[:50], b""])
def test_changed_objects_are_noticed(change: bytes, address: Address, host: Host) -> None:
    """By their version, before a byte is used; of the same length, too."""
    found = client.look(address)
    (host.root / "x.bin").write_bytes(change)
    with pytest.raises(ChangedError, match=r"x\.bin has changed while it was in use"):
        client.read([Range(found, 100, 200)])


def test_hosts_that_ignore_ranges(address: Address, host: Host) -> None:
    """They give whole objects; what is read in parts is refused."""
    host.trouble = lambda path, before: "whole"
    assert client.whole(address, 1 << 20) == BYTES
    found = client.look(address)
    with pytest.raises(RemoteError, match="range requests"):
        client.need_ranges(found)


def test_nobody_there(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port without a server, a name without a host, an object that is too large."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "0.5")
    with pytest.raises(RemoteError, match=r"host 127.0.0.1:1 gave nothing .* \(no connection\)"):
        client.look(Address("http://127.0.0.1:1/x"))
    (host.root / "large").write_bytes(bytes(100))
    with pytest.raises(RemoteError, match="it has 100 bytes"):
        client.whole(Address(f"{host.url}/large"), 99)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused by name."""
    monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", text)
    with pytest.raises(UsageError, match=f"FASHIONBATCH_REMOTE_SECONDS={text}"):
        client.seconds()


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("https", "aiohttp", "http")],
)
def test_missing_packages(
    scheme: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to install is said."""
    import fsspec

    def refuse(name: str, **options: Any) -> None:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    with pytest.raises(RemoteError) as caught:
        stores.make(scheme, 1)
    assert f"pip install 'fashionbatch[{extra}]'" in str(caught.value)
    assert f"{scheme} addresses need {package}" in str(caught.value)


def test_object_store(bucket: Any) -> None:
    """Whole objects are put in one request and read by range; patterns are listed and sorted."""
    names = ["b.tar", "a.tar", "c/d.tar", "c/e.json"]
    for name in names:
        client.put(Address(f"s3://{BUCKET}/x/{name}"), BYTES + name.encode())
    found = client.look(Address(f"s3://{BUCKET}/x/a.tar"))
    assert found.size == len(BYTES) + 5
    assert client.read([Range(found, 10_240, 10_245)]) == [b"a.tar"]
    assert [str(one) for one in expand(Address(f"s3://{BUCKET}/x/*.tar"))] == [
        f"s3://{BUCKET}/x/a.tar",
        f"s3://{BUCKET}/x/b.tar",
    ]
    assert [one.key for one in expand(Address(f"s3://{BUCKET}/x/{{c/d,b}}.t*"))] == [
        "x/c/d.tar",
        "x/b.tar",
    ]
    with pytest.raises(MissingError, match="fits nothing"):
        expand(Address(f"s3://{BUCKET}/y/*.tar"))
    client.put(Address(f"s3://{BUCKET}/x/a.tar"), BYTES[::-1] + b"a.tar")
    with pytest.raises(ChangedError):
        client.read([Range(found, 0, 10)])


def test_object_store_that_refuses(bucket: Any, nobody: Callable[[], None]) -> None:
    """What is not there, a bucket that is not, one without permission, and without credentials."""
    with pytest.raises(MissingError, match=f"s3://{BUCKET}/none does not exist"):
        client.look(Address(f"s3://{BUCKET}/none"))
    with pytest.raises(MissingError, match="s3://no-such-bucket/x does not exist"):
        client.look(Address("s3://no-such-bucket/x"))
    nobody()
    with pytest.raises(RemoteError, match=r"bucket bucket refuses .* \(no credentials are set\)"):
        client.look(Address(f"s3://{BUCKET}/none"))


def test_a_bucket_without_permission(
    host: Host, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket is named, and how to say who may."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", host.url)
    host.trouble = lambda path, before: 403
    with pytest.raises(RemoteError) as caught:
        client.look(Address("s3://private/x"))
    said = str(caught.value)
    assert said.startswith("bucket private refuses s3://private/x (it answers 403): ")
    assert "AWS_PROFILE" in said and len(host.asked) == 1


def test_nothing_is_written_to_web_servers(host: Host) -> None:
    """They are for reading."""
    with pytest.raises(UsageError, match="nothing is written to web servers"):
        client.put(Address(f"{host.url}/x"), b"")
