"""Where data lies: a path, or an address of an object store or a web server.

Nothing here asks anyone. User names, passwords and queries of addresses can be credentials: they
are never part of ``str(address)``, which is what messages, results and fingerprints are made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from fashionbatch.errors import UsageError

#: what is read; ``file`` addresses become paths
SCHEMES = ("s3", "gs", "http", "https")
_READ = f"{', '.join(SCHEMES)} and file addresses are read"
_BUCKETS = ("s3", "gs")
_BEGINNING = re.compile(r"([a-z][a-z0-9+.-]*)(::|:/{0,2})", re.IGNORECASE)
_PARTS = re.compile(r"([a-z0-9]+)://([^/?]*)([^?]*)(\?.*)?", re.DOTALL)
_BUCKET = re.compile(r"[\w.{},-]+", re.ASCII)
_WILD = re.compile(r"[{*\[]")
_BEGINNINGS = tuple(f"{scheme}://" for scheme in SCHEMES)
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
}


@dataclass(frozen=True)
class Address:
    """An address on an object store (``s3://``, ``gs://``) or a web server (``http(s)://``).

    Attributes:
        url: the whole of it, with what can be credentials; for requests and hashes only.

    Raises:
        UsageError: it is none that can be read.

    Example:
        >>> str(Address("https://me:secret@host/shards/a.tar?signature=secret"))
        'https://host/shards/a.tar'
        >>> Address("s3://bucket/shards/") / "dataset.json"
        Address('s3://bucket/shards/dataset.json')
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"{self.scheme}: addresses are not read: {_READ}")
        if not self.url.isprintable():
            raise UsageError(f"{str(self)!r} holds characters that cannot be printed")
        if "::" in self.path:
            raise UsageError(f"{self}: chained addresses (::) are not read: {_READ}")
        if self.has_bucket:
            self._check_bucket()
        else:
            self._check_host()

    def _check_bucket(self) -> None:
        scheme, authority, _, query = self._parts
        if "@" in authority:
            raise UsageError(
                f"{self}: credentials do not belong in an address: {_CREDENTIALS[scheme]}"
            )
        if not authority:
            raise UsageError(f"{self} names no bucket: write {scheme}://BUCKET/PATH")
        if not _BUCKET.fullmatch(authority):
            raise UsageError(f"{self}: {authority!r} is no name of a bucket")
        if query:
            raise UsageError(f"{self}: {scheme} addresses have no ?query: write * or [] to match")

    def _check_host(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host:
            raise UsageError(f"{self} names no host: write {self.scheme}://HOST/PATH")
        if "#" in self.url:
            raise UsageError(f"{self}: write %23 for # in a name")

    def __str__(self) -> str:
        scheme, authority, path, _ = self._parts
        return f"{scheme}://{authority.rpartition('@')[2]}{path}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __truediv__(self, name: str) -> Address:
        scheme, authority, path, query = self._parts
        return Address(f"{scheme}://{authority}{path.rstrip('/')}/{name}{query}")

    @property
    def _parts(self) -> tuple[str, str, str, str]:
        found = _PARTS.fullmatch(self.url)
        if found is None:
            raise UsageError(f"an address begins with its scheme: {_READ}")
        scheme, authority, path, query = found.groups()
        return scheme, authority, path, query or ""

    @property
    def scheme(self) -> str:
        """Such as ``"s3"``."""
        return self._parts[0]

    @property
    def has_bucket(self) -> bool:
        """Whether it is on an object store, which can list what it holds."""
        return self.scheme in _BUCKETS

    @property
    def host(self) -> str:
        """The bucket, or the server with its port; for messages."""
        return self._parts[1].rpartition("@")[2]

    @property
    def path(self) -> str:
        """What follows the host, from its slash on."""
        return self._parts[2]

    @property
    def key(self) -> str:
        """Of an object store: the name in the bucket."""
        return self.path.removeprefix("/")

    @property
    def parent(self) -> Address:
        """The folder that it lies in."""
        scheme, authority, path, query = self._parts
        return Address(f"{scheme}://{authority}{path.rstrip('/').rpartition('/')[0]}{query}")

    @property
    def quoted(self) -> str:
        """The URL as it is sent: what must not stand in one is escaped."""
        return quote(self.url, safe="%/:?=&;+$,@!~*'()[]-._")

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for several: with braces, or on an object store with ``*`` or ``[``."""
        wild = _WILD.search(self._parts[1] + self.path)
        return wild is not None and (self.has_bucket or "{" in self.url.partition("?")[0])

    @property
    def name(self) -> str:
        """What to call things after it: its last part without ``.tar``, as a file can be called.

        Example:
            >>> Address("s3://bucket/photos/train-{000..099}.tar").name
            'train'
            >>> Address("s3://bucket/*.tar").name
            'bucket'
        """
        for part in reversed([self.host, *self.path.split("/")]):
            plain = _WILD.split(unquote(part) if not self.has_bucket else part)[0]
            plain = re.sub(r"[^\w.+-]", "_", plain.removesuffix(".tar")).strip("._-")
            if plain:
                return plain
        return self.scheme


#: what an input or an output can be
Location = Path | Address


def located(text: str | Location) -> Location:
    """The path or address that a user has written.

    Raises:
        UsageError: an address of a kind that is not read; ``pipe:`` ones run programs.

    Example:
        >>> located("s3://bucket/shards"), located("file:///data/shards"), located("shards")
        (Address('s3://bucket/shards'), PosixPath('/data/shards'), PosixPath('shards'))
    """
    if isinstance(text, Address):
        return text
    found = _BEGINNING.match(str(text))
    if found is None:
        return Path(text)
    scheme, mark = found[1].lower(), found[2]
    if isinstance(text, str) and mark == "://":
        if scheme in SCHEMES:
            return Address(scheme + text[len(scheme) :])
        if scheme == "file":
            return _of_file(text)
    if Path(text).exists():
        return Path(text)  # a name may hold colons
    if mark in ("::", "://"):
        _refuse(scheme, mark)
    if scheme in (*SCHEMES, "file"):
        lost = ": give it as text, because a Path loses one" if isinstance(text, Path) else ""
        raise UsageError(f"an address begins with {scheme}://, with two slashes{lost}")
    return Path(text)


def is_address(path: str | Path) -> bool:
    """Whether an item's path is one: those of files on a disk never begin so.

    Example:
        >>> is_address("s3://bucket/1.jpg"), is_address("photos/s3:/1.jpg")
        (True, False)
    """
    return isinstance(path, str) and path.startswith(_BEGINNINGS)


def written(text: str) -> Location | None:
    """The address that a field of a table holds, or the path of a ``file`` one; else ``None``.

    Raises:
        UsageError: an address of a kind that is not read; ``pipe:`` ones run programs.

    Example:
        >>> written("s3://bucket/1.jpg"), written("dress/a:1.jpg")
        (Address('s3://bucket/1.jpg'), None)
    """
    found = _BEGINNING.match(text)
    if found is None:
        return None
    scheme, mark = found[1].lower(), found[2]
    if mark == "://" and scheme in (*SCHEMES, "file"):
        return located(text)
    if mark in ("::", "://") or scheme == "pipe":
        _refuse(scheme, mark)
    return None


def refuse_scheme(path: Path) -> None:
    """Refuses an input that is called like an address and is not there.

    Raises:
        UsageError: it is one.
    """
    found = _BEGINNING.match(str(path))
    if found and len(found[1]) > 1 and not path.exists():
        _refuse(found[1].lower(), found[2])


def name_of(location: Location) -> str:
    """What to call things after a location: the file's or folder's name without ``.tar``."""
    if isinstance(location, Address):
        return location.name
    return location.resolve().name.removesuffix(".tar")


def _refuse(scheme: str, mark: str) -> None:
    if scheme == "pipe":
        raise UsageError("pipe: an address that runs a program: name a file, folder or address")
    chained = ", and not chained" if mark == "::" else ""
    raise UsageError(f"{scheme}: addresses are not read{chained}: {_READ}")


def _of_file(text: str) -> Path:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UsageError("a file address names a file of this machine: write file:///PATH")
    return Path(unquote(parts.path))
