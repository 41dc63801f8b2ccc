"""The kinds of hosts, each through its file system of fsspec, with one set of questions.

Answers to a range say of which version of an object they are, and that is compared; what fsspec's
own ``cat_file`` leaves unseen: a server that ignores ranges, or an object that was replaced.
"""

from __future__ import annotations

import json
import re
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from fashionbatch.address import Address
from fashionbatch.errors import RemoteError, UsageError
from fashionbatch.remote.trouble import Kind, Trouble, of_status, status_of

_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "http": ("aiohttp", "http")}
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


@dataclass(frozen=True)
class Object:
    """An object as it was found.

    Attributes:
        address: of it.
        size: in bytes.
        tag: differs between versions of it; empty where the host says nothing of them.
        ranged: whether parts of it can be asked for.
    """

    address: Address
    size: int
    tag: str
    ranged: bool = True


class Listed(NamedTuple):
    """An object as a host lists it.

    Attributes:
        key: its name in the bucket.
        size: in bytes.
        tag: see :class:`Object`.
    """

    key: str
    size: int
    tag: str


class Aged(NamedTuple):
    """A small object, whole.

    Attributes:
        data: of it.
        tag: see :class:`Object`.
        age: seconds since it was written, by the host's clock at both ends: the clocks of two
            machines may differ by more than matters here.
    """

    data: bytes
    tag: str
    age: float


class Store(Protocol):
    """A kind of host. All but ``loop`` raise whatever their library raises, or Trouble."""

    @property
    def loop(self) -> AbstractEventLoop:
        """That requests run in."""
        ...

    async def look(self, address: Address) -> Object:
        """What there is."""
        ...

    async def get(self, found: Object, start: int, stop: int) -> bytes:
        """The bytes from ``start`` to ``stop``, fewer if the answer was cut short."""
        ...

    async def find(self, address: Address) -> list[Address]:
        """What fits a pattern, in any order."""
        ...

    async def page(self, address: Address, token: str) -> tuple[list[Listed], str]:
        """Some of what lies below an address, in any order, and a token for the next ones.

        The first ones for an empty token; there are no more where an empty one comes back.
        """
        ...

    async def put(self, address: Address, data: bytes) -> None:
        """Writes an object whole, in one request."""
        ...

    async def replace(self, address: Address, data: bytes, tag: str) -> str:
        """Writes a small object where the version of this tag lies, or nothing for an empty one.

        Returns the new version's tag. Where the host knows no such conditions it writes anyway.
        """
        ...

    async def aged(self, address: Address) -> Aged:
        """A small object with its age."""
        ...

    async def remove(self, address: Address) -> None:
        """Removes an object."""
        ...


def make(scheme: str, seconds: float) -> Store:
    """A store of its own for this process.

    Args:
        scheme: of addresses.
        seconds: of silence, behind which a connection is given up.

    Raises:
        RemoteError: its package is not installed.
    """
    kind = "http" if scheme == "https" else scheme
    try:
        return _KINDS[kind](kind, seconds)
    except ImportError as error:
        package, extra = _EXTRAS[kind]
        raise RemoteError(
            f"{scheme} addresses need {package} ({error}): pip install 'fashionbatch[{extra}]'"
        ) from None


class _Other:
    """A file system of fsspec, by what all of them can do.

    Args:
        scheme: that fsspec knows it by.
        seconds: of silence, behind which a connection is given up.
        options: of the file system.
    """

    def __init__(self, scheme: str, seconds: float, **options: Any) -> None:
        import fsspec

        # an instance of our own: settings of others' do not change it, nor ours theirs
        self._fs = fsspec.filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, **options
        )
        self._scheme = scheme

    @property
    def loop(self) -> AbstractEventLoop:
        """See :class:`Store`."""
        loop: AbstractEventLoop = self._fs.loop
        return loop

    async def look(self, address: Address) -> Object:
        """See :class:`Store`."""
        info = await self._fs._info(_path(address))
        if info.get("type") == "directory":
            raise Trouble(Kind.MISSING, "it is a folder")
        return Object(address, int(info["size"]), _version(info))

    async def get(self, found: Object, start: int, stop: int) -> bytes:
        """See :class:`Store`."""
        data: bytes = await self._fs._cat_file(_path(found.address), start=start, end=stop)
        return data

    async def find(self, address: Address) -> list[Address]:
        """See :class:`Store`."""
        paths = await self._fs._glob(_path(address))
        return [Address(f"{self._scheme}://{path}") for path in paths]

    async def page(self, address: Address, token: str) -> tuple[list[Listed], str]:
        """See :class:`Store`; all at once, because fsspec has no pages."""
        found = await self._fs._find(f"{address.host}/{_folder(address)}", detail=True)
        return [
            Listed(path.partition("/")[2], int(info["size"]), _version(info))
            for path, info in found.items()
            if info.get("type") != "directory"
        ], ""

    async def put(self, address: Address, data: bytes) -> None:
        """See :class:`Store`."""
        await self._fs._pipe_file(_path(address), data)

    async def remove(self, address: Address) -> None:
        """See :class:`Store`."""
        await self._fs._rm_file(_path(address))


