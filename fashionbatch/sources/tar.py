"""Finds the images of a tar file in WebDataset's layout, whoever made it.

Members that share a name are put together to samples; nothing in them is believed or unpickled.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashionbatch.errors import ShardError
from fashionbatch.sources.base import MAX_BYTES, Failure, to_text
from fashionbatch.sources.tar_json import as_label, parse_json
from fashionbatch.sources.tar_members import (
    IMAGE_EXTENSIONS,
    Member,
    OpenTar,
    members,
    open_tar,
    refuse_compressed,
)

_MAX_JSON = 1 << 20
_MAX_CLS = 1 << 10
_PICKLED = frozenset(["pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "joblib"])

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
        name: the member's path.
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
    with open_tar(path) as file:
        return scan_open(file)


def scan_open(file: OpenTar) -> Scan:
    """The same of an open file, or of what lies elsewhere.

    Raises:
        ShardError: as :func:`scan`; or it is compressed.
        OSError: it cannot be read.
    """
    refuse_compressed(file)
    scanner = _Scanner(file)
    for member in members(file):
        scanner.add(member)
    return scanner.finish()


class _Scanner:
    """Puts neighbouring members together to samples."""

    def __init__(self, file: OpenTar) -> None:
        self._file = file
        self._group: list[Member] = []
        self._seen: dict[str, bool] = {}  # stems, and whether one is a picture's
        self._read: dict[Member, Any] = {}
        self._samples: list[Sample] = []
        self._failures: list[Failure] = []
        self._notes: dict[str, tuple[int, list[str]]] = {}

    def add(self, member: Member) -> None:
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

    def _add_other(self, member: Member) -> None:
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
        beside: dict[tuple[str, str], list[Member]] = {}
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

    def _refuse_again(self, group: list[Member]) -> None:
        for stem in {m.stem: None for m in group}:
            if stem in self._seen:
                raise ShardError(
                    f"{self._file.where} holds the key {stem!r} again after other keys: give every "
                    "sample its own key, and put its members next to each other"
                )
        for member in group:
            self._seen[member.stem] = self._seen.get(member.stem, False) or member.is_picture

    def _add_picture(
        self,
        picture: Member,
        images: int,
        beside: Mapping[tuple[str, str], list[Member]],
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

    def _fault(self, picture: Member, images: int) -> str | None:
        """Why a picture is no sample, or ``None``."""
        if not picture.is_image:
            return f"is no {', '.join(IMAGE_EXTENSIONS)}"
        if images > 1:
            return f"its key {picture.stem!r} stands for {images} images"
        if picture.stem != picture.key and self._seen.get(picture.key):
            return f"is a mask of the sample {picture.key!r}, or a photograph without its own key"
        if picture.size > MAX_BYTES:
            return f"has {picture.size} bytes, over {MAX_BYTES >> 20} MiB"
        return None

    def _once(self, member: Member, read: Callable[[Member], Any]) -> Any:
        """What a member says; several images can share it."""
        if member not in self._read:
            self._read[member] = None if member.fault else read(member)
        return self._read[member]

    def _add_sample(self, image: Member, about: dict[str, Any] | None, cls: str | None) -> None:
        digest = hashlib.sha256()
        for piece in self._file.pieces(image.offset, image.offset + image.size):
            digest.update(piece)
        about = about or {}
        label = as_label(about.get("label"))
        self._samples.append(
            Sample(
                key=image.stem,
                name=image.name,
                extension=image.extension,
                offset=image.offset,
                size=image.size,
                sha256=digest.digest(),
                label=cls if label is None else label,
                about=about,
            )
        )

    def _fail_lone(
        self, pictures: Set[str], beside: Mapping[tuple[str, str], list[Member]]
    ) -> None:
        lone: dict[str, Member] = {}
        for (stem, _), mine in beside.items():
            key = mine[0].key
            shared = stem == key and pictures
            if not (shared or stem in pictures or key in pictures or mine[0].fault):
                lone.setdefault(stem, mine[0])
        for member in lone.values():
            self._fail(member, "has no image beside it")

    def _json(self, member: Member) -> dict[str, Any]:
        if member.size > _MAX_JSON:
            self._note(_LARGE_JSON, member)
            return {}
        try:
            return parse_json(self._file.at(member.offset, member.size))
        except (ValueError, RecursionError):
            self._note(_BAD_JSON, member)
            return {}

    def _cls(self, member: Member) -> str | None:
        data = self._file.at(member.offset, min(member.size, _MAX_CLS + 1))
        text = to_text(data.decode("utf-8", "surrogateescape")).strip()
        if len(data) > _MAX_CLS or not text.isprintable() or not text:
            self._note(_BAD_CLS, member)
            return None
        return text

    def _fail(self, member: Member, reason: str) -> None:
        self._failures.append(Failure(name=member.name, stage="shard", reason=reason))

    def _note(self, reason: str, member: Member) -> None:
        count, names = self._notes.get(reason, (0, []))
        self._notes[reason] = (count + 1, [*names, member.name][:3])
