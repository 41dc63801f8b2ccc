"""Tables of photographs, and what their source makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fashionbatch.errors import FashionbatchError
from fashionbatch.sources import Failure, Item
from fashionbatch.sources.table import TableSource


def table(folder: Path, content: bytes | str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def items(path: Path, **options: Any) -> list[Item]:
    """The items of a table without failures."""
    found = list(TableSource(path, **options).items())
    assert [f for f in found if isinstance(f, Failure)] == []
    return [i for i in found if isinstance(i, Item)]


def failures(path: Path, **options: Any) -> list[tuple[int | None, str]]:
    """Line and reason of each."""
    found = [f for f in TableSource(path, **options).items() if isinstance(f, Failure)]
    assert {f.stage for f in found} <= {"source"}
    return [(f.line, f.reason) for f in found]


def message(kind: type[FashionbatchError], path: Path, **options: Any) -> str:
    """What the error says that ends the reading; one line."""
    with pytest.raises(kind) as caught:
        list(TableSource(path, **options).items())
    assert type(caught.value) is kind
    said = str(caught.value)
    said.encode("utf-8")
    assert len(said.splitlines()) == 1
    return said
