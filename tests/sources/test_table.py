"""Tables of photographs: columns, dialects, encodings, and rows that cannot be used."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import FashionbatchError, SourceError, UsageError
from fashionbatch.sources import Failure, Item, open_source
from fashionbatch.sources.base import from_text, to_text
from fashionbatch.sources.folder import FolderSource
from fashionbatch.sources.rows import DELIMITERS
from fashionbatch.sources.table import USUAL, TableSource, is_table
from tests.sources.tables import failures, items, message, table

Catalog = Callable[..., Path]


def test_a_table_becomes_items(tmp_path: Path) -> None:
    """Image, label and split have their own places; everything else is metadata."""
    path = table(
        tmp_path,
        "id,image,Label,split,colour\n7,hat/1.jpg, sun hat ,train,red\n8,2.jpg,,,\n",
    )
    assert items(path) == [
        Item(
            name="hat/1.jpg",
            path=f"{tmp_path}/hat/1.jpg",
            label="sun hat",
            split="train",
            metadata={"id": "7", "colour": "red"},
            line=2,
        ),
        Item(name="2.jpg", path=f"{tmp_path}/2.jpg", metadata={"id": "8", "colour": ""}, line=3),
    ]


def test_real_photographs_are_read(catalog: Catalog, tmp_path: Path) -> None:
    """A table beside a folder gives the folder's own items and bytes."""
    folder = FolderSource(catalog({"dress": 3, "hat": 2}))
    expected = [i for i in folder.items() if isinstance(i, Item)]
    lines = [f"photos/{i.name},{i.label}" for i in expected]
    source = open_source(table(tmp_path, "\n".join(["image,class", *lines])))
    assert isinstance(source, TableSource)
    found = [i for i in source.items() if isinstance(i, Item)]
    assert [(i.name, i.label) for i in found] == [(f"photos/{i.name}", i.label) for i in expected]
    assert [source.read(i) for i in found] == [folder.read(i) for i in expected]


def test_the_clothing_catalogue_by_a_table(clothing: Path, tmp_path: Path) -> None:
    """3,068 real photographs, the table elsewhere: the same names, labels and bytes."""
    folder = FolderSource(clothing / "train")
    expected = [i for i in folder.items() if isinstance(i, Item)]
    lines = [f'"{i.name}";{i.label}' for i in expected]
    path = table(tmp_path, "\r\n".join(["file name;category", *lines]))
    source = TableSource(path, root=clothing / "train")
    found = [i for i in source.items() if isinstance(i, Item)]
    assert [(i.name, i.label) for i in found] == [(i.name, i.label) for i in expected]
    assert source.read(found[100]) == folder.read(expected[100])


def test_what_is_a_table(tmp_path: Path) -> None:
    """A regular file with one of the suffixes, in upper or lower case."""
    for name in ("a.csv", "b.TSV", "c.Parquet"):
        assert is_table(table(tmp_path, "", name))
    assert not is_table(table(tmp_path, "", "d.txt"))
    assert not is_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert not is_table(tmp_path / "folder.csv")


# columns


@pytest.mark.parametrize("name", USUAL["image"])
def test_usual_names_of_the_image(tmp_path: Path, name: str) -> None:
    """In any case, with blanks or hyphens between words."""
    for written in (name, name.upper(), f" {name.replace('_', ' ')} ", name.replace("_", "-")):
        path = table(tmp_path, f"price,{written}\n3,a.jpg\n")
        assert [(i.name, i.metadata) for i in items(path)] == [("a.jpg", {"price": "3"})]


def test_the_docstring_lists_what_is_guessed() -> None:
    """Every usual name, in the order in which they are tried."""
    said = re.findall("``([a-z_]+)``", TableSource.__doc__ or "")
    for names in USUAL.values():
        assert any(tuple(said[i : i + len(names)]) == names for i in range(len(said)))


@pytest.mark.parametrize("name", USUAL["label"])
def test_usual_names_of_the_label(tmp_path: Path, name: str) -> None:
    """Guessed like the image."""
    assert [i.label for i in items(table(tmp_path, f"{name},image\nhat,a.jpg\n"))] == ["hat"]


@pytest.mark.parametrize("name", USUAL["split"])
def test_usual_names_of_the_split(tmp_path: Path, name: str) -> None:
    """Guessed like the image."""
    assert [i.split for i in items(table(tmp_path, f"{name},image\nval,a.jpg\n"))] == ["val"]


