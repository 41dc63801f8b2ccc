"""Finds the images of a tar file in WebDataset's layout, whoever made it.

Nothing in it is trusted: no member is unpacked, unpickled or used as a path, no size is believed
before the file is seen to be that long, and a file that is damaged anywhere outside the members'
contents is refused as a whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from fashionbatch.errors import ShardError
from fashionbatch.sources.base import Failure, to_text
from fashionbatch.sources.folder import IMAGE_SUFFIXES

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
#: the file beside our own shards, and what it says of itself
MANIFEST = "dataset.json"
FORMAT = "fashionbatch-shards"

_BLOCK = 512
_PIECE = 1 << 20
_MAX_IMAGE = 256 << 20
_MAX_JSON = 1 << 20
_MAX_CLS = 1 << 10
# room for a path and some extended attributes; tarfile asks for as much memory as a header claims
_MAX_HEADER = 64 << 10
# tarfile's patterns take seconds for a header full of digits
_DIGITS = re.compile(rb"[0-9]{1000}")
# far below Python's recursion limit, so that whoever writes the JSON again does not hit it
_MAX_DEPTH = 64
_PICKLED = frozenset(["pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "joblib"])
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}

_UNUSED = "are not used"
_PICKLES = "other programs would unpickle: never opened here"
_BAD_JSON = "are JSON that cannot be used: their images are kept without it"
_LARGE_JSON = f"are JSON over {_MAX_JSON >> 20} MiB: not read, their images are kept without it"
_BAD_CLS = "hold no label: their images are kept without it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image in a tar file, and what stands beside it there.

    Attributes:
        key: unique in the file; the member's path up to the first dot of the file name, as
            WebDataset has it, or up to the last one (see :func:`scan`).
        name: the member's path; in our own shards the catalogue's name.
        extension: ``jpg``, ``jpeg``, ``png`` or ``webp``.
        offset: first byte of the image in the file.
        size: its length in bytes.
        sha256: of its bytes.
        label: the JSON's ``label``, else what the ``.cls`` member says, else ``None``.
        about: the JSON member; empty where there is none or it cannot be used.
    """

    key: str
    name: str
    extension: str
    offset: int
    size: int
    sha256: bytes
    label: str | None
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a tar file holds.

    Attributes:
        samples: in the order of the file.
        failures: what should be a sample and cannot be used.
        notes: what else to know about the file, a line each.
    """

    samples: list[Sample]
    failures: list[Failure]
    notes: list[str]


def scan(path: Path) -> Scan:
    """Finds the images of a tar file.

    A sample is what lies next to each other and shares its path up to the first dot of the file
    name: ``a.jpg``, ``a.json`` and ``a.cls`` are the sample ``a``. Where there is no ``a.jpg`` but
    only names like ``a.5kg.jpg`` and ``a.7kg.jpg``, each of these is a sample of its own, whose
    key goes up to the last dot; ``a.5kg.json`` belongs to the first, ``a.json`` to both. Beside
    an ``a.jpg``, ``a.mask.png`` is recorded as a failure, because it can be a mask as well as
    another photograph.

    Args:
        path: of the tar file, uncompressed.

    Returns:
        the samples, failures and notes; none of them for a tar file without members.

    Raises:
        ShardError: it is not a tar file, is damaged or cut short, or has a key in two places.

    Example:
        >>> [s.key for s in scan(Path("part-000000.tar")).samples]  # doctest: +SKIP
        ['000000', '000001']
    """
    where = to_text(os.fspath(path))
    with _open(path, where) as file:
        _refuse_compressed(file, where)
        scanner = _Scanner(file, where, ours=is_ours(path.parent))
        for member in _members(file, where):
            scanner.add(member)
        return scanner.finish()


def is_ours(folder: Path) -> bool:
    """Whether the tar files of a folder are shards that fashionbatch wrote."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return f'"{FORMAT}"'.encode() in file.read(_BLOCK)  # it begins with its format
    except OSError:
        return False


