"""Folders of tar files as a catalogue: names, labels, splits, and what survives a round trip."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources import Attribute, Failure, Item, open_source
from fashionbatch.sources.folder import FolderSource
from fashionbatch.sources.webdataset import WebdatasetSource, is_webdataset, split_of, tars

Photo = Callable[..., bytes]
Write = Callable[..., Any]


def put(path: Path, *members: tuple[str, bytes]) -> Path:
    """Writes a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(path: Path, **options: Any) -> tuple[list[Item], list[Failure]]:
    source: WebdatasetSource = pickle.loads(pickle.dumps(WebdatasetSource(path, **options)))
    found = list(source.items())
    return (
        [i for i in found if isinstance(i, Item)],
        [f for f in found if isinstance(f, Failure)],
    )


def test_items_of_several_shards(tmp_path: Path, photo: Photo) -> None:
    """Keys start anew in each shard, names do not; bytes, labels and JSON are the sample's."""
    about = {"label": "hat", "price": 9, "width": 1, "height": 2, "name": "Blue hat"}
    put(tmp_path / "b.tar", ("0.jpg", photo(2)), ("0.cls", b"3"))
    put(tmp_path / "a.tar", ("0.jpg", photo(0)), ("0.json", json.dumps(about).encode()),
        ("d/1.png", photo(1, kind="PNG")))  # fmt: skip
    items, failures = read(tmp_path)
    assert not failures
    assert [(i.name, i.label, i.split) for i in items] == [
        ("a/0.jpg", "hat", None),
        ("a/d/1.png", None, None),
        ("b/0.jpg", "3", None),
    ]
    assert [i.read() for i in items] == [photo(0), photo(1, kind="PNG"), photo(2)]
    assert [dict(i.metadata) for i in items] == [{"price": 9, "name": "Blue hat"}, {}, {}]


def test_json_label_that_is_none_stays(tmp_path: Path, photo: Photo) -> None:
    """What could not be used as a label is not lost."""
    put(tmp_path / "a.tar", ("0.jpg", photo()), ("0.json", b'{"label":["x","y"]}'))
    ((item,), _) = read(tmp_path)
    assert item.label is None and item.metadata == {"label": ["x", "y"]}


def test_one_tar_file(tmp_path: Path, photo: Photo) -> None:
    """Alone it gives the same names and split as in its folder."""
    path = put(tmp_path / "x-val-0.tar", ("a.jpg", photo()))
    put(tmp_path / "y.tar", ("a.jpg", photo()))
    assert [(i.name, i.split) for i in read(path)[0]] == [("x-val-0/a.jpg", "val")]
    assert read(path)[0] == read(tmp_path)[0][:1]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet-train-000000.tar", "train"),
        ("train.tar", "train"),
        ("x_VALIDATION.1.tar", "val"),
        ("val/000000.tar", "val"),
        ("Testing/000000.tar", "test"),
        ("train/x-val-1.tar", "val"),
        ("000000.tar", None),
        ("latest-1.tar", None),
        ("train-val-0.tar", None),
    ],
)
def test_split_of_a_tar(name: str, split: str | None) -> None:
    """Its own name goes before its folder's; two splits in one name say nothing."""
    assert split_of(name) == split


def test_tars_of_a_folder(tmp_path: Path, photo: Photo) -> None:
    """Also in split folders, in the order of their names; no others, no folders, no hidden ones."""
    names = ["b.tar", "a.tar", "train/0.tar", "Validation/0.tar", "sh#1.tar"]
    for name in (*names, "other/0.tar", ".c.tar", "notes.txt", "train/.x.tar"):
        put(tmp_path / name, ("0.jpg", photo()))
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    assert tars(tmp_path) == [(name, tmp_path / name) for name in sorted(names)]
    assert tars(tmp_path / "a.tar") == [("a.tar", tmp_path / "a.tar")]
    assert tars(tmp_path / "notes.txt") == tars(tmp_path / "nowhere.tar") == []
    assert {i.name: i.split for i in read(tmp_path)[0]} == {
        "Validation/0/0.jpg": "val",
        "a/0.jpg": None,
        "b/0.jpg": None,
        "sh#1/0.jpg": None,
        "train/0/0.jpg": "train",
    }


