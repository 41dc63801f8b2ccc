"""The numbers of a data set, counted from columns made by hand and by hypothesis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.errors import ShardError
from fashionbatch.inspection import summary
from fashionbatch.inspection.leakage import by_product
from fashionbatch.inspection.summary import summarize
from fashionbatch.shards.index import Index, IndexRow, group_id
from fashionbatch.shards.manifest import FileRecord, Manifest, ShardRecord
from fashionbatch.shards.read import ShardSet
from fashionbatch.shards.select import Selection
from fashionbatch.sources import Attribute, Failure

SPLITS = ("train", "val", "test", None)
CLASSES = ("dress", "hat", "jeans")
ATTRIBUTES = (
    Attribute(name="floral", type="texture"),
    Attribute(name="dotted", type="texture"),
    Attribute(name="cotton", type="fabric"),
)

Row = Mapping[str, Any]


def data_set(
    rows: Sequence[Row],
    path: Path = Path("nowhere"),
    classes: Sequence[str] = CLASSES,
    **manifest: Any,
) -> ShardSet:
    """A data set without shards: each row says what is not as in the others."""
    made = []
    for number, row in enumerate(rows):
        given = {"key": f"{number:09d}", "name": f"{number}.jpg", "shard": 3, "offset": 512}
        given |= {"size": 100, "label": -1, "extension": "jpg"}
        given["sha256"] = hashlib.sha256(str(number).encode()).digest()
        given |= {k: v for k, v in row.items() if k != "split"}
        if "split" in row:
            given["shard"] = SPLITS.index(row["split"])
        made.append(IndexRow(**given))
    counts = [sum(r.shard == n for r in made) for n in range(4)]
    shards = tuple(
        ShardRecord(file=f"{split or 'all'}.tar", sha256="", split=split, items=count, bytes=9)
        for split, count in zip(SPLITS, counts, strict=True)
    )
    given = {"items": len(made), "failed": 0, "shards": shards, "classes": tuple(classes)}
    return ShardSet(path, Manifest(name="made", **{**given, **manifest}), Index.of(made))


def counted(shards: ShardSet) -> dict[str, Any]:
    """The summary of all items, as it comes out of JSON."""
    told: dict[str, Any] = json.loads(json.dumps(summarize(shards, shards.select())))
    return told


def test_splits_and_classes() -> None:
    """Items are counted per split, class and type; classes come with the largest first."""
    rows = [
        {"split": "train", "label": 2, "size": 10},
        {"split": "train", "label": 2, "size": 20},
        {"split": "train", "label": 0, "size": 30},
        {"split": "test", "label": 2, "size": 40},
        {"split": "test", "label": -1, "size": 50},
        {"split": None, "label": 0, "size": 60},
    ]
    told = counted(data_set(rows, class_types=("full", None, "lower")))
    assert (told["items"], told["labelled"], told["unlabelled"], told["bytes"]) == (6, 5, 1, 210)
    assert told["splits"] == [
        {"split": "train", "items": 3, "labelled": 3, "unlabelled": 0, "classes": 2, "bytes": 60},
        {"split": "test", "items": 2, "labelled": 1, "unlabelled": 1, "classes": 1, "bytes": 90},
        {"split": "all", "items": 1, "labelled": 1, "unlabelled": 0, "classes": 1, "bytes": 60},
    ]
    assert told["classes"] == [
        {"name": "jeans", "type": "lower", "items": 3, "splits": {"train": 2, "test": 1, "all": 0}},
        {"name": "dress", "type": "full", "items": 2, "splits": {"train": 1, "test": 0, "all": 1}},
        {"name": "hat", "type": None, "items": 0, "splits": {"train": 0, "test": 0, "all": 0}},
    ]
    assert told["category_types"] == [
        {"type": "lower", "classes": 1, "items": 3},
        {"type": "full", "classes": 1, "items": 2},
        {"type": None, "classes": 1, "items": 0},
    ]
    assert told["imbalance"] == {
        "largest": {"name": "jeans", "items": 3},
        "smallest": {"name": "dress", "items": 2},
        "ratio": 1.5,
        "empty": 1,
    }


def test_without_labels() -> None:
    """A data set without labels has no classes, types or imbalance."""
    told = counted(data_set([{"split": None}] * 3, classes=()))
    assert (told["labelled"], told["unlabelled"], told["classes"]) == (0, 3, [])
    assert (told["category_types"], told["imbalance"]) == ([], None)
    assert told["splits"][0]["unlabelled"] == 3


def test_selection() -> None:
    """Only the rows given are counted, and only the classes selected are listed."""
    rows = [{"split": s, "label": n % 3, "positive": (n % 3,)} for n in range(12) for s in SPLITS]
    shards = data_set(rows, attributes=ATTRIBUTES)
    selection = Selection(classes=("hat", "jeans"))
    chosen = shards.select("val", selection)
    told = summarize(shards.restricted(selection), chosen)
    assert told["items"] == 8
    assert [(c["name"], c["items"]) for c in told["classes"]] == [("hat", 4), ("jeans", 4)]
    assert {a["name"]: a["positive"] for a in told["attributes"]} == {
        "dotted": 4, "cotton": 4, "floral": 0,
    }  # fmt: skip


def test_images() -> None:
    """Sizes, shapes, bytes and formats; of images packed unchecked the size is not known."""
    rows = [
        {"width": 100, "height": 200, "size": 10, "extension": "jpeg"},
        {"width": 300, "height": 200, "size": 20, "extension": "jpg"},
        {"width": 500, "height": 500, "size": 90, "extension": "png"},
        {"width": 0, "height": 0, "size": 1000, "extension": "webp"},
    ]
    images = counted(data_set(rows))["images"]
    assert images["formats"] == {"jpg": 2, "png": 1, "webp": 1}
    assert images["sizes_unknown"] == 1
    assert images["width"] == {"min": 100, "median": 300, "max": 500}
    assert images["height"] == {"min": 200, "median": 200, "max": 500}
    assert images["megapixels"] == {"min": 0.02, "median": 0.06, "max": 0.25}
    assert images["bytes"] == {"min": 10, "median": 55, "max": 1000}
    assert (images["portrait"], images["landscape"]) == (0.333333, 0.333333)
    unchecked = counted(data_set(rows[3:]))["images"]
    assert unchecked["width"] is unchecked["portrait"] is unchecked["megapixels"] is None


def test_boxes() -> None:
    """The share of a box in its image, of the part that lies in it."""
    rows = [
        {"box": (0, 0, 50, 100), "width": 100, "height": 100},
        {"box": (50, 50, 900, 900), "width": 100, "height": 100},
        {"box": (0, 0, 5, 5)},
        {"width": 100, "height": 100},
    ]
    boxes = counted(data_set(rows))["boxes"]
    assert boxes == {"images": 3, "area_share": {"min": 0.25, "median": 0.375, "max": 0.5}}
    none = counted(data_set(rows[3:]))["boxes"]
    assert none == {"images": 0, "area_share": None}


def test_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes by name and by type, the most frequent first; over the borders of parts too."""
    monkeypatch.setattr(summary, "_TOGETHER", 2)
    rows = [
        {"positive": (0, 2)},
        {"positive": (), "unknown": (1,)},
        {"positive": (2,), "unknown": (0, 1)},
        {},
        {"positive": (1, 2)},
    ]
    told = counted(data_set(rows, attributes=ATTRIBUTES))
    assert told["attributes"] == [
        {"name": "cotton", "type": "fabric", "positive": 3, "unknown": 0},
        {"name": "floral", "type": "texture", "positive": 1, "unknown": 1},
        {"name": "dotted", "type": "texture", "positive": 1, "unknown": 2},
    ]
    assert told["attribute_types"] == [
        {"type": "fabric", "attributes": 1, "positive": 3, "unknown": 0},
        {"type": "texture", "attributes": 2, "positive": 2, "unknown": 3},
    ]


