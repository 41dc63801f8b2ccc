"""DeepFashion: every trap of its files, and files that were damaged."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fashionbatch.errors import SourceError, UnknownNameError, UsageError
from fashionbatch.sources import deepfashion_files
from fashionbatch.sources.base import Attribute, Failure, Item
from fashionbatch.sources.deepfashion import DeepFashionSource, is_deepfashion
from fashionbatch.sources.deepfashion_files import read_attributes, read_categories, read_values
from tests.sources.deepfashion_tree import (
    CATEGORIES,
    LANDMARKS,
    UNUSED,
    Image,
    Photo,
    images,
    remove,
    write_tree,
    write_values,
)

TYPE_NAMES = {1: "upper", 2: "lower", 3: "full"}
LISTS = (
    "Anno/list_category_cloth.txt",
    "Anno/list_category_img.txt",
    "Anno/list_attr_cloth.txt",
    "Anno/list_attr_img.txt",
    "Anno/list_bbox.txt",
    "Anno/list_landmarks.txt",
    "Eval/list_eval_partition.txt",
)


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


@pytest.fixture
def few(tmp_path: Path, photo: Photo) -> tuple[Path, list[Image]]:
    """A tree of one image per category in use and 40 attributes."""
    shown = images(1, width=40)
    return tmp_path, write_tree(tmp_path, photo=photo, shown=shown)


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


@pytest.mark.parametrize("fixed_width", [True, False])
def test_items_say_what_the_files_say(tmp_path: Path, photo: Photo, fixed_width: bool) -> None:
    """All files, joined by name whatever their order; padded rows, zero-padded numbers; 1,000
    attributes of which positive, negative and unknown are told apart."""
    shown = write_tree(tmp_path, photo=photo, fixed_width=fixed_width)
    found = items(tmp_path)
    assert found == [expected(image, tmp_path, line) for line, image in enumerate(shown, start=3)]
    assert all(len(i.positive) == 3 and len(i.unknown) == 40 for i in found)
    source = DeepFashionSource(tmp_path)
    assert source.read(found[5]) == photo(5, (48, 64))


def test_categories_attributes_and_types(tmp_path: Path, photo: Photo) -> None:
    """Labels count from 1 and 46 of 50 are used; names of attributes contain blanks."""
    write_tree(tmp_path, photo=photo)
    source = DeepFashionSource(tmp_path)
    assert Counter(source.class_types.values()) == {"upper": 20, "lower": 16, "full": 14}
    assert source.class_types["Dress"] == "full" and source.class_types["Jeans"] == "lower"
    assert len(source.attributes) == 1000
    assert source.attributes[3] == Attribute(name="abstract chevron print", type="texture")
    assert source.attributes[0] == Attribute(name="a-line", type="shape")
    assert {a.type for a in source.attributes} == {"texture", "fabric", "shape", "part", "style"}
    labels = {i.label for i in source.items() if isinstance(i, Item)}
    assert labels == set(CATEGORIES) - {CATEGORIES[n - 1] for n in UNUSED}
    assert len(labels) == 46


def test_a_product_spans_all_splits(few: tuple[Path, list[Image]]) -> None:
    """Photographs of one product share a group, in whatever split they are."""
    splits: dict[str | None, set[str | None]] = {}
    for item in items(few[0]):
        splits.setdefault(item.group, set()).add(item.split)
    assert {"train", "val", "test"} in splits.values()


@pytest.mark.parametrize("anno", ["Anno", "Anno_coarse"])
@pytest.mark.parametrize("image_folder", ["img", "Img/img"])
def test_layouts_of_the_releases(
    tmp_path: Path, photo: Photo, anno: str, image_folder: str
) -> None:
    """Old and new names of folders; an image's name begins with img/ in each."""
    shown = images(1, width=40)[:9]
    write_tree(tmp_path, photo=photo, shown=shown, anno=anno, image_folder=image_folder)
    assert is_deepfashion(tmp_path)
    found = items(tmp_path)
    assert [i.name for i in found] == [i.name for i in shown]
    assert [i.read() for i in found] == [photo(n, (48, 64)) for n in range(9)]


def test_other_folders_are_not_claimed(tmp_path: Path) -> None:
    """A folder called Anno is not enough, and neither is a folder of photographs."""
    (tmp_path / "Anno").mkdir()
    (tmp_path / "img").mkdir()
    assert not is_deepfashion(tmp_path)
    assert not is_deepfashion(tmp_path / "nowhere")