class _File:
    """A file by its descriptor; also what tarfile reads headers from, and no more than headers."""

    def __init__(self, descriptor: int, length: int) -> None:
        self.length = length
        self._descriptor = descriptor
        self._position = 0

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self.at(self._position, size)
        if _DIGITS.search(data):
            raise tarfile.ReadError("a header of digits only")
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        self._position = position

    def tell(self) -> int:
        return self._position

    def at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on; fewer at the end of the file."""
        return os.pread(self._descriptor, size, offset)

    def pieces(self, offset: int, end: int) -> Iterator[bytes]:
        while offset < end:
            piece = self.at(offset, min(_PIECE, end - offset))
            if not piece:
                raise OSError("it became shorter while it was read")
            yield piece
            offset += len(piece)


@contextmanager
def _open(path: Path, where: str) -> Iterator[_File]:
    descriptor = None
    try:
        # not blocking: opening a named pipe would wait for its writer for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ShardError(f"{where} is not a regular file: name a tar file")
        yield _File(descriptor, status.st_size)
    except OSError as error:
        raise ShardError(
            f"{where} cannot be read ({error.strerror or error}): mend it, or leave it out"
        ) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _refuse_compressed(file: _File, where: str) -> None:
    head = file.at(0, _BLOCK)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise ShardError(
                f"{where} is compressed ({name}), so no image in it can be found by its offset: "
                "unpack it to a plain tar file"
            )


def _members(file: _File, where: str) -> Iterator[tarfile.TarInfo]:
    """Every member's header, up to an end that is one."""
    tar: tarfile.TarFile | None = None
    end = 0
    while True:
        try:
            tar = tar or tarfile.TarFile(
                fileobj=cast(IO[bytes], file), encoding="utf-8", errors="surrogateescape"
            )
            member = tar.next()
        except OSError:
            raise
        except Exception as error:  # tarfile raises nearly anything on headers that lie
            if tar is None:
                raise ShardError(f"{where} is not a tar file ({error}): make it again") from error
            raise _damaged(where, end, str(error)) from error
        if member is None:
            break
        if tar.offset <= end:  # a negative size: tarfile would go round in circles
            raise _damaged(where, end, "a header points backwards")
        end = tar.offset
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        if member.isfile() and not member.issparse() and not _fits(member, file.length):
            raise ShardError(
                f"{where} ends within {_text(member.name)!r}: copy it again, or make it again"
            )
        yield member
    # tarfile takes a damaged header for the end: the true end is two blocks of zeros, and nothing
    if file.length - end < 2 * _BLOCK:
        raise _damaged(where, end, "its end is missing")
    if any(any(piece) for piece in file.pieces(end, file.length)):
        raise _damaged(where, end, "no header, and not the end")


def _fits(member: tarfile.TarInfo, length: int) -> bool:
    return 0 <= member.size <= length - member.offset_data


def _damaged(where: str, position: int, reason: str) -> ShardError:
    return ShardError(
        f"{where} is damaged or cut short at byte {position} ({reason}): copy it again, or make "
        "it again"
    )


@dataclass(frozen=True, slots=True)
class _Member:
    """A member that belongs to a sample.

    Attributes:
        name: as text.
        key: up to the first dot of the file name.
        stem: up to the last one.
        extension: what follows the last one, in lower case.
        fault: why it cannot be used, or ``None``.
    """

    name: str
    key: str
    stem: str
    extension: str
    offset: int
    size: int
    fault: str | None

    @property
    def is_picture(self) -> bool:
        return f".{self.extension}" in IMAGE_SUFFIXES

    @property
    def is_image(self) -> bool:
        return self.extension in IMAGE_EXTENSIONS