@given(
    st.lists(st.sets(st.integers(0, 2)), min_size=1, max_size=20),
    st.sets(st.integers(0, 19)),
    st.integers(1, 5),
)
def test_attributes_as_counted_one_by_one(
    positives: list[set[int]], chosen: set[int], together: int
) -> None:
    """Whatever rows are chosen, the counts are those of counting them one by one."""
    rows = sorted(n for n in chosen if n < len(positives)) or [0]
    shards = data_set([{"positive": sorted(p)} for p in positives], attributes=ATTRIBUTES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "_TOGETHER", together)
        told = summarize(shards, np.array(rows))["attributes"]
    assert {a["name"]: a["positive"] for a in told} == {
        attribute.name: sum(number in positives[row] for row in rows)
        for number, attribute in enumerate(ATTRIBUTES)
    }


def test_attributes_that_the_manifest_lacks() -> None:
    """An index of other attributes than the manifest's is refused, in one line."""
    shards = data_set([{"positive": (3,)}], attributes=ATTRIBUTES)
    with pytest.raises(ShardError, match="pack the catalogue again") as error:
        counted(shards)
    assert "\n" not in str(error.value)


def test_products_in_several_splits() -> None:
    """Products that are in several splits are counted, with their images and examples."""
    rows = [
        {"split": "train", "group": group_id("a"), "label": 0},
        {"split": "train", "group": group_id("a"), "label": 0},
        {"split": "test", "group": group_id("a"), "label": 0},
        {"split": "test", "group": group_id("b")},
        {"split": "val", "group": group_id("b")},
        {"split": "train", "group": group_id("c")},
        {"split": "train", "group": group_id("c")},
        {"split": "train", "group": group_id("c")},
        {"split": "test"},
        {"split": "train"},
    ]
    products = counted(data_set(rows))["leakage"]["products"]
    assert (products["products"], products["in_several_splits"], products["images"]) == (3, 2, 5)
    assert products["also_in_train"] == {
        "val": {"images": 0, "share": 0.0},
        "test": {"images": 1, "share": 0.333333},
    }
    assert products["examples"] == [
        [
            {"name": "0.jpg", "split": "train", "class": "dress"},
            {"name": "2.jpg", "split": "test", "class": "dress"},
        ],
        [
            {"name": "3.jpg", "split": "test", "class": None},
            {"name": "4.jpg", "split": "val", "class": None},
        ],
    ]