def test_what_is_recognized(tmp_path: Path, photo: Photo) -> None:
    """Tar files, alone or in a folder; a tar file among photographs is not the catalogue."""
    path = put(tmp_path / "a/x.tar", ("0.jpg", photo()))
    put(tmp_path / "b/train/x.tar", ("0.jpg", photo()))
    for good in (path, tmp_path / "a", tmp_path / "b"):
        assert is_webdataset(good)
        assert isinstance(open_source(good), WebdatasetSource)
    (tmp_path / "empty").mkdir()
    put(tmp_path / "c/x.tar", ("0.jpg", photo()))
    (tmp_path / "c/1.JPG").write_bytes(photo())
    put(tmp_path / "d/x.tar", ("0.jpg", photo()))
    (tmp_path / "d/dress").mkdir()
    (tmp_path / "d/dress/1.png").write_bytes(photo())
    for bad in (tmp_path, tmp_path / "empty", tmp_path / "nowhere.tar", tmp_path / "c/1.JPG",
                tmp_path / "c", tmp_path / "d"):  # fmt: skip
        assert not is_webdataset(bad)
    assert isinstance(open_source(tmp_path / "d"), FolderSource)
    with pytest.raises(UsageError, match="no tar file"):
        WebdatasetSource(tmp_path / "empty")


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line instead of a traceback."""

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"cannot be listed \(Permission denied\)"):
        tars(tmp_path)


def test_class_names(tmp_path: Path, photo: Photo) -> None:
    """They name numbers; texts stay; a number without a name is an error."""
    names = tmp_path / "names.txt"
    names.write_text("hat\nshoe\n")
    put(tmp_path / "a.tar", ("0.jpg", photo()), ("0.cls", b"1"), ("1.jpg", photo()),
        ("1.json", b'{"label":0}'), ("2.jpg", photo()), ("2.cls", b"bag"),
        ("3.jpg", photo()))  # fmt: skip
    items, _ = read(tmp_path, class_names=names)
    assert [i.label for i in items] == ["shoe", "hat", "bag", None]
    for label in (b"2", b"-1"):
        put(tmp_path / "a.tar", ("0.jpg", photo()), ("0.cls", label))
        with pytest.raises(UsageError, match=f"label {label.decode()}"):
            read(tmp_path, class_names=names)
    names.write_text("hat\nhat\n")
    with pytest.raises(UsageError, match="'hat' in lines"):
        WebdatasetSource(tmp_path, class_names=names)


def test_damaged_tar_is_recorded_and_the_others_read(tmp_path: Path, photo: Photo) -> None:
    """Faults 5 to 11: E fails the shard by name; S is recorded by the item's name."""
    put(tmp_path / "train/b.tar", ("0.jpg", photo()), ("1.json", b"{}"))
    whole = put(tmp_path / "train/a.tar", ("0.jpg", photo())).read_bytes()
    (tmp_path / "train/a.tar").write_bytes(whole[:-10000])
    items, failures = read(tmp_path)
    assert [i.name for i in items] == ["train/b/0.jpg"]
    assert [(f.name, f.stage) for f in failures] == [
        ("train/a.tar", "shard"),
        ("train/b/1.json", "shard"),
    ]
    assert "a.tar" in failures[0].reason and "\n" not in failures[0].reason


@pytest.mark.parametrize("data", [b"", b"<html>" * 200, None], ids=["empty", "html", "no-images"])
def test_nothing_usable_is_refused(tmp_path: Path, data: bytes | None) -> None:
    """All damaged, or without images: one line with the reason."""
    path = put(tmp_path / "a.tar", ("readme.txt", b"x"))
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SourceError, match="no images|not a tar") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_notes_name_their_file(tmp_path: Path, photo: Photo) -> None:
    """What the scan noted is there after reading, once, however often it is read."""
    put(tmp_path / "a.tar", ("0.jpg", photo()), ("0.pyd", b"x"))
    source = WebdatasetSource(tmp_path)
    for _ in range(2):
        list(source.items())
    (note,) = source.notes
    assert note.startswith("a.tar: 1 members") and "unpickle" in note


def test_shards_are_read_one_by_one(tmp_path: Path, photo: Photo) -> None:
    """The first items come before the second file is looked at."""
    put(tmp_path / "a.tar", ("0.jpg", photo()))
    put(tmp_path / "b.tar", ("0.jpg", photo()))
    items = WebdatasetSource(tmp_path).items()
    assert next(items).name == "a/0.jpg"
    (tmp_path / "b.tar").write_bytes(b"damaged since")
    failure = next(items)
    assert isinstance(failure, Failure) and failure.name == "b.tar"


def test_names_that_are_not_utf8(tmp_path: Path, photo: Photo) -> None:
    """Fault 18: the tar's name and the member's become text."""
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tar")), ("0.jpg", photo()))
    ((item,), _) = read(tmp_path)
    assert item.name == "caf\\xe9/0.jpg" and item.read() == photo()


