"""Catalogues: where photographs come from, read item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fashionbatch import registry
from fashionbatch.address import Address, Location, refuse_scheme
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources.base import Attribute, Failure, Item, Source
from fashionbatch.specs import SourceSpec

__all__ = ["Attribute", "Failure", "Item", "Source", "find_source", "open_source"]


def open_source(path: Location, name: str | None = None, **options: Any) -> Source:
    """The source that reads the catalogue at ``path``.

    Args:
        path: of the catalogue, or its address.
        name: of the source; see :func:`find_source`.
        options: for the source; those that it does not take are refused.

    Raises:
        UsageError: nothing lies at the path, or several sources claim it.
        SourceError: no source reads it.
    """
    source: Source = registry.create(find_source(path, name), path, **options)
    return source


def find_source(path: Location, name: str | None = None) -> registry.Component:
    """What reads the catalogue at ``path``, and who provides it.

    Args:
        path: of the catalogue, or its address.
        name: of the source; without it each installed one is asked.

    Raises:
        UsageError: nothing lies at the path, or several sources claim it, or the one that is named
            reads nothing at addresses.
        SourceError: no source reads it.
    """
    elsewhere = isinstance(path, Address)
    if isinstance(path, Path) and not path.exists():
        refuse_scheme(path)
        raise UsageError(f"{path} does not exist: name a folder of photographs, a table, or shards")
    if name is not None:
        found = registry.find("source", name)
        if elsewhere and not _spec(found).addresses:
            raise UsageError(
                f"--source {name} reads nothing at addresses: copy {path} to a disk first"
            )
        return found
    known = [c for c in registry.components("source") if _spec(c).addresses or not elsewhere]
    able = [c for c in known if _reads(c, path)]
    if not able:
        advice = "name a folder of photographs"
        if elsewhere:
            advice += " on an object store, or a table (.csv, .tsv, .parquet)"
        raise SourceError(
            f"{path} is not a catalogue that an installed source reads "
            f"({', '.join(c.spec.name for c in known)}): {advice}"
        )
    # a folder of tar files is a folder too: who recognizes more goes first
    able = [c for c in able if not _spec(c).generic] or able
    if len(able) > 1:
        names = " or ".join(f"--source {c.spec.name}" for c in able)
        raise UsageError(f"{path} can be read in several ways: choose {names}")
    return able[0]


def _spec(component: registry.Component) -> SourceSpec:
    assert isinstance(component.spec, SourceSpec)
    return component.spec


def _reads(component: registry.Component, path: Location) -> bool:
    """Whether a source claims the path; one that cannot tell does not stop the others."""
    try:
        return bool(registry.resolve(_spec(component).detect)(path))
    except Exception:  # a stranger's code; `fashionbatch plugins check` names what is missing
        return False
