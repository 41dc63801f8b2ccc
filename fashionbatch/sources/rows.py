"""Rows out of CSV, TSV and Parquet files, one after the other, whatever the length of the file."""

from __future__ import annotations

import codecs
import csv
import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources.base import to_text

#: of a file called .csv; where several fit equally well, the first of them
DELIMITERS = (",", ";", "\t", "|")
#: characters of a field; beyond, a quote was left open, and what follows would fill the memory
LONGEST_FIELD = 1 << 24
#: rows of a Parquet file that are Python objects at the same time
BATCH = 4096

#: where a row starts, and its fields; or why it has none
Row: TypeAlias = tuple[int, Sequence[Any] | str]


@dataclass(frozen=True, kw_only=True)
class Delimited:
    """A CSV or TSV file; its fields are text, bytes that are not UTF-8 as lone surrogates.

    Attributes:
        path: of the file.
        delimiter: one character.
        columns: their names, from the header.
        nested: positions of columns that do not hold single values.
    """

    path: Path
    delimiter: str
    columns: tuple[str, ...]
    nested: frozenset[int] = frozenset()

    def rows(self) -> Iterator[Row]:
        """Every row: the line it starts in, counted from 1, the header's included; its fields.

        Raises:
            SourceError: the file cannot be read, or a quote is left open over several lines.
        """
        width = len(self.columns)
        with _opened(self.path) as file:
            parsed = _parse(file, self.delimiter)
            next(parsed)  # the header
            for first, last, fields in parsed:
                if isinstance(fields, str):
                    if last > first:  # other rows went with it
                        raise SourceError(
                            f"{self.path}, lines {first} to {last}: {fields}: close each quote, "
                            "and double it within a field"
                        )
                    yield first, fields
                elif len(fields) == width:
                    yield first, fields
                else:
                    over = f" (up to line {last}: is a quote left open?)" if last > first else ""
                    yield first, f"has {len(fields)} fields, the header has {width}{over}"


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """A Parquet file; its fields are what pyarrow makes of them.

    Attributes:
        path: of the file.
        columns: their names.
        nested: positions of columns of lists, structures and maps.
    """

    path: Path
    columns: tuple[str, ...]
    nested: frozenset[int]

    def rows(self) -> Iterator[Row]:
        """Every row: its number, counted from 2 as if the names were in line 1; its fields.

        Raises:
            SourceError: the file cannot be read.
        """
        line = 1
        with _parquet(self.path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                for fields in zip(*(_values(c) for c in batch.columns), strict=True):
                    line += 1
                    yield line, fields


Table: TypeAlias = Delimited | Parquet


def open_table(path: Path, fits: Callable[[Sequence[str]], bool]) -> Table:
    """The table in a file, by its suffix: ``.parquet``, ``.tsv`` or else CSV.

    A column without a name is called after its position: ``column 3``.

    Args:
        path: of the file.
        fits: whether names of columns can be a header; it decides between delimiters.

    Raises:
        SourceError: it cannot be read, has no header, or two columns of the same name.
        UsageError: it is a Parquet file, and pyarrow is not installed.

    Example:
        >>> open_table(Path("a.csv"), lambda columns: "image" in columns)  # doctest: +SKIP
        Delimited(path=..., delimiter=';', columns=('image', 'label'), nested=frozenset())
    """
    suffix = path.suffix.lower()
    table = _open_parquet(path) if suffix == ".parquet" else _open_delimited(path, suffix, fits)
    twice = [name for name, count in Counter(table.columns).items() if count > 1]
    if twice:
        raise SourceError(
            f"{path} has several columns called {to_text(twice[0])!r}: give each its own name"
        )
    return table


def plain(value: Any) -> Any:
    """A field as a JSON value: text by :func:`to_text`, dates as ISO 8601, NaN as ``None``.

    Example:
        >>> plain([datetime.date(2024, 2, 29), float("nan")])  # doctest: +SKIP
        ['2024-02-29', None]
    """
    if isinstance(value, str):
        # most fields by far: twice as fast
        return value if value.isascii() and "\\" not in value else to_text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return to_text(text(value))


def text(value: Any) -> str:
    """A field as text, bytes that are not UTF-8 as lone surrogates; nothing and NaN are empty."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)


def _open_delimited(path: Path, suffix: str, fits: Callable[[Sequence[str]], bool]) -> Delimited:
    found = []
    why = "its first line names the columns"
    for delimiter in ("\t",) if suffix == ".tsv" else DELIMITERS:
        with _opened(path) as file:
            _, _, header = next(_parse(file, delimiter), (1, 1, why))
        if isinstance(header, str):
            why = header
        else:
            columns = _named(header)
            found.append(Delimited(path=path, delimiter=delimiter, columns=columns))
    if not found:
        raise SourceError(f"{path} has no header: {why}")
    return max(found, key=lambda t: (fits(t.columns), len(t.columns)))


def _named(header: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() or f"column {i}" for i, name in enumerate(header, 1))


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                yield TextIOWrapper(file, encoding="utf-16", newline="")
            else:
                yield TextIOWrapper(
                    file, encoding="utf-8-sig", errors="surrogateescape", newline=""
                )
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror or error}): mend its permissions, or copy it"
        ) from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} starts as UTF-16 and does not go on so ({error.reason}): save it as UTF-8"
        ) from error


def _parse(file: TextIO, delimiter: str) -> Iterator[tuple[int, int, list[str] | str]]:
    """First and last line of every row that is not blank, and its fields or why it has none."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    # not strict, a quote that is never closed would take the rest of the file without a word
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield first, reader.line_num, f"cannot be split into fields ({error})"
            continue
        if len(fields) > 1 or "".join(fields).strip():
            yield first, reader.line_num, fields


def _open_parquet(path: Path) -> Parquet:
    with _parquet(path) as file:
        schema = file.schema_arrow
    nested = frozenset(i for i, kind in enumerate(schema.types) if kind.num_fields)
    return Parquet(path=path, columns=_named(schema.names), nested=nested)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"{path} needs pyarrow ({error}): pip install 'fashionbatch[parquet]'"
        ) from error
    try:
        # without the buffer, whole row groups are not in memory at once
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except (OSError, ValueError, arrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{path} cannot be read ({reason}): write it anew") from error


def _values(column: Any) -> list[Any]:
    """A column of a batch as Python objects; times to the microsecond, as Python has them."""
    if getattr(column.type, "unit", None) == "ns":
        column = column.cast(_microseconds(column.type), safe=False)
    values: list[Any] = column.to_pylist()
    return values


def _microseconds(kind: Any) -> Any:
    arrow = importlib.import_module("pyarrow")
    if arrow.types.is_timestamp(kind):
        return arrow.timestamp("us", kind.tz)
    return arrow.time64("us") if arrow.types.is_time64(kind) else arrow.duration("us")
