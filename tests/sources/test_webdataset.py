"""Folders of tar files as a catalogue: what is recognized, names, labels and splits."""

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
from fashionbatch.shards.read import is_shards
from fashionbatch.sources import Failure, Item, open_source
from fashionbatch.sources.folder import FolderSource
from fashionbatch.sources.webdataset import WebdatasetSource, is_webdataset, split_of, tars

Photo = Callable[..., bytes]


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


def test_photographs_at_any_depth_go_before_a_tar_file(tmp_path: Path, photo: Photo) -> None:
    """None vanishes: the photographs are the catalogue, and the tar file is recorded."""
    put(tmp_path / "old.tar", ("0.jpg", photo()))
    (tmp_path / "train/dress").mkdir(parents=True)
    (tmp_path / "train/dress/1.png").write_bytes(photo())
    assert not is_webdataset(tmp_path) and not is_shards(tmp_path)
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource)
    failure, item = source.items()
    assert isinstance(failure, Failure) and failure.name == "old.tar"
    assert isinstance(item, Item) and (item.name, item.split) == ("train/dress/1.png", "train")


def test_tar_beside_a_folder_of_its_name(tmp_path: Path, photo: Photo) -> None:
    """No two images share a name, whatever the tar files are called."""
    put(tmp_path / "train.tar", ("x/1.png", photo(1)), ("x/2.json", b"{}"))
    put(tmp_path / "train/x.tar", ("1.png", photo(2)))
    items, failures = read(tmp_path)
    assert {i.name: i.read() for i in items} == {
        "train.tar/x/1.png": photo(1),
        "train/x/1.png": photo(2),
    }
    assert [f.name for f in failures] == ["train.tar/x/2.json"]
    assert [i.name for i in read(tmp_path / "train.tar")[0]] == ["train/x/1.png"]


def test_our_own_data_set_is_not_claimed(
    catalog: Callable[..., Path], pack: Callable[..., tuple[Path, Any]]
) -> None:
    """Its annotations and hashes are in its index, which this source does not read."""
    path, _ = pack(catalog({"hat": 4}))
    for mine in (path, path / "train-000000.tar"):
        assert not is_webdataset(mine)
        assert is_shards(mine)
        with pytest.raises(UsageError, match="--source dataset"):
            WebdatasetSource(mine)


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