def test_number_of_landmarks_follows_the_clothes_type(few: tuple[Path, list[Image]]) -> None:
    """6 upper, 4 lower, 8 full; visible, occluded and cut off are kept; so with a variation type
    in a column more, as some releases have it."""
    root, shown = few
    assert [len(i.landmarks) for i in items(root)] == [LANDMARKS[i.type] for i in shown]
    assert {v for i in items(root) for v, _, _ in i.landmarks} == {0, 1, 2}
    before = items(root)
    file = root / "Anno/list_landmarks.txt"

    def widen(lines: list[bytes]) -> None:
        lines[2:] = [re.sub(rb"(\.jpg +\d)", rb"\1 4", line) for line in lines[2:]]

    edit(file, widen)
    assert items(root) == before


def test_files_that_may_be_missing(few: tuple[Path, list[Image]]) -> None:
    """Without them items lack what they say."""
    root, shown = few
    remove(root, "Anno/list_bbox.txt", "Anno/list_landmarks.txt", "Eval/list_eval_partition.txt")
    remove(root, "Anno/list_attr_img.txt", "Anno/list_attr_cloth.txt")
    found = items(root)
    assert [(i.name, i.label) for i in found] == [(i.name, CATEGORIES[i.label - 1]) for i in shown]
    assert DeepFashionSource(root).attributes == []
    for item in found:
        assert (item.split, item.box, item.landmarks) == (None, None, ())
        assert (item.positive, item.unknown) == ((), ())


def test_image_missing_from_a_file_lacks_what_it_says(few: tuple[Path, list[Image]]) -> None:
    """No attributes stated means all unknown, not all negative; the other images keep theirs."""
    root, shown = few
    name = shown[4].name.encode()

    def drop(lines: list[bytes]) -> None:
        lines[:] = [line for line in lines if not line.startswith(name)]

    for file in (*LISTS[3:6], LISTS[6]):
        edit(root / file, drop, stated=True)
    found = items(root)
    assert found[4].box is None and found[4].landmarks == () and found[4].split is None
    assert found[4].positive == () and found[4].unknown == tuple(range(40))
    assert "clothes_type" not in found[4].metadata
    assert [i for n, i in enumerate(found) if n != 4] == [
        expected(i, root, n + 3) for n, i in enumerate(shown) if n != 4
    ]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("Anno/list_category_cloth.txt", "list_category_cloth.txt is missing"),
        ("Anno/list_category_img.txt", "list_category_img.txt"),
        ("Anno/list_attr_cloth.txt", "list_attr_cloth.txt is missing"),
        ("img", "neither img nor Img/img"),
    ],
)
def test_files_that_must_be_there(
    few: tuple[Path, list[Image]], missing: str, message: str
) -> None:
    """The error says which file is needed."""
    remove(few[0], missing)
    with pytest.raises(SourceError, match=message):
        items(few[0])


def test_photographs_are_not_looked_for(few: tuple[Path, list[Image]]) -> None:
    """A missing one fails when it is read, as in other catalogues."""
    root, shown = few
    remove(root, shown[2].name)
    found = items(root)
    assert len(found) == len(shown)
    with pytest.raises(FileNotFoundError):
        found[2].read()


@pytest.mark.parametrize("file", LISTS)
@pytest.mark.parametrize("change", ["shorter", "longer"])
def test_file_that_was_cut_short(few: tuple[Path, list[Image]], file: str, change: str) -> None:
    """The first line states the rows; the error names the file and both counts."""
    root, shown = few
    stated = {"category_cloth": 50, "attr_cloth": 40}.get(file[10:-4], len(shown))
    if change == "shorter":
        edit(root / file, lambda lines: lines.pop())
        message = f"{Path(file).name} says that it has {stated} rows and has {stated - 1}"
    else:
        edit(root / file, lambda lines: lines.__setitem__(0, b"%d" % (stated - 1)))
        message = f"{Path(file).name} says that it has {stated - 1} rows and has {stated}"
    with pytest.raises(SourceError, match=message):
        items(root)