def test_same_bytes() -> None:
    """Copies within and across splits and with different labels; the worst examples come first."""
    one, two, three = (hashlib.sha256(bytes([n])).digest() for n in range(3))
    rows = [
        {"split": "train", "label": 0, "sha256": one},
        {"split": "train", "label": 0, "sha256": one},
        {"split": "train", "label": 0, "sha256": one},
        {"split": "train", "label": 0, "sha256": two},
        {"split": "val", "label": 0, "sha256": two},
        {"split": "test", "label": 1, "sha256": three},
        {"split": "test", "label": 2, "sha256": three},
        {"split": "val", "label": 2},
    ]
    same = counted(data_set(rows))["leakage"]["same_bytes"]
    counts = {k: v for k, v in same.items() if isinstance(v, int)}
    assert counts == {"copies": 4, "within": 3, "across": 1, "conflict": 1}
    assert same["also_in_train"]["val"] == {"images": 1, "share": 0.5}
    assert same["also_in_train"]["test"] == {"images": 0, "share": 0.0}
    named = [[e["name"] for e in example] for example in same["examples"]]
    assert named == [["5.jpg", "6.jpg"], ["3.jpg", "4.jpg"], ["0.jpg", "1.jpg"]]


def test_examples_are_few() -> None:
    """At most five examples, of at most four images each."""
    rows = [{"split": s, "group": g, "label": n % 3} for g in range(1, 9) for s in ("train", "val")
            for n in range(3)]  # fmt: skip
    examples = counted(data_set(rows))["leakage"]["products"]["examples"]
    assert [len(e) for e in examples] == [4] * 5


@given(st.lists(st.sampled_from([0, 1, 7, 2**64 - 1]), min_size=1))
def test_products_as_compared_one_by_one(groups: list[int]) -> None:
    """Items of one product have one number, items without a product none."""
    sets = by_product(np.array(groups, np.uint64)).tolist()
    assert [s == -1 for s in sets] == [g == 0 for g in groups]
    assert len(set(zip(sets, groups, strict=True))) == len(set(groups)) == len(set(sets))


@pytest.fixture
def failing(tmp_path: Path) -> Callable[[str], ShardSet]:
    """``failing(text)`` → a data set with that file of failures."""

    def make(text: str) -> ShardSet:
        (tmp_path / "failures.jsonl").write_text(text)
        record = FileRecord(file="failures.jsonl", sha256="")
        return data_set([{}], tmp_path, failures=record)

    return make


def test_failures(failing: Callable[[str], ShardSet]) -> None:
    """Failures are counted by stage and reason; names in a reason do not tell reasons apart."""
    reasons = [("decode", "the file is empty")] * 3
    reasons += [("source", f"the same bytes as 'it\\'s {n}.jpg'") for n in range(2)]
    reasons += [("source", f'the same bytes as "it\'s {n}.jpg"') for n in range(2)]
    reasons += [("decode", f"reason {n}") for n in range(20)]
    lines = [json.dumps({"name": "x", "stage": s, "reason": r}) for s, r in reasons]
    failures = counted(failing("\n".join(lines) + "\n"))["failures"]
    assert failures["count"] == 27
    assert len(failures["reasons"]) == 10
    assert failures["reasons"][:2] == [
        {"stage": "source", "reason": "the same bytes as …", "count": 4},
        {"stage": "decode", "reason": "the file is empty", "count": 3},
    ]


@pytest.mark.parametrize("text", ["{", "[]\n", "{}\n", "\x00"])
def test_damaged_failures(failing: Callable[[str], ShardSet], text: str) -> None:
    """A list of failures that cannot be read is an error of one line that names the file."""
    with pytest.raises(ShardError, match="failures.jsonl") as error:
        counted(failing(text))
    assert "\n" not in str(error.value)


def test_missing_failures(failing: Callable[[str], ShardSet], tmp_path: Path) -> None:
    """The same where it is missing."""
    shards = failing("")
    (tmp_path / "failures.jsonl").unlink()
    with pytest.raises(ShardError, match="failures.jsonl"):
        counted(shards)


def test_damaged_shards_and_notes() -> None:
    """Damaged shards are listed with their items; what a foreign tar holds besides is told."""
    shards = data_set([{"split": "train"}, {"split": "val"}])
    failure = Failure(name="a", stage="shard", reason="a symbolic link")
    shards = ShardSet(
        shards.path, shards.manifest, shards.index,
        damaged={1: "val.tar is missing"}, skipped={0: [failure]}, notes={0: ["two", "notes"]},
    )  # fmt: skip
    told = counted(shards)
    assert told["damaged"] == [{"shard": "val.tar", "items": 1, "reason": "val.tar is missing"}]
    assert told["notes"] == ["two", "notes"]
    assert told["failures"] == {
        "count": 1,
        "reasons": [{"stage": "shard", "reason": "a symbolic link", "count": 1}],
    }