FULL = Item(
    name="dress/1.jpg",
    data=b"one",
    label="dress",
    split="train",
    group="SKU-1",
    positive=(0, 2),
    unknown=(1,),
    box=(1, 2, 3, 4),
    landmarks=((0, 5, 6), (2, 7, 8)),
    metadata={"price": 9.5},
)
PLAIN = Item(name="hat/2.jpg", data=b"two", label="hat", split="test")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A data set of our own, as shards/README.md describes it."""
    root = tmp_path / "ours"
    for split, item in (("train", FULL), ("test", PLAIN)):
        about: dict[str, Any] = {"name": item.name, "label": item.label, "split": split,
                                 "width": 10, "height": 20, "original": [30, 60]}  # fmt: skip
        for field in ("group", "positive", "unknown", "box", "landmarks", "metadata"):
            if value := getattr(item, field):
                about[field] = value
        put(root / f"{split}-000000.tar", ("000000000.jpg", item.data or b""),
            ("000000000.json", json.dumps(about).encode()), ("000000000.cls", b"0"))  # fmt: skip
    manifest = {
        "format": "fashionbatch-shards",
        "format_version": 1,
        "classes": ["dress", "hat"],
        "class_types": ["full", None],
        "attributes": [{"name": n, "type": "texture"} for n in ("a", "b", "c")],
        "shards": [{"file": f"{split}-000000.tar"} for split in ("train", "test")],
    }
    (root / "dataset.json").write_text(json.dumps(manifest))
    return root


def test_our_own_data_set_keeps_everything(ours: Path) -> None:
    """Names, labels, splits, products, attributes, boxes, landmarks and metadata come back."""
    source = WebdatasetSource(ours)
    assert source.class_types == {"dress": "full"}
    assert list(source.attributes) == [Attribute(name=n, type="texture") for n in ("a", "b", "c")]
    items, failures = read(ours)
    assert not failures
    for item, expected in zip(items, (FULL, PLAIN), strict=True):
        assert item.read() == expected.data
        for field in Item.__slots__:
            if field not in ("path", "data", "offset", "size"):
                assert getattr(item, field) == getattr(expected, field), field
    assert read(ours / "test-000000.tar")[0] == items[1:]


def test_round_trip_through_our_writer(
    catalog: Callable[..., Path], pack: Callable[..., tuple[Path, Any]]
) -> None:
    """What shard wrote is read back: the same names, labels, splits and bytes."""
    folder = catalog({"dress": 4, "hat": 3})
    path, manifest = pack(folder)
    items, failures = read(path)
    assert not failures and isinstance(open_source(path), WebdatasetSource)
    photos = {i.name: i for i in FolderSource(folder).items() if isinstance(i, Item)}
    assert {i.name: i.label for i in items} == {n: i.label for n, i in photos.items()}
    assert all(i.read() == photos[i.name].read() for i in items)
    counts = [i.split for i in items]
    assert {s: counts.count(s) for s in manifest.splits} == manifest.splits


def test_only_listed_shards_of_our_own(ours: Path) -> None:
    """An interrupted --append leaves a file that does not belong; a lost one is recorded."""
    (ours / "train-000001.tar").write_bytes((ours / "train-000000.tar").read_bytes())
    (ours / "test-000000.tar").unlink()
    items, failures = read(ours)
    assert [i.name for i in items] == ["dress/1.jpg"]
    assert [f.name for f in failures] == ["test-000000.tar"]
    assert "No such file" in failures[0].reason


@pytest.mark.parametrize(
    "change",
    [
        {"name": None}, {"split": "dev"}, {"positive": [3]}, {"unknown": [-1]}, {"box": [1, 2]},
        {"box": "1234"}, {"positive": [True]}, {"landmarks": [[1, 2]]}, {"landmarks": 3},
        {"metadata": "x"}, {"positive": 1.5},
    ],
)  # fmt: skip
def test_damaged_json_of_our_own_is_recorded(ours: Path, change: dict[str, Any]) -> None:
    """Its item is not packed under another name or with half of its annotations."""
    about = {"name": "dress/1.jpg", "label": "dress", "split": "train", **change}
    put(ours / "train-000000.tar", ("000000000.jpg", b"one"),
        ("000000000.json", json.dumps(about).encode()))  # fmt: skip
    items, failures = read(ours)
    assert [i.name for i in items] == ["hat/2.jpg"]
    assert len(failures) == 1 and failures[0].name.startswith("train-000000/")
    assert "JSON" in failures[0].reason


@pytest.mark.parametrize(
    "change",
    [
        {"shards": [{"file": "../x.tar"}]}, {"shards": [{}]}, {"shards": None}, {"classes": None},
        {"class_types": ["full"]}, {"attributes": [{"nom": "a"}]},
    ],
)  # fmt: skip
def test_damaged_manifest_of_our_own_is_refused(ours: Path, change: dict[str, Any]) -> None:
    """One line, and nothing outside the folder is read."""
    path = ours / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SourceError, match="dataset.json is damaged"):
        WebdatasetSource(ours)


def test_dataset_json_of_others_is_nothing_to_us(tmp_path: Path, photo: Photo) -> None:
    """The name is a common one; only ours says its format."""
    put(tmp_path / "a.tar", ("0.jpg", photo()), ("0.json", b'{"name":"x","split":"train"}'))
    (tmp_path / "dataset.json").write_text('{"format":"other"}')
    ((item,), _) = read(tmp_path)
    assert (item.name, item.split) == ("a/0.jpg", None)
    assert item.metadata == {"name": "x", "split": "train"}


def test_tar_of_the_clothing_photographs(clothing: Path, tmp_path: Path) -> None:
    """Real photographs, tarred as anyone would: every one comes back with its bytes."""
    photos = sorted((clothing / "train").glob("*/*.jpg"))[:200]
    path = tmp_path / "clothing-train.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(clothing / "train", "train", recursive=False)
        for photo in photos:
            tar.add(photo, photo.relative_to(clothing).as_posix())
    items, failures = read(path)
    assert not failures and {i.split for i in items} == {"train"}
    assert [i.read() for i in items] == [p.read_bytes() for p in photos]