@pytest.mark.parametrize("file", LISTS)
def test_first_line_that_is_no_number(few: tuple[Path, list[Image]], file: str) -> None:
    """A file whose first line was lost is not read with a row too few."""
    edit(few[0] / file, lambda lines: lines.pop(0))
    with pytest.raises(SourceError, match=rf"{Path(file).name}, line 1: .* is not a number"):
        items(few[0])


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "message"),
    [
        (LISTS[0], 5, rb"\d *$", b"4", "4 is not between 1 and 3"),
        (LISTS[0], 5, rb" +\d *$", b"", "has 1 fields instead of 2"),
        (LISTS[1], 5, rb"\d+ *$", b"0", "0 is not between 1 and 50"),
        (LISTS[1], 5, rb"\d+ *$", b"51", "51 is not between 1 and 50"),
        (LISTS[1], 5, rb"\d+ *$", b"3.0", "'3.0' is not a whole number"),
        (LISTS[1], 5, rb"\d+ *$", b"3 4", "has 3 fields instead of 2"),
        (LISTS[1], 5, rb" +\d+ *$", b"", "has 1 fields instead of 2"),
        (LISTS[2], 5, rb"\d *$", b"6", "6 is not between 1 and 5"),
        (LISTS[3], 5, rb"-1", b"2", "'2' is not -1, 0 or 1"),
        (LISTS[3], 5, rb"-1", b"-0", "'-0' is not -1, 0 or 1"),
        (LISTS[3], 5, rb"-1", b"01", "'01' is not -1, 0 or 1"),
        (LISTS[3], 5, rb"-1", b"-11", "'-11' is not -1, 0 or 1"),
        (LISTS[3], 5, rb"-1", b"", "has 40 fields instead of 41"),
        (LISTS[3], 5, rb"-1", b"-1 -1", "has 42 fields instead of 41"),
        (LISTS[4], 5, rb"\d+ *$", b"1 2", "has 6 fields instead of 5"),
        (LISTS[4], 5, rb"\d+ *$", b"", "has 4 fields instead of 5"),
        (LISTS[4], 5, rb"\d+ *$", b"1_0", "'1_0' is not a whole number"),
        (LISTS[4], 5, rb"\d+ *$", b"9999999", "9999999 is not between"),
        (LISTS[5], 5, rb"(jpg +)\d", rb"\g<1>4", "clothes type is not 1, 2 or 3"),
        (LISTS[5], 5, rb"(jpg +\d +)\d", rb"\g<1>3", "visibility is not 0, 1 or 2"),
        (LISTS[5], 5, rb"\d+ *$", b"", "has 23 numbers of landmarks instead of 24"),
        (LISTS[5], 5, rb"\d+ *$", b"1 1 1", "has 26 numbers of landmarks instead of 24"),
        (LISTS[6], 5, rb"\w+ *$", b"all", "'all' is not train, val or test"),
        (LISTS[6], 5, rb"\w+ *$", b"val test", "has 3 fields instead of 2"),
        (LISTS[6], 5, rb" \w+ *$", b"", "has 1 fields instead of 2"),
    ],
)
def test_row_that_breaks_the_format(
    few: tuple[Path, list[Image]], file: str, line: int, old: bytes, new: bytes, message: str
) -> None:
    """The error names file and line; nothing is guessed."""
    root, _ = few
    replaced(root / file, line, old, new)
    with pytest.raises(SourceError, match=rf"{Path(file).name}, line {line}: .*{message}"):
        items(root)


@pytest.mark.parametrize("file", [LISTS[1], *LISTS[3:]])
def test_image_that_is_listed_twice(few: tuple[Path, list[Image]], file: str) -> None:
    """Which of the rows holds is not guessed."""
    edit(few[0] / file, lambda lines: lines.append(lines[2]), stated=True)
    with pytest.raises(SourceError, match=rf"{Path(file).name}, line 49: .*second time"):
        items(few[0])


def test_partition_without_category_is_recorded(few: tuple[Path, list[Image]]) -> None:
    """An image that only the partition knows is a failure with its line, after all items."""
    root, shown = few
    line = b"img/Lost_Dress/img_00000001.jpg    train"
    edit(root / LISTS[6], lambda lines: lines.insert(6, line), stated=True)
    found = list(DeepFashionSource(root).items())
    assert len(found) == len(shown) + 1
    assert found[-1] == Failure(
        name="img/Lost_Dress/img_00000001.jpg",
        stage="source",
        reason="list_category_img.txt gives it no category",
        line=7,
    )


def test_odd_names_are_kept(few: tuple[Path, list[Image]]) -> None:
    """Bytes that are not UTF-8, and blanks within a name, join all files and find their image."""
    root, shown = few
    odd = {shown[1].name: b"img/caf\xe9 \\ noir/img 1  b.jpg", shown[2].name: b"img/1/2.jpg"}
    for old, new in odd.items():
        target = root / os.fsdecode(new)
        target.parent.mkdir(parents=True)
        (root / old).rename(target)
        for file in (LISTS[1], *LISTS[3:]):
            path = root / file
            path.write_bytes(path.read_bytes().replace(old.encode(), new))
    found = items(root)
    assert found[1].name == "img/caf\\xe9 \\\\ noir/img 1  b.jpg"
    assert found[1].group == "img/caf\\xe9 \\\\ noir"
    for number in (1, 2):
        want = expected(shown[number], root, number + 3)
        assert found[number].positive == want.positive and found[number].unknown == want.unknown
        assert found[number].landmarks == want.landmarks and found[number].box == want.box
        assert found[number].split == want.split
        assert found[number].read()


