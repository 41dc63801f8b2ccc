"""What a check of shards reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fashionbatch.address import Location

REFUSED, DAMAGED, SKIPPED, NOTE = "refused", "damaged", "skipped", "note"
#: what to do with a file that is not as it was made
AGAIN = "copy it again, or pack the catalogue again"

#: gets (event, values)
Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        shard: the file it is about; also ``index.h5``, ``dataset.json`` and so on.
        reason: what is wrong, and what to do.
        severity: ``"refused"``, the file cannot be used at all; ``"damaged"``, it is not what its
            record says; ``"skipped"``, a sample that is left out; or ``"note"``, worth knowing.
        key: of the item in its shard; empty where it is about the whole file.
        name: what the catalogue calls the item.
    """

    shard: str
    reason: str
    severity: str = DAMAGED
    key: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What :func:`verify` found.

    Attributes:
        path: of the data set, or its address.
        items: images that it should hold; of tar files made elsewhere, that it holds.
        shards: how many.
        bytes: of all shards, as they lie there.
        findings: of the data set's own files first, then shard by shard.
    """

    path: Location
    items: int = 0
    shards: int = 0
    bytes: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is refused or damaged."""
        return not any(f.severity in (REFUSED, DAMAGED) for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """``{"path", "items", "shards", "bytes", "ok", "findings"}``."""
        return {
            "path": str(self.path),
            "items": self.items,
            "shards": self.shards,
            "bytes": self.bytes,
            "ok": self.ok,
            "findings": [asdict(f) for f in self.findings],
        }
