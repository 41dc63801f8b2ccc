"""``dataset.json``: what a data set holds; written last, so that its presence means complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.errors import ShardError

FORMAT = "fashionbatch-shards"
VERSION = 1
MANIFEST = "dataset.json"
INDEX = "index.h5"
FAILURES = "failures.jsonl"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One shard.

    Attributes:
        file: its name in the data set's folder.
        split: ``"train"``, ``"val"``, ``"test"`` or ``None``.
        items: how many images it holds.
        bytes: its size.
        sha256: of the whole file, hexadecimal.
    """

    file: str
    split: str | None
    items: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of ``dataset.json``.

    Attributes:
        name: of the data set.
        classes: the vocabulary; a label is a position in it. Empty where nothing is labelled.
        items: images in all shards.
        failed: files of the catalogue that could not be packed; ``failures.jsonl`` lists them.
        shards: in the order of the index.
        source: what it was made from and how; for people, and for making it again.
        sample: it came with fashionbatch; a data set of the user's own goes before it.
    """

    name: str
    classes: tuple[str, ...]
    items: int
    failed: int
    shards: tuple[ShardRecord, ...]
    source: Mapping[str, Any] = field(default_factory=dict)
    sample: bool = False

    @property
    def splits(self) -> dict[str, int]:
        """Items of each split that there is; items without a split are under ``"all"``."""
        counts: dict[str, int] = {}
        for shard in self.shards:
            split = shard.split or "all"
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
            if values.pop("format") != FORMAT:
                raise ShardError(f"{path} is not a manifest of {FORMAT}")
            version = values.pop("format_version")
            if version != VERSION:
                raise ShardError(
                    f"{path} has format version {version}, this fashionbatch reads {VERSION}: "
                    "pack the catalogue again, or use the fashionbatch that made it"
                )
            shards = tuple(ShardRecord(**shard) for shard in values.pop("shards"))
            return cls(**{**values, "classes": tuple(values["classes"]), "shards": shards})
        except OSError as error:
            raise ShardError(f"{path} cannot be read ({error.strerror}): pack it again") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ShardError(f"{path} is damaged ({error}): pack the catalogue again") from error
