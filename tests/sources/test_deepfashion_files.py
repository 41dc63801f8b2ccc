"""The file of all attributes: the values of a plain reading, in little memory."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fashionbatch.errors import SourceError
from fashionbatch.sources import deepfashion_files
from fashionbatch.sources.deepfashion_files import read_values
from tests.sources.deepfashion_tree import (
    write_values,
)


def parsed(path: Path, width: int, *, listed: bool) -> list[tuple[int, bytes, list[int]]]:
    found = []
    for line, name, (positive, unknown) in read_values(path, width, listed=listed):
        values = -np.ones(width, int)
        values[np.unpackbits(positive, count=width) == 1] = 1
        values[np.unpackbits(unknown, count=width) == 1] = 0
        found.append((line, name, values.tolist()))
    return found


def plainly(data: bytes, width: int) -> list[tuple[int, bytes, list[int]]] | None:
    """What ``list_attr_img.txt`` says, row by row and slowly; ``None`` where it is broken."""
    lines = data.split(b"\n")
    if not lines[0].strip().isdigit():
        return None
    found = []
    for number, line in enumerate(lines[2:], start=3):
        fields = re.findall(rb"[^\x00-\x20]+", line)
        if not fields:
            continue
        name, values = fields[:-width], fields[-width:]
        if not name or not set(values) <= {b"-1", b"0", b"1"}:
            return None
        if len(name) > 1 and b"." not in name[-1]:
            return None
        end = re.search(rb"([\x00-\x20]+[^\x00-\x20]+){%d}[\x00-\x20]*$" % width, line)
        assert end is not None
        text = line[: end.start()].lstrip(bytes(range(33)))
        found.append((number, text, [int(v) for v in values]))
    return found if len(found) == int(lines[0]) else None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("values") / "list_attr_img.txt"


def check_against_plain(path: Path, data: bytes, width: int, block: int) -> None:
    path.write_bytes(data)
    want = plainly(data, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deepfashion_files, "_BLOCK", block)
        if want is None:
            with pytest.raises(SourceError):
                parsed(path, width, listed=True)
        else:
            assert parsed(path, width, listed=True) == want


GAPS = st.sampled_from([b" ", b"  ", b"   ", b"\t", b"  \t "])
ROWS = st.lists(
    st.tuples(
        st.sampled_from([b"img/a/1.jpg", b"img/-1/0.jpg", b"x", b"a b.jpg", b"\xe9 1.jpg"]),
        st.lists(st.sampled_from([b"-1", b"0", b"1"]), min_size=5, max_size=5),
        GAPS,
        st.sampled_from([b"", b" ", b"   ", b"\r"]),
    ),
    max_size=9,
)


@given(ROWS, st.integers(1, 200), st.booleans())
def test_any_padding_gives_the_same_values(
    scratch: Path,
    rows: list[tuple[bytes, list[bytes], bytes, bytes]],
    block: int,
    closed: bool,
) -> None:
    """Fixed and variable width, other blanks, blocks that end anywhere, no last line break."""
    lines = [gap.join([name, *values]) + end for name, values, gap, end in rows]
    data = b"\n".join([b"%d" % len(rows), b"image_name  attribute_labels", *lines])
    check_against_plain(scratch, data + b"\n" * closed, 5, block)
    got = parsed(scratch, 5, listed=True)
    assert [(name, [b"%d" % v for v in values]) for _, name, values in got] == [
        (name, values) for name, values, _, _ in rows
    ]


PIECES = st.lists(
    st.sampled_from([b"-1", b"0", b"1", b" ", b"  ", b"\n", b"a.jpg", b"-", b"2", b"\r\n", b"\0"]),
    max_size=40,
).map(b"".join)


@given(st.integers(0, 3), PIECES, st.integers(1, 50))
@example(1, b"a.jpg 1 0", 50)
@example(1, b"a.jpg 1 -", 50)
@example(1, b"a.jpg 1 0 -1\n", 50)
@example(1, b"\n\na.jpg 1 -1\n\n", 3)
def test_damaged_values_are_refused_or_read_alike(
    scratch: Path, stated: int, body: bytes, block: int
) -> None:
    """Whatever the bytes, the parser in blocks agrees with one that reads row by row."""
    check_against_plain(scratch, b"%d\nimage_name labels\n" % stated + body, 2, block)


def test_values_of_many_blocks(tmp_path: Path) -> None:
    """Rows that lie across the ends of real blocks keep their line, name and values."""
    random = np.random.default_rng(0)
    rows = [(f"img/p/{i}.jpg", random.integers(-1, 2, 1000).tolist()) for i in range(1500)]
    path = tmp_path / "list_attr_img.txt"
    write_values(path, rows, fixed=True)
    assert path.stat().st_size > 2 * deepfashion_files._BLOCK
    assert parsed(path, 1000, listed=True) == [
        (line, name.encode(), values) for line, (name, values) in enumerate(rows, start=3)
    ]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file is read in blocks: 600 MB of text must not become several GB of positions."""
    path = tmp_path / "list_attr_img.txt"
    row = " -1" * 1000
    path.write_text("6000\nimage_name\n" + "".join(f"img/{i}.jpg{row}\n" for i in range(6000)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_values(path, 1000, listed=True)) == 6000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * path.stat().st_size