class S3(_Other):
    """S3, and what speaks its language."""

    def __init__(self, scheme: str, seconds: float) -> None:
        # botocore and s3fs would both try again, each in its own way
        settings = {
            "connect_timeout": seconds,
            "read_timeout": seconds,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
        super().__init__(scheme, seconds, config_kwargs=settings)
        self._fs.retries = 1

    async def look(self, address: Address) -> Object:
        """See :class:`Store`."""
        answer = await self._call("head_object", address)
        return Object(address, int(answer["ContentLength"]), str(answer.get("ETag", "")))

    async def get(self, found: Object, start: int, stop: int) -> bytes:
        """See :class:`Store`."""
        asked = f"bytes={start}-{stop - 1}"
        answer = await self._call("get_object", found.address, Range=asked)
        async with answer["Body"] as body:
            _compare(found, start, answer.get("ContentRange"), str(answer.get("ETag", "")))
            data: bytes = await body.read()
        return data

    async def page(self, address: Address, token: str) -> tuple[list[Listed], str]:
        """See :class:`Store`."""
        more = {"ContinuationToken": token} if token else {}
        answer = await self._fs._call_s3(
            "list_objects_v2", Bucket=address.host, Prefix=_folder(address), **more
        )
        found = [
            Listed(one["Key"], int(one["Size"]), str(one.get("ETag", "")))
            for one in answer.get("Contents", ())
        ]
        return found, str(answer.get("NextContinuationToken", ""))

    async def put(self, address: Address, data: bytes) -> None:
        """See :class:`Store`."""
        await self._call("put_object", address, Body=data)

    async def replace(self, address: Address, data: bytes, tag: str) -> str:
        """See :class:`Store`."""
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        try:
            answer = await self._call("put_object", address, Body=data, **condition)
        except Exception as error:
            status = status_of(error)
            if status == 409:
                raise Trouble(Kind.PASSING, "somebody else writes it") from None
            if status != 501:
                raise
            answer = await self._call("put_object", address, Body=data)
        return str(answer.get("ETag", ""))

    async def aged(self, address: Address) -> Aged:
        """See :class:`Store`."""
        answer = await self._call("get_object", address)
        async with answer["Body"] as body:
            data: bytes = await body.read()
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return Aged(data, str(answer.get("ETag", "")), _age(answer["LastModified"], said))

    async def remove(self, address: Address) -> None:
        """See :class:`Store`."""
        await self._call("delete_object", address)

    async def _call(self, method: str, address: Address, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._fs._call_s3(
            method, Bucket=address.host, Key=address.key, **options
        )
        return answer


class Gs(_Other):
    """Google's."""

    async def replace(self, address: Address, data: bytes, tag: str) -> str:
        """See :class:`Store`; fsspec can create, and not replace a version."""
        made = await self._fs._call(
            "POST",
            f"{self._fs._location}/upload/storage/v1/b/{quote(address.host, safe='')}/o",
            uploadType="media",
            name=address.key,
            ifGenerationMatch=tag or "0",
            data=data,
            json_out=True,
        )
        return str(made["generation"])

    async def aged(self, address: Address) -> Aged:
        """See :class:`Store`."""
        headers, about = await self._fs._call("GET", "b/{}/o/{}", address.host, address.key)
        found = json.loads(about)
        data = await self._fs._cat_file(_path(address))
        written = datetime.fromisoformat(found["updated"])
        return Aged(data, str(found["generation"]), _age(written, headers.get("Date")))


class Http(_Other):
    """Web servers; they list nothing, and nothing is written there."""

    def __init__(self, scheme: str, seconds: float) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        # proxies as the environment names them, as pip and botocore do
        client = {"timeout": timeout, "trust_env": True}
        super().__init__(scheme, seconds, client_kwargs=client, encoded=True)

    async def look(self, address: Address) -> Object:
        """See :class:`Store`; asks for a byte, because signed addresses are often for GET only."""
        async with await self._get(address, "bytes=0-0") as answer:
            named = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status == 206 and named and named[1]:
                return Object(address, int(named[3]), _tag(answer))
            if answer.status == 416 and named and named[3] == "0":
                return Object(address, 0, _tag(answer))
            if answer.status != 200:
                raise of_status(answer.status)
            if answer.content_length is None:
                raise Trouble(Kind.FINAL, "it does not say how long it is")
            return Object(address, answer.content_length, _tag(answer), ranged=False)

    async def get(self, found: Object, start: int, stop: int) -> bytes:
        """See :class:`Store`."""
        asked = f"bytes={start}-{stop - 1}" if found.ranged else None
        async with await self._get(found.address, asked) as answer:
            if answer.status not in (200, 206):
                raise of_status(answer.status)
            if found.ranged and answer.status == 200:
                raise Trouble(Kind.FINAL, "it gives the whole where a part is asked for")
            _compare(found, start, answer.headers.get("Content-Range"), _tag(answer))
            pieces, left = [], stop - start + 1  # one more, to see that there is no more
            while left and (piece := await answer.content.read(min(left, 1 << 20))):
                pieces.append(piece)
                left -= len(piece)
            return b"".join(pieces)

    async def find(self, address: Address) -> list[Address]:
        """See :class:`Store`."""
        raise Trouble(Kind.FINAL, "web servers do not list what they hold; name files with braces")

    async def page(self, address: Address, token: str) -> tuple[list[Listed], str]:
        """See :class:`Store`."""
        raise Trouble(Kind.FINAL, "web servers do not list what they hold; name images in a table")

    async def put(self, address: Address, data: bytes) -> None:
        """See :class:`Store`."""
        raise UsageError(f"{address}: nothing is written to web servers: name a path or a bucket")

    async def replace(self, address: Address, data: bytes, tag: str) -> str:
        """See :class:`Store`."""
        raise UsageError(f"{address}: nothing is written to web servers: name a path or a bucket")

    async def aged(self, address: Address) -> Aged:
        """See :class:`Store`."""
        raise UsageError(f"{address}: nothing is written to web servers")

    async def remove(self, address: Address) -> None:
        """See :class:`Store`."""
        raise UsageError(f"{address}: nothing is removed from web servers")

    async def _get(self, address: Address, asked: str | None) -> Any:
        headers = {"Accept-Encoding": "identity", **({"Range": asked} if asked else {})}
        session = await self._fs.set_session()
        return await session.get(self._fs.encode_url(address.quoted), headers=headers)


_KINDS: dict[str, Callable[[str, float], Store]] = {"s3": S3, "gs": Gs, "http": Http}


def _path(address: Address) -> str:
    return f"{address.host}/{address.key}"


def _folder(address: Address) -> str:
    """What the names of all begin with that lies below an address."""
    key = address.key.rstrip("/")
    return f"{key}/" if key else ""


def _version(info: dict[str, Any]) -> str:
    return next((str(info[k]) for k in ("generation", "etag", "mtime") if info.get(k)), "")


def _age(written: datetime, said: str | None) -> float:
    """Seconds from when an object was written until a host has answered, both as the host says."""
    if said is None:
        raise Trouble(Kind.FINAL, "it does not say what time it is")
    return (parsedate_to_datetime(said) - written).total_seconds()


def _tag(answer: Any) -> str:
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")


def _compare(found: Object, start: int, said: str | None, tag: str) -> None:
    """Whether an answer is of the object that was found, and begins where it was asked to."""
    if tag != found.tag:
        raise Trouble(Kind.CHANGED, "another version answers")
    named = _RANGE.fullmatch(said or "")
    if named is None:
        if said is None and start == 0:
            return  # of one that is given whole
        raise Trouble(Kind.FINAL, "it does not say which part it gives")
    if int(named[3]) != found.size:
        raise Trouble(Kind.CHANGED, f"it had {found.size} bytes and has {named[3]}")
    if named[1] is None or int(named[1]) != start:
        raise Trouble(Kind.PASSING, "it gives another part than was asked for")
