"""Items on the disk: what goes in comes out, equal in every field."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.errors import SourceError
from fashionbatch.shards.spool import Spool, SpoolWriter
from fashionbatch.sources import Item

# what JSON has, and paths of any bytes but NUL
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
PATHS = st.binary(min_size=1, max_size=20).filter(lambda b: b"\0" not in b).map(os.fsdecode)
SMALL = st.integers(-5, 5000)
ITEMS = st.builds(
    Item,
    name=st.text(),
    path=st.none() | PATHS,
    data=st.none() | st.binary(max_size=6000),
    offset=st.none() | st.integers(0, 2**62),
    size=st.none() | st.integers(0, 2**40),
    label=st.none() | st.text(),
    split=st.sampled_from([None, "train", "val", "test"]),
    group=st.none() | st.text(),
    positive=st.lists(SMALL, max_size=3).map(tuple),
    unknown=st.lists(SMALL, max_size=3).map(tuple),
    box=st.none() | st.tuples(SMALL, SMALL, SMALL, SMALL),
    landmarks=st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=3).map(tuple),
    metadata=st.dictionaries(st.text(), VALUES, max_size=3),
    line=st.none() | st.integers(0, 10**9),
)


@given(st.lists(ITEMS, max_size=5))
def test_items_come_back(items: list[Item]) -> None:
    """In any order; the same item makes the same record, and another one another."""
    with tempfile.TemporaryDirectory() as folder:
        with SpoolWriter(Path(folder) / "spool") as writer:
            places = [writer.add(item) for item in items]
        spool = Spool(Path(folder) / "spool")
        assert [spool.item(spool.record(p)) for p in reversed(places)] == items[::-1]
        assert list(spool.items(iter(places))) == items
        for number, item in enumerate(items):
            same = [other == item for other in items]
            records = [spool.record(p) == spool.record(places[number]) for p in places]
            assert all(equal or not alike for equal, alike in zip(same, records, strict=True))
        spool.close()


def test_no_data_and_empty_data_differ(tmp_path: Path) -> None:
    """Empty bytes are bytes: the item fails as an empty file, it is not a bug of the source."""
    with SpoolWriter(tmp_path / "spool") as writer:
        places = [writer.add(Item(name="a", data=data)) for data in (b"", None)]
    spool = Spool(tmp_path / "spool")
    assert [spool.item(spool.record(p)).data for p in places] == [b"", None]


def test_path_object_becomes_text(tmp_path: Path) -> None:
    """A source may give either."""
    with SpoolWriter(tmp_path / "spool") as writer:
        place = writer.add(Item(name="a", path=tmp_path / "a.jpg"))
    spool = Spool(tmp_path / "spool")
    assert spool.item(spool.record(place)).path == str(tmp_path / "a.jpg")


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, float("nan"), [float("inf")], 1j])
def test_metadata_that_is_no_json_is_one_line(tmp_path: Path, value: object) -> None:
    """It names the item."""
    with (
        SpoolWriter(tmp_path / "spool") as writer,
        pytest.raises(SourceError, match=r"hat\.jpg") as caught,
    ):
        writer.add(Item(name="hat.jpg", data=b"x", metadata={"price": value}))
    assert "\n" not in str(caught.value)
