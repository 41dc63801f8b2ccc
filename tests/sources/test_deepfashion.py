"""DeepFashion: every trap of its files, and files that were damaged."""

from __future__ import annotations

import os
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

from fashionbatch.errors import SourceError, UnknownNameError, UsageError
from fashionbatch.sources.base import Attribute, Failure, Item
from fashionbatch.sources.deepfashion import DeepFashionSource, is_deepfashion
from fashionbatch.sources.deepfashion_files import read_categories, read_values
from tests.sources.deepfashion_items import edit, expected, items, replaced
from tests.sources.deepfashion_tree import (
    CATEGORIES,
    LANDMARKS,
    UNUSED,
    Image,
    Photo,
    images,
    remove,
    write_tree,
)

LISTS = (
    "Anno/list_category_cloth.txt",
    "Anno/list_category_img.txt",
    "Anno/list_attr_cloth.txt",
    "Anno/list_attr_img.txt",
    "Anno/list_bbox.txt",
    "Anno/list_landmarks.txt",
    "Eval/list_eval_partition.txt",
)


@pytest.fixture
def few(tmp_path: Path, photo: Photo) -> tuple[Path, list[Image]]:
    """A tree of one image per category in use and 40 attributes."""
    shown = images(1, width=40)
    return tmp_path, write_tree(tmp_path, photo=photo, shown=shown)


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
