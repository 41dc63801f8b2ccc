r"""A table as CSV: RFC 4180, UTF-8, and nothing in it that a spreadsheet or a terminal obeys.

Texts come from outside. In a cell of text

- a backslash and what cannot be shown (control characters, line ends, marks that turn the direction
  of writing, lone surrogates) are written as in a Python string: ``\\``, ``\x1b``, ``\u202e``. So
  each row is one line;
- an apostrophe is put in front of what a spreadsheet would take for a formula (``= + - @`` at the
  start, their full-width forms, blanks before them left out of account), and in front of an
  apostrophe.

Taking one apostrophe from the start and undoing the backslashes gives the text again. Attributes
are a JSON object. Numbers are the shortest ones that are read back as the same float32.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fashionbatch.errors import UsageError
from fashionbatch.store.table import Table, Tags, Values, Words

#: also as East Asian keyboards type them
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b"
_BOM = "\ufeff"
_UNSAFE = re.compile(
    "[\\\\\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_FIRST = re.compile(rf"\s*[{re.escape(FORMULA)}']")


def cell(text: str) -> str:
    r"""A text as it stands in a cell; see the module.

    Example:
        >>> cell("=HYPERLINK(1)"), cell("a\nb"), cell("dress/1.jpg")
        ("'=HYPERLINK(1)", 'a\\nb', 'dress/1.jpg')
    """
    if _UNSAFE.search(text):
        text = _UNSAFE.sub(_escaped, text)
    return "'" + text if _FIRST.match(text) else text


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape", "surrogatepass").decode()


def write(path: Path, table: Table, *, bom: bool = False) -> None:
    """Writes the table; with ``bom``, begins with the mark by which Excel knows UTF-8."""
    if any(field.kind == "vector" for field in table.fields):
        raise UsageError("CSV has no cells for vectors: use Parquet or NPZ")
    with path.open("w", encoding="utf-8", newline="") as file:
        if bom:
            file.write(_BOM)
        rows = csv.writer(file)
        rows.writerow([cell(field.name) for field in table.fields])
        for block in table.blocks():
            columns = [_cells(values, block.rows) for values in block.values]
            rows.writerows(zip(*columns, strict=True))


def _cells(values: Values, rows: int) -> list[str]:
    if values is None:
        return [""] * rows
    if isinstance(values, Words):
        words = (*_vocabulary(tuple(values.vocabulary)), "")  # the last one is that of -1
        return [words[position] for position in values.positions.tolist()]
    if isinstance(values, Tags):
        return _objects(values)
    if isinstance(values, np.ndarray):
        return _numbers(values)
    return [cell(text) for text in values]


@functools.lru_cache(8)
def _vocabulary(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(cell, texts))


def _numbers(values: npt.NDArray[np.float32]) -> list[str]:
    texts: list[str] = values.astype(str).tolist()
    return texts


def _objects(tags: Tags) -> list[str]:
    names = _quoted(tuple(tags.vocabulary))
    pairs = (
        f"{names[position]}: {probability}"
        for position, probability in zip(
            tags.positions.tolist(), _numbers(tags.probabilities), strict=True
        )
    )
    return ["{" + ", ".join(itertools.islice(pairs, count)) + "}" for count in tags.counts.tolist()]


@functools.lru_cache(8)
def _quoted(texts: tuple[str, ...]) -> tuple[str, ...]:
    """As JSON strings, in which only what is safe is not escaped."""
    return tuple(
        re.sub(
            "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]",
            lambda found: f"\\u{ord(found.group()):04x}",
            json.dumps(text, ensure_ascii=False),
        )
        for text in texts
    )