def test_the_first_usual_name_wins_not_the_first_column(tmp_path: Path) -> None:
    """The order of the guess is the docstring's."""
    path = table(tmp_path, "file,category,image,label\nf.jpg,c,i.jpg,l\n")
    assert [(i.name, i.label, i.metadata) for i in items(path)] == [
        ("i.jpg", "l", {"file": "f.jpg", "category": "c"})
    ]


def test_named_columns_go_before_usual_ones(tmp_path: Path) -> None:
    """And what is named for one thing is not guessed for another."""
    path = table(tmp_path, "image,label,split,when\na.jpg,b.jpg,hat,test\n")
    named = items(path, image_column="label", label_column="split", split_column="when")
    assert [(i.name, i.label, i.split, i.metadata) for i in named] == [
        ("b.jpg", "hat", "test", {"image": "a.jpg"})
    ]
    assert [i.label for i in items(path, image_column="label", split_column="when")] == [None]


@pytest.mark.parametrize("option", ["image_column", "label_column", "split_column", "type_column"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, option: str) -> None:
    """A usage error, before anything is read."""
    path = table(tmp_path, b"image,caf\xe9,label\na.jpg,x,y\n")
    said = message(UsageError, path, **{option: "Image"})
    assert all(part in said for part in (str(path), "'Image'", "'image'", "'caf\\\\xe9'"))


def test_no_column_of_images(tmp_path: Path) -> None:
    """The columns are listed, and the option; a header without end is cut."""
    for delimiter in DELIMITERS:
        said = message(UsageError, table(tmp_path, f"sku{delimiter}price\n1{delimiter}2\n"))
        assert all(part in said for part in ("'sku', 'price'", "--image-column"))
    many = ",".join(f"c{i}" for i in range(100_000))
    assert len(message(UsageError, table(tmp_path, many + "\n"))) < 1000 + len(str(tmp_path))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """Which one is meant cannot be known."""
    said = message(SourceError, table(tmp_path, "image,price,price \na.jpg,1,2\n"))
    assert "'price'" in said and "table.csv" in said


def test_columns_without_a_name_are_kept(tmp_path: Path) -> None:
    """Spreadsheets and data frames leave names out."""
    path = table(tmp_path, ",image,, \n0,a.jpg,x,y\n")
    assert items(path)[0].metadata == {"column 1": "0", "column 3": "x", "column 4": "y"}


# splits, labels, types


@pytest.mark.parametrize(
    ("written", "split"),
    [
        ("train", "train"),
        (" Training ", "train"),
        ("VALID", "val"),
        ("testing", "test"),
        (" ", None),
    ],
)
def test_names_of_splits(tmp_path: Path, written: str, split: str | None) -> None:
    """Those of folders; an empty field is no split."""
    assert [i.split for i in items(table(tmp_path, f"image,split\na.jpg,{written}\n"))] == [split]


def test_a_value_that_is_no_split(tmp_path: Path) -> None:
    """Recorded under the item's name; the others go on."""
    path = table(tmp_path, "image,split\na.jpg,tain\nb.jpg,train\n")
    failure, item = TableSource(path).items()
    assert isinstance(failure, Failure) and isinstance(item, Item)
    assert (failure.name, failure.line, item.name) == ("a.jpg", 2, "b.jpg")
    assert "'tain'" in failure.reason and "train" in failure.reason


def test_types_of_classes(tmp_path: Path) -> None:
    """Complete when the items are; an empty type or label says nothing; started anew each time."""
    path = table(
        tmp_path,
        "image,label,kind\n"
        "1.jpg,hat,\n2.jpg,hat, head \n3.jpg,jeans,lower\n4.jpg,,full\n5.jpg,hat,head",
    )
    source = TableSource(path, type_column="kind")
    assert [i.metadata for i in source.items() if isinstance(i, Item)] == [{}] * 5
    assert source.class_types == {"hat": "head", "jeans": "lower"}
    next(source.items())
    assert source.class_types == {}
    assert "label" in message(
        UsageError, table(tmp_path, "image,kind\n1.jpg,x\n"), type_column="kind"
    )


def test_a_class_of_two_types_is_refused(tmp_path: Path) -> None:
    """Both lines are named."""
    path = table(
        tmp_path, "image,label,kind\n1.jpg,hat,\n\n2.jpg,hat,head\n2.jpg,hat,head\n3.jpg,hat,full\n"
    )
    said = message(SourceError, path, type_column="kind")
    assert all(part in said for part in ("'hat'", "'head' in line 4", "'full' in line 6"))


# rows that cannot be used


def test_ragged_rows_are_recorded(tmp_path: Path) -> None:
    """Too few fields and too many, each with its line; the others go on."""
    path = table(tmp_path, "image,label,x,y\na.jpg,hat\nb.jpg,hat,1,2\nc.jpg,hat,1,2,3\n")
    assert failures(path) == [
        (2, "has 2 fields, the header has 4"),
        (4, "has 5 fields, the header has 4"),
    ]
    names = [(i.name, i.line) for i in TableSource(path).items()]
    assert names == [("table.csv", 2), ("b.jpg", 3), ("table.csv", 4)]


def test_rows_without_an_image_are_recorded(tmp_path: Path) -> None:
    """Empty, blank, or a path that no system takes."""
    path = table(tmp_path, "image,label\n,hat\n  ,hat\na\0b.jpg,hat\nc.jpg,ha\0t\n")
    assert [line for line, _ in failures(path)] == [2, 3, 4]
    assert [i.label for i in TableSource(path).items() if isinstance(i, Item)] == ["ha\0t"]


def test_line_breaks_in_a_path_or_label_are_recorded(tmp_path: Path) -> None:
    """A quote that closes lines too late makes one field of several; no class is made of it."""
    path = table(tmp_path, 'image,label\n"a\n.jpg",hat\nb.jpg,"hat\r\ncoat"\nc.jpg,"hat\n"\n')
    assert failures(path) == [
        (2, "the image's path holds a line break"),
        (4, "the label holds a line break"),
    ]
    (item,) = (i for i in TableSource(path).items() if isinstance(i, Item))
    assert (item.name, item.label) == ("c.jpg", "hat"), "blanks at its ends are no part of a label"


def test_a_folder_called_like_an_image(tmp_path: Path) -> None:
    """The file with the extension is meant; a folder alone is a failure."""
    for folder in ("123", "124", "125", "125.jpg"):
        (tmp_path / folder).mkdir()
    (tmp_path / "123.jpg").write_bytes(b"photo")
    (tmp_path / "125.png").write_bytes(b"other")
    source = TableSource(table(tmp_path, "image\n123\n124\n125\n"))
    first, second, third = (i for i in source.items() if isinstance(i, Item))
    assert source.read(first) == b"photo"
    assert source.read(third) == b"other"
    with pytest.raises(OSError, match="not a regular file"):
        source.read(second)


def test_a_link_may_lead_out_of_the_root(tmp_path: Path) -> None:
    """Photographs often lie on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/1.jpg").write_bytes(b"photo")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/photos").symlink_to(tmp_path / "disk")
    (item,) = items(table(tmp_path / "root", "image\nphotos/1.jpg\n"))
    assert item.read() == b"photo"


def test_a_quote_in_one_line_costs_that_line(tmp_path: Path) -> None:
    """What the quote does to its row cannot be known; the next one is read."""
    path = table(tmp_path, 'image,label\na.jpg,"sun" hat\nb.jpg,hat\nc.jpg,"hat')
    assert [line for line, _ in failures(path)] == [2, 4]
    assert [i.line for i in TableSource(path).items()] == [2, 3, 4]


def test_a_quote_that_swallows_rows_ends_the_reading(tmp_path: Path) -> None:
    """No row is lost without a word: to the end of the file, or to the next quote."""
    rows = "".join(f"{i}.jpg,hat\n" for i in range(50))
    said = message(SourceError, table(tmp_path, f'image,label\na.jpg,"hat\n{rows}'))
    assert "lines 2 to 52" in said
    said = message(SourceError, table(tmp_path, f'image,label\na.jpg,"hat\n{rows}b.jpg,"hat"\n'))
    assert "lines 2 to 53" in said
    path = table(tmp_path, f'image,label\na.jpg,"hat\n{rows}b.jpg",hat,hat\n')
    assert failures(path) == [
        (2, "has 4 fields, the header has 2 (up to line 53: is a quote left open?)")
    ]


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n", b"\xef\xbb\xbf", b"\xff\xfe", b'"a\n'])
def test_a_table_without_a_header(tmp_path: Path, content: bytes) -> None:
    """Nothing, blank lines, only a byte order mark, half a header."""
    assert "no header" in message(SourceError, table(tmp_path, content))


def test_a_table_without_rows(tmp_path: Path) -> None:
    """A header and blank lines; an unusable row is a row."""
    assert "no rows" in message(SourceError, table(tmp_path, "image,label\n\n  \n"))
    assert len(failures(table(tmp_path, "image,label\n,\n"))) == 1


def test_no_such_table_or_folder(tmp_path: Path) -> None:
    """Refused as misuse."""
    path = table(tmp_path, "image\na.jpg\n")
    for wrong in (tmp_path, tmp_path / "none.csv"):
        assert str(wrong) in message(UsageError, wrong)
    for root in (path, tmp_path / "none"):
        assert "--root" in message(UsageError, path, root=root)


def test_a_table_that_goes_away(tmp_path: Path) -> None:
    """One line instead of a traceback."""
    path = table(tmp_path, "image\na.jpg\n")
    source = TableSource(path)
    path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        list(source.items())


# dialects and encodings


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_delimiters(tmp_path: Path, delimiter: str) -> None:
    """The one that fits the header, whatever others appear in names and fields."""
    others = [d for d in DELIMITERS if d != delimiter]
    header = ["image", "label", "note" + "".join(others * 3)]
    row = ["a,b;c|.jpg".replace(delimiter, "_"), "hat", "".join(others)]
    path = table(tmp_path, delimiter.join(header) + "\n" + delimiter.join(row) + "\n")
    (item,) = items(path)
    assert (item.name, item.label, list(item.metadata.values())) == (row[0], row[1], [row[2]])


def test_tsv_is_always_tab(tmp_path: Path) -> None:
    """Commas in its header are part of a name."""
    path = table(tmp_path, "file,image,x\timage\n1\tx.jpg\n", "table.tsv")
    assert [(i.name, i.metadata) for i in items(path)] == [("x.jpg", {"file,image,x": "1"})]


def test_one_column_is_enough(tmp_path: Path) -> None:
    """A list of files under a heading."""
    assert [i.name for i in items(table(tmp_path, "file\na.jpg\n\nb c.jpg\n"))] == [
        "a.jpg",
        "b c.jpg",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_ends_of_lines_and_byte_order_marks(tmp_path: Path, end: str, encoding: str) -> None:
    """With and without; line numbers are those of an editor; blank lines are passed over."""
    lines = ["", '"image",note', '"größe.jpg","a', 'b"', " ", "", "2.jpg,hat"]
    path = table(tmp_path, end.join(lines).encode(encoding))
    assert [(i.name, i.metadata["note"], i.line) for i in items(path)] == [
        ("größe.jpg", f"a{end}b", 3),
        ("2.jpg", "hat", 7),
    ]


def test_damaged_utf_16_is_refused(tmp_path: Path) -> None:
    """Half a character at the end; half a pair."""
    good = "image,label\na.jpg,hat\n".encode("utf-16")
    for damaged in (good + b"x", good + b"\x00\xd8a\x00"):
        assert "UTF-16" in message(SourceError, table(tmp_path, damaged))


def test_bytes_that_are_not_utf_8_find_their_file(tmp_path: Path) -> None:
    """Fault 18: Latin-1 names in a Latin-1 table; what is shown is reversible text."""
    raw = b"caf\xe9\\1.jpg"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw)).write_bytes(b"bytes")
    path = table(tmp_path, b"image,label,ma\xdf\n" + raw + b',"\xe9t\xe9 \xc3\xa9",\xff\n')
    source = TableSource(path)
    (item,) = source.items()
    assert isinstance(item, Item)
    assert os.fsencode(from_text(item.name)) == raw
    assert (item.label, item.metadata) == ("\\xe9t\\xe9 é", {"ma\\xdf": "\\xff"})
    assert source.read(item) == b"bytes"


def test_very_long_fields(tmp_path: Path) -> None:
    """Beyond the csv module's own limit, over many lines."""
    long = "a description\n" * 100_000
    path = table(tmp_path, f'image,text,label\na.jpg,"{long}",hat\nb.jpg,,hat\n')
    assert [(len(i.metadata["text"]), i.line) for i in items(path)] == [
        (len(long), 2),
        (0, 100_003),
    ]


PLAIN = ["a", " ", "\\", '"', "\0", "é", "\u2028", "\x0b", *DELIMITERS]
FIELD = st.text(st.sampled_from([*PLAIN, "\n", "\r"]))
LABEL = st.text(st.sampled_from(PLAIN))


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(FIELD, LABEL), min_size=1, max_size=5),
    delimiter=st.sampled_from(DELIMITERS),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    raw=st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    delimiter: str,
    end: str,
    encoding: str,
    raw: bool,
) -> None:
    """Any text in any dialect: every field, in order, with the line that it starts in."""
    if raw and encoding != "utf-16":
        rows = [(a + "\udce9", b) for a, b in rows]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["image", "note", "label"])
    expected = []
    for number, (note, label) in enumerate(rows):
        line = len(re.findall("\r\n|\r|\n", buffer.getvalue())) + 1
        writer.writerow([f"{number}.jpg", note, label])
        expected.append((f"{number}.jpg", to_text(note), to_text(label.strip()) or None, line))
    content = buffer.getvalue().encode(encoding, "surrogateescape")
    found = items(table(tmp_path_factory.getbasetemp(), content, "written.csv"))
    assert [(i.name, i.metadata["note"], i.label, i.line) for i in found] == expected


