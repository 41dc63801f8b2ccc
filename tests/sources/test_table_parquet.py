"""Parquet tables: the items of a CSV file of the same rows, or one line that says why not."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources import Failure, Item
from fashionbatch.sources.base import from_text
from fashionbatch.sources.table import TableSource
from tests.sources.tables import items, message, table


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """``parquet({"image": [...], ...})`` → a file of these columns; skips without pyarrow."""
    arrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")

    def make(columns: dict[str, Any], **options: Any) -> Path:
        path = tmp_path / "table.parquet"
        arrays = [arrow.array(c) if isinstance(c, list) else c for c in columns.values()]
        made = arrow.Table.from_arrays(arrays, names=list(columns))
        writer.write_table(made, path, **options)
        return path

    return make


def test_parquet_gives_what_csv_gives(tmp_path: Path, parquet: Callable[..., Path]) -> None:
    """The same text: the same items."""
    columns = {
        "image": ["a/1.jpg", "./größe.jpg", "c\\d.jpg"],
        "label": [" hat ", "", "jeans"],
        "split": ["train", "Valid", ""],
        "note": ['"', "a\nb", "é\\"],
    }
    path = tmp_path / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.keys(), *zip(*columns.values(), strict=True)])
    found = items(parquet(columns))
    assert [i.line for i in found] == [2, 3, 4]
    from_csv = [(i.name, i.path, i.label, i.split, i.metadata) for i in items(path)]
    assert [(i.name, i.path, i.label, i.split, i.metadata) for i in found] == from_csv


def test_parquet_values_are_json(parquet: Callable[..., Path]) -> None:
    """Numbers, dates, bytes, nested values; nothing and NaN are null."""
    import pyarrow as arrow

    day = datetime.date(2024, 2, 29)
    moment = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)
    values: dict[str, tuple[Any, Any]] = {
        "int": ([7], 7),
        "big": (arrow.array([2**64 - 1], arrow.uint64()), 2**64 - 1),
        "bool": ([True], True),
        "float": ([0.5], 0.5),
        "half": (arrow.array([0.5], arrow.float16()), 0.5),
        "nan": ([float("nan")], None),
        "inf": ([float("-inf")], None),
        "none": (arrow.array([None], arrow.string()), None),
        "date": ([day], "2024-02-29"),
        "time": ([datetime.time(1, 2, 3)], "01:02:03"),
        "moment": ([moment], "2024-02-29T12:30:00+00:00"),
        "nano": (arrow.array([1_234_567_891], arrow.timestamp("ns")), "1970-01-01T00:00:01.234567"),
        "nano time": (arrow.array([1_234_567_891], arrow.time64("ns")), "00:00:01.234567"),
        "nano long": (arrow.array([1_234_567_891], arrow.duration("ns")), "0:00:01.234567"),
        "exact": ([decimal.Decimal("9.90")], "9.90"),
        "bytes": ([b"caf\xe9"], "caf\\xe9"),
        "word": (arrow.array(["a\\"]).dictionary_encode(), "a\\\\"),
        "list": ([[1.5, float("inf"), None]], [1.5, None, None]),
        "struct": ([{"x\\": "a\\", "y": [day]}], {"x\\\\": "a\\\\", "y": ["2024-02-29"]}),
        "map": (
            arrow.array([[("k", b"\xff")]], arrow.map_(arrow.string(), arrow.binary())),
            [["k", "\\xff"]],
        ),
    }
    path = parquet({"image": ["a.jpg"], **{name: made for name, (made, _) in values.items()}})
    (item,) = items(path)
    assert item.metadata == {name: expected for name, (_, expected) in values.items()}
    json.dumps(dict(item.metadata), allow_nan=False).encode("utf-8")


def test_parquet_columns_of_other_kinds_than_text(parquet: Callable[..., Path]) -> None:
    """Numbers are text where text is meant, nothing is empty, bytes are names of files."""
    path = parquet({"image": [17, None], "label": [3, None], "split": [None, "train"]})
    item, failure = TableSource(path).items()
    assert isinstance(item, Item) and isinstance(failure, Failure)
    assert (item.name, item.label, item.split, failure.line) == ("17", "3", None, 3)
    (item,) = items(parquet({"image": [b"caf\xe9.jpg"], "label": [float("nan")]}))
    assert (os.fsencode(from_text(item.name)), item.label) == (b"caf\xe9.jpg", None)


def test_parquet_of_images_instead_of_paths_is_refused(parquet: Callable[..., Path]) -> None:
    """A structure of bytes and path, as data sets on the hubs have it."""
    path = parquet({"image": [{"bytes": b"x", "path": "a.jpg"}], "label": [3]})
    assert "'image'" in message(UsageError, path)


def test_parquet_is_streamed_over_row_groups(parquet: Callable[..., Path]) -> None:
    """Lines go on from one batch and one row group to the next."""
    count = 10_000
    path = parquet({"image": [f"{i}.jpg" for i in range(count)]}, row_group_size=6_000)
    found = TableSource(path).items()
    assert all(
        isinstance(i, Item) and (i.name, i.line) == (f"{n}.jpg", n + 2)
        for n, i in zip(range(count), found, strict=True)
    )


def test_parquet_faults(tmp_path: Path, parquet: Callable[..., Path]) -> None:
    """No rows, two columns of one name, no image, a file that is none, or only its end."""
    assert "no rows" in message(SourceError, parquet({"image": []}))
    assert "--image-column" in message(UsageError, parquet({"x": ["a"]}))
    whole = parquet({"image": [f"{i}.jpg" for i in range(99)]}, compression="none").read_bytes()
    for damaged in (b"", b"image\na.jpg\n", whole[:-20], whole[:4] + b"\xff" * 99 + whole[103:]):
        said = message(SourceError, table(tmp_path, damaged, "table.parquet"))
        assert "table.parquet" in said
    import pyarrow as arrow
    import pyarrow.parquet as writer

    two = arrow.Table.from_arrays([arrow.array(["a"])] * 2, names=["image", "image"])
    writer.write_table(two, tmp_path / "two.parquet")
    assert "'image'" in message(SourceError, tmp_path / "two.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install; CSV needs nothing."""
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    said = message(UsageError, table(tmp_path, b"PAR1", "table.parquet"))
    assert "pip install 'fashionbatch[parquet]'" in said
    assert len(items(table(tmp_path, "image\na.jpg\n"))) == 1