@pytest.mark.parametrize("name", [b"/etc/passwd.jpg", b"img/../../secret.jpg", b"img/a\0.jpg"])
def test_names_outside_of_the_folder_are_refused(
    few: tuple[Path, list[Image]], name: bytes
) -> None:
    """A list from a stranger cannot make us read any other file."""
    replaced(few[0] / LISTS[1], 4, rb"img/\S+", name.replace(b"\\", b"\\\\"))
    with pytest.raises(SourceError, match="line 4: .* is not a file of the catalogue"):
        items(few[0])


def test_a_list_of_nothing_is_refused(few: tuple[Path, list[Image]]) -> None:
    """Zero rows, as stated, are no catalogue."""
    edit(few[0] / LISTS[1], lambda lines: lines.__delitem__(slice(2, None)), stated=True)
    with pytest.raises(SourceError, match="lists no images"):
        items(few[0])


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    """Neither a traceback nor all of a large file in memory."""
    with pytest.raises(SourceError, match="cannot be read"):
        read_categories(tmp_path / "nowhere.txt")
    path = tmp_path / "list_attr_img.txt"
    path.write_bytes(b"3\nimage_name\n" + bytes(5 << 20))
    with pytest.raises(SourceError, match="a line of over"):
        list(read_values(path, 1000, listed=True))


def test_source_travels_small(tmp_path: Path, photo: Photo) -> None:
    """Worker processes get the source without the rows, and read the same bytes."""
    write_tree(tmp_path, photo=photo)
    source = DeepFashionSource(tmp_path)
    first = next(source.items())
    assert isinstance(first, Item)
    travelled = pickle.dumps(source)
    assert len(travelled) < 100_000
    assert pickle.loads(travelled).read(pickle.loads(pickle.dumps(first))) == source.read(first)


def test_choice_of_the_set(tmp_path: Path, photo: Photo) -> None:
    """auto is coarse where there, else fine; what is not there is refused."""
    shown = images(1, width=40)
    write_tree(tmp_path / "both", photo=photo, shown=shown, fine=True)
    write_tree(tmp_path / "fine", photo=photo, shown=shown, fine=True, coarse=False)
    assert len(DeepFashionSource(tmp_path / "both").attributes) == 40
    assert len(DeepFashionSource(tmp_path / "both", annotations="coarse").attributes) == 40
    assert len(DeepFashionSource(tmp_path / "both", annotations="fine").attributes) == 26
    assert len(DeepFashionSource(tmp_path / "fine").attributes) == 26
    assert is_deepfashion(tmp_path / "fine")
    with pytest.raises(SourceError, match="Anno/list_category_img.txt"):
        DeepFashionSource(tmp_path / "fine", annotations="coarse")
    with pytest.raises(SourceError, match=r"Anno_fine/train.txt"):
        DeepFashionSource(tmp_path / "both/img", annotations="fine")
    with pytest.raises(UnknownNameError, match="did you mean 'fine'"):
        DeepFashionSource(tmp_path / "fine", annotations="fime")
    with pytest.raises(UsageError, match="not a folder"):
        DeepFashionSource(tmp_path / "nowhere")


@pytest.fixture
def fine(tmp_path: Path, photo: Photo) -> tuple[Path, list[Image]]:
    """A tree of the fine set alone; its images in the order of their splits."""
    shown = write_tree(tmp_path, photo=photo, shown=images(1, width=40), fine=True, coarse=False)
    return tmp_path, sorted(shown, key=lambda i: ("train", "val", "test").index(i.split))


def test_fine_set(fine: tuple[Path, list[Image]]) -> None:
    """Aligned by line and without headers; 0 is negative there; absent landmarks are cut off."""
    root, shown = fine
    lines = Counter[str]()
    for item, image in zip(items(root), shown, strict=True):
        lines[image.split] += 1
        points = [(int(not x and not y) * 2, x, y) for _, x, y in image.landmarks]
        full = expected(image, root, lines[image.split])
        assert item == dataclasses.replace(
            full,
            positive=tuple(i for i in full.positive if i < 26),
            unknown=(),
            landmarks=(*points, *[(2, 0, 0)] * (8 - len(points))),
            metadata={"product": full.metadata["product"]},
        )
    assert sum(len(i.positive) for i in items(root)) > 0


