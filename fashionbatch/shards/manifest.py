"""``dataset.json``: what a data set holds; written last, so that its presence means complete."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.errors import ShardError
from fashionbatch.sources import Attribute
from fashionbatch.specs import SPLITS

FORMAT = "fashionbatch-shards"
VERSION = 1
MANIFEST = "dataset.json"
_PLAIN = re.compile(r"[\w-][\w.-]*", re.ASCII)  # a file's name in the folder, as we give them
#: what items without a split are listed under
UNSPLIT = "all"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of the data set: its name in the folder, and the SHA-256 of it, hexadecimal."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardRecord(FileRecord):
    """One shard.

    Attributes:
        split: ``"train"``, ``"val"``, ``"test"`` or ``None``.
        items: how many images it holds.
        bytes: its size.
    """

    split: str | None
    items: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of ``dataset.json``.

    Attributes:
        name: of the data set.
        classes: the vocabulary; a label is a position in it. Empty where nothing is labelled.
        class_types: of each class its type, such as ``"upper"``, or ``None``; as many as classes.
        attributes: what an item's ``positive`` and ``unknown`` count in.
        items: images in all shards.
        failed: what of the catalogue is not packed; the file ``failures`` lists it.
        keys: numbers given to items so far, failed ones included; the next key.
        shards: in the order of the index.
        index, failures: the files beside it; ``None`` for shards made elsewhere.
        source: what it was made from and how; for people, and for making it again.
        sample: it came with fashionbatch; a data set of the user's own goes before it.
    """

    name: str
    classes: tuple[str, ...]
    items: int
    failed: int
    shards: tuple[ShardRecord, ...]
    class_types: tuple[str | None, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    keys: int = 0
    index: FileRecord | None = None
    failures: FileRecord | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    sample: bool = False

    @property
    def splits(self) -> dict[str, int]:
        """Items of each split that there is; items without a split are under ``"all"``."""
        counts: dict[str, int] = {}
        for shard in self.shards:
            split = shard.split or UNSPLIT
            counts[split] = counts.get(split, 0) + shard.items
        return counts

    @property
    def fingerprint(self) -> str:
        """Equal for equal shards and classes, wherever they lie."""
        return files.fingerprint(
            {"classes": self.classes, "shards": [(s.split, s.sha256) for s in self.shards]}
        )

    def save(self, folder: Path) -> None:
        """Writes ``dataset.json`` into ``folder``."""
        values = {"format": FORMAT, "format_version": VERSION, **asdict(self)}
        values["sha256"] = files.fingerprint(values)
        files.write_json(folder / MANIFEST, values)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads ``folder/dataset.json``.

        Raises:
            ShardError: it is missing, damaged, or of another format.
        """
        path = folder / MANIFEST
        try:
            values = json.loads(path.read_bytes())
            stated = values.pop("sha256", None)
            found = files.fingerprint(values)
            if values.pop("format") != FORMAT:
                raise ShardError(f"{path} is not a manifest of {FORMAT}")
            version = values.pop("format_version")
            if version != VERSION:
                raise ShardError(
                    f"{path} has format version {version}, this fashionbatch reads {VERSION}: "
                    "pack the catalogue again, or use the fashionbatch that made it"
                )
            if stated != found:
                raise ShardError(
                    f"{path} was changed after it was written (SHA-256): pack the catalogue again"
                )
            return cls(**{**values, **_typed(values)})
        except OSError as error:
            raise ShardError(f"{path} cannot be read ({error.strerror}): pack it again") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ShardError(f"{path} is damaged ({error}): pack the catalogue again") from error


def is_ours(folder: Path) -> bool:
    """Whether a data set of ours is in a folder, sound or not."""
    try:
        return bool(json.loads((folder / MANIFEST).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON has as lists and objects, as tuples and records; checked."""
    if not isinstance(values["source"], dict):
        raise ValueError("source is no object")
    made: dict[str, Any] = {
        "classes": _strings(values["classes"]),
        "class_types": tuple(values["class_types"]),
        "attributes": tuple(Attribute(**a) for a in values["attributes"]),
        "shards": tuple(ShardRecord(**s) for s in values["shards"]),
        "index": FileRecord(**values["index"]),
        "failures": FileRecord(**values["failures"]),
    }
    if made["class_types"] and len(made["class_types"]) != len(made["classes"]):
        raise ValueError("class_types do not fit classes")
    for record in (*made["shards"], made["index"], made["failures"]):
        if not isinstance(record.file, str) or not _PLAIN.fullmatch(record.file):
            raise ValueError(f"{record.file!r} is not a file of the data set's folder")
    for shard in made["shards"]:
        if not isinstance(shard.items, int) or not isinstance(shard.bytes, int):
            raise ValueError(f"{shard.file} has no counts")
        if shard.split not in (None, *SPLITS):
            raise ValueError(f"{shard.split!r} is no split")
    if len({s.file for s in made["shards"]}) != len(made["shards"]):
        raise ValueError("a shard is listed twice")
    return made


def _strings(values: Sequence[Any]) -> tuple[str, ...]:
    if not all(isinstance(v, str) for v in values) or len(set(values)) != len(values):
        raise ValueError("classes are not different texts")
    return tuple(values)