class _Scanner:
    """Puts neighbouring members together to samples."""

    def __init__(self, file: _File, where: str, *, ours: bool) -> None:
        self._file = file
        self._where = where
        self._ours = ours
        self._group: list[_Member] = []
        self._seen: dict[str, bool] = {}  # stems, and whether one is a picture's
        self._read: dict[_Member, Any] = {}
        self._samples: list[Sample] = []
        self._failures: list[Failure] = []
        self._notes: dict[str, tuple[int, list[str]]] = {}

    def add(self, info: tarfile.TarInfo) -> None:
        if info.isdir():
            return
        member = _member(info)
        if not member.key or not (member.is_picture or member.extension in ("json", "cls")):
            self._add_other(member)
            return
        if self._group and self._group[0].key != member.key:
            self._close_group()
        self._group.append(member)

    def finish(self) -> Scan:
        self._close_group()
        notes = [
            f"{count} members {reason} ({', '.join(names)}{', ...' if count > len(names) else ''})"
            for reason, (count, names) in self._notes.items()
        ]
        return Scan(samples=self._samples, failures=self._failures, notes=notes)

    def _add_other(self, member: _Member) -> None:
        if member.fault:
            self._fail(member, member.fault)
        elif _PICKLED.intersection(member.name.lower().rpartition("/")[2].split(".")[-2:]):
            self._note(_PICKLES, member)
        else:
            self._note(_UNUSED, member)

    def _close_group(self) -> None:
        group, self._group = self._group, []
        self._refuse_again(group)
        self._read.clear()
        pictures = {m.stem for m in group if m.is_picture}
        beside: dict[tuple[str, str], list[_Member]] = {}
        for member in group:
            if not member.is_picture:
                beside.setdefault((member.stem, member.extension), []).append(member)
        images = Counter(m.stem for m in group if m.is_image)
        for member in group:
            if member.fault:
                self._fail(member, member.fault)
            elif member.is_picture:
                self._add_picture(member, images[member.stem], beside)
        self._fail_lone(pictures, beside)

    def _refuse_again(self, group: list[_Member]) -> None:
        for stem in {m.stem: None for m in group}:
            if stem in self._seen:
                raise ShardError(
                    f"{self._where} holds the key {stem!r} again after other keys: give every "
                    "sample its own key, and put its members next to each other"
                )
        for member in group:
            self._seen[member.stem] = self._seen.get(member.stem, False) or member.is_picture

    def _add_picture(
        self,
        picture: _Member,
        images: int,
        beside: Mapping[tuple[str, str], list[_Member]],
    ) -> None:
        json_, cls = (
            beside.get((picture.stem, kind)) or beside.get((picture.key, kind)) or []
            for kind in ("json", "cls")
        )
        fault = self._fault(picture, images)
        if not fault and (len(json_) > 1 or len(cls) > 1):
            fault = "its JSON or its label is there twice"
        if fault:
            self._fail(picture, fault)
            return
        about = self._once(json_[0], self._json) if json_ else {}
        self._add_sample(picture, about, self._once(cls[0], self._cls) if cls else None)

    def _fault(self, picture: _Member, images: int) -> str | None:
        """Why a picture is no sample, or ``None``."""
        if not picture.is_image:
            return f"is no {', '.join(IMAGE_EXTENSIONS)}"
        if images > 1:
            return f"its key {picture.stem!r} stands for {images} images"
        if picture.stem != picture.key and self._seen.get(picture.key):
            return f"is a mask of the sample {picture.key!r}, or a photograph without its own key"
        if picture.size > _MAX_IMAGE:
            return f"has {picture.size} bytes, over {_MAX_IMAGE >> 20} MiB"
        return None

    def _once(self, member: _Member, read: Callable[[_Member], Any]) -> Any:
        """What a member says; several images can share it."""
        if member not in self._read:
            self._read[member] = None if member.fault else read(member)
        return self._read[member]

    def _add_sample(self, image: _Member, about: dict[str, Any] | None, cls: str | None) -> None:
        digest = hashlib.sha256()
        for piece in self._file.pieces(image.offset, image.offset + image.size):
            digest.update(piece)
        about = about or {}
        own_name = about.get("name") if self._ours else None
        label = _as_label(about.get("label"))
        self._samples.append(
            Sample(
                key=image.stem,
                name=own_name if isinstance(own_name, str) else image.name,
                extension=image.extension,
                offset=image.offset,
                size=image.size,
                sha256=digest.digest(),
                label=cls if label is None else label,
                about=about,
            )
        )

    def _fail_lone(
        self, pictures: Set[str], beside: Mapping[tuple[str, str], list[_Member]]
    ) -> None:
        lone: dict[str, _Member] = {}
        for (stem, _), members in beside.items():
            key = members[0].key
            shared = stem == key and pictures
            if not (shared or stem in pictures or key in pictures or members[0].fault):
                lone.setdefault(stem, members[0])
        for member in lone.values():
            self._fail(member, "has no image beside it")

    def _json(self, member: _Member) -> dict[str, Any]:
        if member.size > _MAX_JSON:
            self._note(_LARGE_JSON, member)
            return {}
        try:
            return _parse(self._file.at(member.offset, member.size))
        except (ValueError, RecursionError):
            self._note(_BAD_JSON, member)
            return {}

    def _cls(self, member: _Member) -> str | None:
        data = self._file.at(member.offset, min(member.size, _MAX_CLS + 1))
        text = to_text(data.decode("utf-8", "surrogateescape")).strip()
        if len(data) > _MAX_CLS or not text.isprintable() or not text:
            self._note(_BAD_CLS, member)
            return None
        return text

    def _fail(self, member: _Member, reason: str) -> None:
        self._failures.append(Failure(name=member.name, stage="shard", reason=reason))

    def _note(self, reason: str, member: _Member) -> None:
        count, names = self._notes.get(reason, (0, []))
        self._notes[reason] = (count + 1, [*names, member.name][:3])


def _member(info: tarfile.TarInfo) -> _Member:
    name = _text(info.name)
    folder, slash, base = name.rpartition("/")
    first = base.partition(".")[0]
    stem, dot, extension = base.rpartition(".")
    fault = None
    if not info.isfile():
        fault = f"is {_KINDS.get(info.type, 'a member of an unknown kind')}, not a file"
    elif info.issparse():
        fault = "is a sparse file: its bytes do not lie together"
    return _Member(
        name=name,
        key=folder + slash + first if first and dot else "",
        stem=folder + slash + stem,
        extension=extension.lower() if dot else "",
        offset=info.offset_data,
        size=info.size,
        fault=fault,
    )


def _text(name: str) -> str:
    return to_text(name).replace("\0", "\\x00")  # only a PAX header can hold one; HDF5 cannot


def _as_label(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) and value != "" else None


def _parse(data: bytes) -> dict[str, Any]:
    """A JSON object that can be written again; NaN and infinite numbers become null.

    Raises:
        ValueError: it is none, or holds text that is not Unicode, NUL, or very deep lists.
        RecursionError: deeper ones.
    """
    value = json.loads(
        data.decode("utf-8-sig"), parse_constant=lambda name: None, parse_float=_finite
    )
    if not isinstance(value, dict):
        raise ValueError("not an object")
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        inner, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        if isinstance(inner, str) and b"\0" in inner.encode():
            raise ValueError("NUL")
        if isinstance(inner, dict):
            waiting += [(v, depth + 1) for pair in inner.items() for v in pair]
        elif isinstance(inner, list):
            waiting += [(v, depth + 1) for v in inner]
    return value


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
