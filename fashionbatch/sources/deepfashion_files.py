"""DeepFashion's annotation files, row by row; a row that breaks the format is refused.

A ``list_*`` file has a line with the number of its rows, a line of column names, and rows that
begin with an image's name. The files of the fine set have neither the two lines nor the names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fashionbatch.errors import SourceError
from fashionbatch.sources.base import Attribute, to_text

T = TypeVar("T")
#: line in the file, name of the image (empty in the fine set's files), what the row says of it
Record: TypeAlias = tuple[int, bytes, T]
#: attributes of one image as bits, most significant first: positive, unknown; uint8 [ceil(A / 8)]
Bits: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8]]

CLOTHES_TYPES = {1: "upper", 2: "lower", 3: "full"}
ATTRIBUTE_TYPES = {1: "texture", 2: "fabric", 3: "shape", 4: "part", 5: "style"}
#: the fine set groups its 26 attributes in six, and numbers the groups anew
FINE_ATTRIBUTE_TYPES = {
    1: "texture",
    2: "sleeve",
    3: "length",
    4: "neckline",
    5: "fabric",
    6: "fit",
}
#: landmarks by clothes type
LANDMARKS = {1: 6, 2: 4, 3: 8}
MOST_LANDMARKS = 8
SPLITS = ("train", "val", "test")

VISIBLE, CUT_OFF = 0, 2
_FARTHEST = 99_999  # pixels; far beyond any photograph, and it fits 32 bits
_LONGEST = 1 << 20  # bytes; a "line" that goes on is no annotation
_BLOCK = 1 << 21  # bytes; what is made of a block stays in the processor's cache
_INTEGERS = re.compile(rb"-?[0-9]{1,9}(?: -?[0-9]{1,9})*")
_BLANK, _NEWLINE, _MINUS, _ZERO, _ONE = 32, 10, 45, 48, 49


def broken(path: Path, line: int, what: str) -> SourceError:
    """The error of a line that breaks the format."""
    return SourceError(f"{path}, line {line}: {what}: the file is damaged, fetch it again")


def readable(name: bytes) -> str:
    """A name from a file as text; see :func:`fashionbatch.sources.base.to_text`."""
    return to_text(os.fsdecode(name))


def read_categories(path: Path) -> list[tuple[str, str]]:
    """``list_category_cloth.txt``: name and type of each category; label 1 is the first.

    Example:
        >>> read_categories(Path("Anno/list_category_cloth.txt"))[0]  # doctest: +SKIP
        ('Anorak', 'upper')
    """
    return list(_named(path, CLOTHES_TYPES))


def read_attributes(path: Path, *, fine: bool) -> list[Attribute]:
    """``list_attr_cloth.txt``: the attributes in the order of their columns.

    Args:
        path: of the file.
        fine: it is the fine set's, which may have its own six types in place of the five.
    """
    types = ATTRIBUTE_TYPES
    if fine and any(text.split()[-1] == b"6" for _, text in _lines(path, listed=True)):
        types = FINE_ATTRIBUTE_TYPES
    return [Attribute(name=name, type=kind) for name, kind in _named(path, types)]


def read_numbers(
    path: Path, count: int, *, listed: bool, low: int = -_FARTHEST, high: int = _FARTHEST
) -> Iterator[Record[list[int]]]:
    """Rows of ``count`` whole numbers between ``low`` and ``high``, such as labels and boxes.

    Args:
        path: of the file.
        count: numbers in a row.
        listed: the file has the first two lines, and names.
        low: the least number.
        high: the greatest.
    """
    for line, name, fields in _records(path, count, listed=listed):
        yield line, name, _integers(path, line, fields, low, high)


def read_names(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line and name of each image of ``train.txt``, ``val.txt`` or ``test.txt``."""
    return _lines(path, listed=False)


def read_splits(path: Path) -> Iterator[Record[int]]:
    """``list_eval_partition.txt``: positions in :data:`SPLITS`."""
    positions = {name.encode(): i for i, name in enumerate(SPLITS)}
    for line, name, (word,) in _records(path, 1, listed=True):
        if word not in positions:
            raise broken(path, line, f"{readable(word)!r} is not train, val or test")
        yield line, name, positions[word]


