"""DeepFashion's fine set: 26 attributes of which all are known."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from fashionbatch.errors import SourceError
from fashionbatch.sources.deepfashion import DeepFashionSource
from fashionbatch.sources.deepfashion_files import read_attributes
from tests.sources.deepfashion_items import edit, expected, items, replaced
from tests.sources.deepfashion_tree import (
    Image,
    Photo,
    images,
    remove,
    write_tree,
)


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
