"""Checks of a source: every item once, readable, in the same order."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fashionbatch import registry
from fashionbatch.pipeline.decode import decode
from fashionbatch.sources import Failure, Item, Source
from fashionbatch.specs import SPLITS, SourceSpec
from fashionbatch.testing.parts import create, want


def check_source(spec: SourceSpec, path: Path, **options: Any) -> None:
    """Reads a small catalogue that its author provides.

    Args:
        spec: of the source.
        path: of the catalogue, of a few photographs.
        options: of its factory.

    Raises:
        AssertionError: what it does not do, in one line.
    """
    detect = registry.resolve(spec.detect, requires=spec.requires)
    want(detect(path) is True, spec, f"detect({path.name!r}) does not give True")
    with tempfile.TemporaryDirectory() as empty:
        for other in (Path(empty), Path(empty) / "nothing"):
            if not spec.generic:
                want(detect(other) is False, spec, f"detect({other.name!r}) is not False")
    made = create("source", spec, path, **options)
    want(
        isinstance(made, Source),
        spec,
        f"the factory gives {type(made).__name__}, not a fashionbatch.Source",
    )
    found: list[Item | Failure] = []
    for entry in made.items():
        kind = type(entry).__name__
        want(isinstance(entry, Item | Failure), spec, f"items() gives {kind}, no Item or Failure")
        if isinstance(entry, Item):  # as it comes: one may lie in a buffer that goes round
            _check_item(spec, made, entry)
        found.append(entry)
    items = [entry for entry in found if isinstance(entry, Item)]
    want(bool(items), spec, "items() gives no item")
    names = [item.name for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    want(not twice, spec, f"items() gives {twice[:1]} twice")
    again = [entry.name for entry in create("source", spec, path, **options).items()]
    want(again == [entry.name for entry in found], spec, "a second reading gives another order")


def _check_item(spec: SourceSpec, made: Source, item: Item) -> None:
    want(bool(item.name), spec, "an item has no name")
    want(item.split in (None, *SPLITS), spec, f"{item.name!r} is of the split {item.split!r}")
    try:
        decode(made.read(item))
    except Exception as error:
        raise AssertionError(f"{spec.name}: {item.name!r} cannot be read: {error}") from error