def read_landmarks(path: Path) -> Iterator[Record[tuple[int, list[int]]]]:
    """``list_landmarks.txt``: clothes type, and ``visibility x y`` of 6, 4 or 8 landmarks.

    Some releases have a variation type behind the clothes type; it is passed over.
    """
    for line, text in _lines(path, listed=True):
        fields = text.split()
        end = next((i for i, f in enumerate(reversed(fields)) if b"." in f), len(fields) - 1)
        values = _integers(path, line, fields[len(fields) - end :], -_FARTHEST, _FARTHEST)
        size = 3 * LANDMARKS.get(values[0], 0) if values else 0
        if not size:
            raise broken(path, line, "the clothes type is not 1, 2 or 3")
        if end not in (size + 1, size + 2):
            raise broken(path, line, f"has {end - 1} numbers of landmarks instead of {size}")
        triples = values[end - size :]
        _check_visibility(path, line, triples)
        yield line, text.rsplit(None, end)[0], (values[0], triples)


def read_fine_landmarks(path: Path) -> Iterator[Record[list[int]]]:
    """``*_landmarks.txt`` of the fine set, as ``visibility x y`` each.

    A row has 8 pairs ``x y``, of which ``0 0`` is absent and becomes cut off; or the triples.
    """
    pairs, triples = 2 * MOST_LANDMARKS, [3 * n for n in LANDMARKS.values()]
    for line, text in _lines(path, listed=False):
        fields = text.split()
        if len(fields) != pairs and len(fields) not in triples:
            raise broken(path, line, f"has {len(fields)} numbers instead of {pairs}")
        values = _integers(path, line, fields, -_FARTHEST, _FARTHEST)
        if len(values) == pairs:
            xy = zip(values[::2], values[1::2], strict=True)
            values = [v for x, y in xy for v in (VISIBLE if x or y else CUT_OFF, x, y)]
        _check_visibility(path, line, values)
        yield line, b"", values


def read_values(path: Path, width: int, *, listed: bool) -> Iterator[Record[Bits]]:
    """The attributes of each image: ``list_attr_img.txt`` or the fine set's ``*_attr.txt``.

    A listed file says 1 positive, -1 negative, 0 unknown; a file of the fine set 1 and 0, which
    is negative there.

    Args:
        path: of the file, of any size; it is read in blocks.
        width: number of attributes.
        listed: as of :func:`read_numbers`.
    """
    with _reading(path) as file:
        stated = _stated(path, file) if listed else None
        found, line = 0, 3 if listed else 1
        for block in _blocks(path, file):
            lines, names, values = _parse(path, line, block, width, listed=listed)
            positive = np.packbits(values == 1, axis=1)
            unknown = np.packbits((values == 0) & listed, axis=1)
            yield from zip(lines, names, zip(positive, unknown, strict=True), strict=True)
            found += len(lines)
            line += block.count(b"\n")
    _check_count(path, stated, found)


def _parse(
    path: Path, first: int, block: bytes, width: int, *, listed: bool
) -> tuple[list[int], list[bytes], NDArray[np.int8]]:
    """Line numbers, names and values (int8 ``[rows, width]``) of whole lines."""
    data = np.frombuffer(block + b" ", np.uint8)  # so that each number has a byte behind it
    blank = data <= _BLANK
    begins = ~blank
    begins[1:] &= blank[:-1]
    starts = np.flatnonzero(begins)
    ends = np.flatnonzero(data == _NEWLINE)
    last = np.searchsorted(starts, ends)  # one behind each line's last field
    counts = np.diff(last, prepend=0)
    rows = np.flatnonzero(counts)  # blank lines have none
    last, counts = last[rows], counts[rows]
    lines: list[int] = (rows + first).tolist()
    wrong = np.flatnonzero(counts <= width if listed else counts != width)
    if wrong.size:
        raise _miscounted(path, lines[wrong[0]], int(counts[wrong[0]]), width + listed)

    at = starts[(last - width)[:, None] + np.arange(width)]
    minus = data[at] == _MINUS
    digit = data[at + minus]
    bad = ~blank[at + minus + 1] | ((digit != _ONE) & (minus | (digit != _ZERO)))
    if not listed:
        bad |= minus
    if bad.any():
        row, column = (int(i[0]) for i in np.nonzero(bad))
        word = block[at[row, column] :].split(None, 1)[0]
        allowed = "-1, 0 or 1" if listed else "0 or 1"
        raise broken(path, lines[row], f"{readable(word[:20])!r} is not {allowed}")
    values = (digit == _ONE).astype(np.int8)
    values[minus] = -1

    if not listed:
        return lines, [b""] * len(lines), values
    limits = zip(starts[last - counts].tolist(), at[:, 0].tolist(), strict=True)
    names = [block[start:end].rstrip() for start, end in limits]
    for i in np.flatnonzero(counts > width + 1):
        if not _ends_like_a_name(names[i]):
            raise _miscounted(path, lines[i], int(counts[i]), width + 1)
    return lines, names, values