def test_fine_types(fine: tuple[Path, list[Image]]) -> None:
    """Classes have their types; attributes those of the fine set's six groups, or of the five."""
    source = DeepFashionSource(fine[0])
    assert Counter(source.class_types.values()) == {"upper": 20, "lower": 16, "full": 14}
    types = {a.name: a.type for a in source.attributes}
    assert (types["lattice"], types["sleeveless"], types["denim"], types["loose"]) == (
        ("texture", "sleeve", "fabric", "fit")
    )
    file = fine[0] / "Anno_fine/list_attr_cloth.txt"
    file.write_text("2\nattribute_name attribute_type\nfloral  1\ndenim  2\n")
    assert [a.type for a in read_attributes(file, fine=True)] == ["texture", "fabric"]


def test_fine_categories_come_from_the_coarse_set(
    fine: tuple[Path, list[Image]], photo: Photo
) -> None:
    """Where the fine folder does not name them."""
    root, _ = fine
    before = items(root)
    remove(root, "Anno_fine/list_category_cloth.txt")
    with pytest.raises(SourceError, match=r"Anno_fine/list_category_cloth.txt is missing"):
        items(root)
    write_tree(root, photo=photo, shown=images(1, width=40), anno="Anno_coarse")
    assert items(root, "fine") == before


def test_fine_landmarks_with_visibility(fine: tuple[Path, list[Image]]) -> None:
    """Triples, as many as the clothes type has, are taken as they are."""
    root, shown = fine
    for split in ("train", "val", "test"):
        rows = [i.landmarks for i in shown if i.split == split]
        text = "\n".join(" ".join(f"{v} {x} {y}" for v, x, y in row) for row in rows)
        (root / f"Anno_fine/{split}_landmarks.txt").write_text(text)
    assert [i.landmarks for i in items(root)] == [i.landmarks for i in shown]


@pytest.mark.parametrize("what", ["cate", "attr", "bbox", "landmarks"])
@pytest.mark.parametrize("change", ["shorter", "longer"])
def test_fine_files_of_different_length(
    fine: tuple[Path, list[Image]], what: str, change: str
) -> None:
    """A lost line would give every image after it another one's annotations."""
    path = fine[0] / f"Anno_fine/val_{what}.txt"
    edit(path, lambda lines: lines.pop(3) if change == "shorter" else lines.append(lines[3]))
    with pytest.raises(SourceError, match=rf"val_{what}.txt has \d+ rows and .*/val.txt \d+"):
        items(fine[0])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train_cate.txt", rb"\d+", b"51", "51 is not between 1 and 50"),
        ("train_cate.txt", rb"\d+", b"1 2", "has 2 fields instead of 1"),
        ("val_attr.txt", rb"0", b"-1", "'-1' is not 0 or 1"),
        ("val_attr.txt", rb"0", b"", "has 25 fields instead of 26"),
        ("val_attr.txt", rb"0", b"0 0", "has 27 fields instead of 26"),
        ("test_bbox.txt", rb"\d+ *$", b"", "has 3 fields instead of 4"),
        ("test_landmarks.txt", rb"\d+ *$", b"", "has 15 numbers instead of 16"),
        ("test_landmarks.txt", rb"\d+ *$", b"x", "'x' is not a whole number"),
    ],
)
def test_fine_row_that_breaks_the_format(
    fine: tuple[Path, list[Image]], file: str, old: bytes, new: bytes, message: str
) -> None:
    """The error names file and line."""
    replaced(fine[0] / "Anno_fine" / file, 4, old, new)
    with pytest.raises(SourceError, match=f"{file}, line 4: .*{message}"):
        items(fine[0])


def test_fine_files_that_may_be_missing(fine: tuple[Path, list[Image]]) -> None:
    """Attributes of one split alone leave those of the others unknown; categories must be there."""
    root, shown = fine
    for name in ("train_bbox", "train_landmarks", "train_attr"):
        remove(root, f"Anno_fine/{name}.txt")
    for item, image in zip(items(root), shown, strict=True):
        known = image.split != "train"
        assert (item.box is not None, bool(item.landmarks)) == (known, known)
        assert item.unknown == (() if known else tuple(range(26)))
    remove(root, "Anno_fine/list_attr_cloth.txt")
    with pytest.raises(SourceError, match="list_attr_cloth.txt is missing"):
        items(root)
    remove(root, "Anno_fine/val_attr.txt", "Anno_fine/test_attr.txt")
    assert {i.unknown for i in items(root)} == {()}
    remove(root, "Anno_fine/val_cate.txt")
    with pytest.raises(SourceError, match="val_cate.txt cannot be read"):
        items(root)


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