HEADER = st.sampled_from([b"", b"image,label,split\n", b"\xff\xfei\x00m\x00g\x00,\x00a\x00\n\x00"])
PIECE = st.sampled_from(
    [b"a.jpg", b"../x", b"/", b",", b";", b'"', b"\n", b"\r", b"\0", b"\xe9", b"train", b"\\", b" "]
)


@settings(max_examples=300)
@given(HEADER, st.one_of(st.binary(max_size=60), st.lists(PIECE, max_size=30).map(b"".join)))
@example(b"", b"image\n\xed\xa0\x80.jpg\n")
def test_any_bytes_give_items_failures_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, body: bytes
) -> None:
    """No other exception; everything can be written as JSON; names stay below the root."""
    path = table(tmp_path_factory.getbasetemp(), header + body, "any.csv")
    try:
        found = list(TableSource(path).items())
    except FashionbatchError as error:
        assert len(str(error).splitlines()) == 1
        return
    for item in found:
        item.name.encode("utf-8")
        if isinstance(item, Item):
            json.dumps([item.label, dict(item.metadata)]).encode("utf-8")
            assert os.path.normpath(str(item.path)).startswith(str(path.parent))
            assert ".." not in from_text(item.name).split("/")


# streaming


def test_nothing_is_asked_about_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million questions to a network disk would take hours."""
    source = TableSource(table(tmp_path, "image\na.jpg\nb.jpg\n"))

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("asked the file system")

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "lstat", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert len(list(source.items())) == 2


def peak(path: Path) -> int:
    """Most bytes that Python held while the items went by."""
    source = TableSource(path)
    tracemalloc.start()
    try:
        for _ in source.items():
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_items_are_streamed(tmp_path: Path) -> None:
    """The memory of 20,000 rows is that of 2,000."""
    rows = [f"{i}.jpg,class {i % 9},{'x' * 80}\n" for i in range(20_000)]
    short = table(tmp_path, "image,label,x\n" + "".join(rows[:2_000]), "short.csv")
    long = table(tmp_path, "image,label,x\n" + "".join(rows), "long.csv")
    assert peak(long) < peak(short) + 50_000


def test_a_source_travels_small(tmp_path: Path) -> None:
    """Pickled, before and after its items went by, it reads the same bytes."""
    (tmp_path / "0.jpg").write_bytes(b"x")
    rows = "".join(f"{i}.jpg,class {i % 9}\n" for i in range(2_000))
    source = TableSource(table(tmp_path, "image,label\n" + rows))
    item, *_ = source.items()
    assert isinstance(item, Item)
    travelled = pickle.dumps(source)
    assert len(travelled) < 2_000
    assert pickle.loads(travelled).read(item) == b"x"


def test_the_same_order_each_time(tmp_path: Path) -> None:
    """The file's, duplicates included: the planner decides about those."""
    names = ["b.jpg", "a.jpg", "b.jpg", "c.jpg"]
    source = TableSource(table(tmp_path, "\n".join(["image", *names])))
    expected = list(zip(names, range(2, 6), strict=True))
    assert [(i.name, i.line) for i in source.items()] == expected
    assert [(i.name, i.line) for i in source.items()] == expected
