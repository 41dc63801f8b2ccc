"""What the source makes of DeepFashion's files, beside what they say; and changed files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from fashionbatch.sources.base import Item
from fashionbatch.sources.deepfashion import DeepFashionSource
from tests.sources.deepfashion_tree import (
    CATEGORIES,
    Image,
)

TYPE_NAMES = {1: "upper", 2: "lower", 3: "full"}


def items(root: Path, annotations: str = "auto") -> list[Item]:
    found = list(DeepFashionSource(root, annotations=annotations).items())
    assert all(isinstance(item, Item) for item in found)
    return [item for item in found if isinstance(item, Item)]


def edit(path: Path, change: Callable[[list[bytes]], object], *, stated: bool = False) -> None:
    """Changes a file's lines in place; with ``stated`` the first line says their number again."""
    lines = path.read_bytes().splitlines()
    change(lines)
    if stated:
        lines[0] = b"%d" % (len(lines) - 2)
    path.write_bytes(b"\n".join(lines) + b"\n")


def replaced(path: Path, line: int, old: bytes, new: bytes) -> None:
    def change(lines: list[bytes]) -> None:
        text, count = re.subn(old, new, lines[line - 1], count=1)
        assert count == 1
        lines[line - 1] = text

    edit(path, change)


def expected(image: Image, root: Path, line: int) -> Item:
    product = image.name.split("/")[1]
    return Item(
        name=image.name,
        path=root / image.name,
        label=CATEGORIES[image.label - 1],
        split=image.split,
        group=f"img/{product}",
        positive=tuple(i for i, v in enumerate(image.values) if v == 1),
        unknown=tuple(i for i, v in enumerate(image.values) if v == 0),
        box=image.box,
        landmarks=image.landmarks,
        metadata={"product": product, "clothes_type": TYPE_NAMES[image.type]},
        line=line,
    )