def _blocks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The rest of the file in blocks of whole lines."""
    rest = b""
    while block := file.read(_BLOCK):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if len(rest) > _LONGEST:
            raise SourceError(f"{path} has a line of over {_LONGEST} bytes: fetch the file again")
        if newline:
            yield whole + newline
    if rest:
        yield rest + b"\n"


def _named(path: Path, types: dict[int, str]) -> Iterator[tuple[str, str]]:
    """Rows of a name, which may contain blanks, and the number of a type."""
    for line, text in _lines(path, listed=True):
        fields = text.rsplit(None, 1)
        if len(fields) != 2:
            raise _miscounted(path, line, len(fields), 2)
        (number,) = _integers(path, line, fields[1:], 1, len(types))
        yield readable(fields[0]), types[number]


def _records(path: Path, count: int, *, listed: bool) -> Iterator[Record[list[bytes]]]:
    for line, text in _lines(path, listed=listed):
        fields = text.rsplit(None, count) if listed else [b"", *text.split()]
        if len(fields) != count + 1 or (listed and not _ends_like_a_name(fields[0])):
            raise _miscounted(path, line, len(text.split()), count + listed)
        yield line, fields[0], fields[1:]


def _lines(path: Path, *, listed: bool) -> Iterator[tuple[int, bytes]]:
    """Number and text of each line that is not blank; without padding."""
    with _reading(path) as file:
        stated = _stated(path, file) if listed else None
        found = 0
        pieces = iter(partial(file.readline, _LONGEST), b"")
        for line, piece in enumerate(pieces, start=3 if listed else 1):
            if text := piece.strip():
                found += 1
                yield line, text
    _check_count(path, stated, found)


def _stated(path: Path, file: BinaryIO) -> int:
    """The number of rows from the first line; the second is passed over."""
    text = file.readline(_LONGEST).strip()
    file.readline(_LONGEST)
    if not text.isdigit() or len(text) > 9:
        raise broken(path, 1, f"{readable(text[:20])!r} is not a number of rows")
    return int(text)


def _check_count(path: Path, stated: int | None, found: int) -> None:
    if stated is not None and found != stated:
        raise SourceError(
            f"{path} says that it has {stated} rows and has {found}: it was cut short or changed, "
            "fetch it again"
        )


def _ends_like_a_name(name: bytes) -> bool:
    """False where a value too many has become part of a name: it would be no file's name."""
    fields = name.split()
    return len(fields) == 1 or b"." in fields[-1]


def _miscounted(path: Path, line: int, found: int, wanted: int) -> SourceError:
    return broken(path, line, f"has {found} fields instead of {wanted}")


def _integers(path: Path, line: int, fields: Sequence[bytes], low: int, high: int) -> list[int]:
    if not _INTEGERS.fullmatch(b" ".join(fields)):  # int() would take b"1_0" and b"+1", too
        word = next((f for f in fields if not _INTEGERS.fullmatch(f)), b"")
        raise broken(path, line, f"{readable(word[:20])!r} is not a whole number")
    values = list(map(int, fields))
    for value in values:
        if not low <= value <= high:
            raise broken(path, line, f"{value} is not between {low} and {high}")
    return values


def _check_visibility(path: Path, line: int, triples: Sequence[int]) -> None:
    if not {*triples[::3]} <= {0, 1, 2}:
        raise broken(path, line, "a visibility is not 0, 1 or 2")


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror}): fetch it, or mend its permissions"
        ) from error
