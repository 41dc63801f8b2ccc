"""What catalogues call their splits, and the names of numbered classes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from fashionbatch.errors import UsageError
from fashionbatch.sources.base import to_text

#: what people call the splits -> what we call them
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# and what MNIST calls its test files
_IN_FILES = {**SPLIT_NAMES, "t10k": "test"}


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of numbered classes: line ``n`` of a UTF-8 text file, counted from 0.

    Raises:
        UsageError: the file cannot be read, or has no lines, an empty one, or one twice.
    """
    where = to_text(os.fspath(path))
    try:
        names = path.read_text("utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise UsageError(f"{where} cannot be read ({error.strerror}): name a text file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 text: write one class name per line") from error
    names = [name.strip() for name in names]
    lines: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise UsageError(f"{where}, line {number}, is empty: write one class name per line")
        if name in lines:
            raise UsageError(
                f"{where} has the class {name!r} in lines {lines[name]} and {number}: give every "
                "class its own name"
            )
        lines[name] = number
    if not names:
        raise UsageError(f"{where} is empty: write one class name per line")
    return tuple(names)


def name_of(number: int, names: Sequence[str]) -> str:
    """The name of a numbered class.

    Raises:
        UsageError: there is none.
    """
    if not 0 <= number < len(names):
        raise UsageError(
            f"the catalogue has the label {number}, but the file of class names has "
            f"{len(names)} lines, for 0 to {len(names) - 1}: name the missing classes"
        )
    return names[number]


def by_value(label: str) -> tuple[int, int, str]:
    """A key to sort labels by: numbers by value, then texts.

    Example:
        >>> sorted(["hat", "10", "2"], key=by_value)
        ['2', '10', 'hat']
    """
    number = label.isascii() and label.isdecimal() and len(label) < 19
    return (0, int(label), label) if number else (1, 0, label)


def split_in(name: str) -> str | None:
    """The split that a file's name speaks of: ``imagenet-train-000000`` is of ``train``.

    ``None`` where no word of it is a split's name, or words name several.
    """
    words = re.split(r"[-_.]", name.lower())
    found = {_IN_FILES[word] for word in words if word in _IN_FILES}
    return found.pop() if len(found) == 1 else None
