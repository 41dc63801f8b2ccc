"""Checks the members of one of our shards: what lies there, and what the index says of it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from fashionbatch.shards.verification.stream import Stream

BLOCK = 512
END = 2 * BLOCK  # a tar file ends with two empty blocks

_MAX_BESIDE = 64 << 20  # bytes of JSON and label that are believed to belong to one image
_MAX_SHOWN = 60


class Sample(NamedTuple):
    """What the index says of an image and of the members beside it.

    Attributes:
        key: in the shard.
        extension: of the image's member.
        size, sha256: of the image.
        end: byte of the shard where the next sample, or the end, begins.
        label: -1 where it has none, and no member ``.cls``.
        about: fields of the JSON member; ``None`` means that it may lack them.
    """

    key: str
    extension: str
    size: int
    sha256: bytes
    end: int
    label: int
    about: dict[str, Any]


class Fault(NamedTuple):
    """What is wrong with a sample; ``image`` where it is the image itself."""

    sample: Sample
    reason: str
    image: bool


def check_sample(stream: Stream, sample: Sample) -> Fault | None:
    """Reads the members of a sample, which begins where the stream is, up to its end.

    Returns:
        the worst that is wrong, or ``None``.
    """
    image = True
    try:
        header = stream.take(BLOCK)
        image = stream.sha256(sample.size) != sample.sha256
        padding = stream.take(-sample.size % BLOCK)
        beside = _check_beside(stream, sample)
    except EOFError:
        where = "the image" if image else "its JSON or label"
        return Fault(sample, f"the shard ends before the end of {where}", image)
    if image:
        return Fault(sample, "its bytes are not the ones that were packed (SHA-256)", image)
    name = f"{sample.key}.{sample.extension}"
    reason = _member_fault(header, name, sample.size) or _padding_fault(padding, name) or beside
    return Fault(sample, reason, image) if reason else None


def check_end(stream: Stream) -> str | None:
    """What is wrong with the end of a shard, which begins where the stream is."""
    try:
        end = stream.take(END)
    except EOFError:
        return "its end is missing"
    if _filled(end):
        return "its end is not two empty blocks"
    try:
        stream.take(1)
    except EOFError:
        return None
    return "something stands behind its end"


def decoded(data: bytes) -> str:
    """A text of an index or header, whatever its bytes are."""
    return data.decode("utf-8", "backslashreplace")


def shown(value: Any) -> str:
    """A value from a file, fit for a message."""
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _check_beside(stream: Stream, sample: Sample) -> str | None:
    length = sample.end - stream.position
    if length <= _MAX_BESIDE:
        return _beside_fault(stream.take(length), sample)
    for _ in stream.pieces(length):
        pass
    return f"{length} bytes stand beside the image"


def _beside_fault(data: bytes, sample: Sample) -> str | None:
    """What is wrong with the members that follow an image: its JSON, then its label."""
    position = 0
    bodies: list[bytes] = []
    for extension in ("json", "cls") if sample.label >= 0 else ("json",):
        name = f"{sample.key}.{extension}"
        header = data[position : position + BLOCK]
        size = _stated_size(header)
        fault = _member_fault(header, name, size)
        if fault is not None:
            return fault
        position += BLOCK
        bodies.append(data[position : position + size])
        position += size
        fault = _padding_fault(data[position : position + -size % BLOCK], name)
        if fault is not None:
            return fault
        position += -size % BLOCK
    if position != len(data):
        return "other members than its own stand behind it"
    if sample.label >= 0 and bodies[1] != b"%d" % sample.label:
        return f"its label is {shown(decoded(bodies[1]))}, in the index {sample.label}"
    return _json_fault(bodies[0], sample.about)


def _json_fault(data: bytes, expected: dict[str, Any]) -> str | None:
    try:
        about = json.loads(data)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        return "its JSON is no object"
    for field, value in expected.items():
        found = about.get(field)
        if found != value:
            return f"its JSON has the {field} {shown(found)}, the index {shown(value)}"
    return None


def _padding_fault(padding: bytes, name: str) -> str | None:
    return f"what fills up the last block of {name} is not empty" if _filled(padding) else None


def _filled(data: bytes) -> bool:
    return data.count(0) != len(data)


# tarfile takes six times as long for a header, which is most of the time that small images take
def _member_fault(header: bytes, name: str, size: int) -> str | None:
    """In what a ustar header is not that of a plain file with this name and size."""
    stated = header[148:156]
    try:
        sound = int(stated.rstrip(b"\0 "), 8) == sum(header) - sum(stated) + len(stated) * ord(" ")
    except ValueError:
        sound = False
    if not sound or size < 0:
        return f"the header of {name} is damaged or missing"
    found = header[:100].rstrip(b"\0")
    if found != name.encode() or _filled(header[345:500]):
        return f"the header of {name} is of {shown(decoded(found))}"
    if _stated_size(header) != size:
        return f"the header of {name} states {_stated_size(header)} bytes, the index {size}"
    if header[156:157] not in (b"0", b"\0"):
        return f"{name} is no plain file"
    return None


def _stated_size(header: bytes) -> int:
    """The size in a ustar header; -1 where it is none."""
    try:
        return int(header[124:136].rstrip(b"\0 "), 8)
    except ValueError:
        return -1
