"""Folders of photographs: layouts, splits, order, and what lies about in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fashionbatch.errors import SourceError, UnknownNameError, UsageError
from fashionbatch.shards.write import ImageInfo, plan, write_shards
from fashionbatch.sources import Item, open_source
from fashionbatch.sources.base import from_text
from fashionbatch.sources.folder import FolderSource


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def rows(root: Path, layout: str = "auto") -> list[tuple[str, str | None, str | None]]:
    return [(i.name, i.label, i.split) for i in FolderSource(root, layout=layout).items()]


def test_class_folders(tmp_path: Path) -> None:
    """The first folder is the class; deeper ones are part of the name; order is by name."""
    tree(tmp_path, "hat/2.jpg", "dress/b/1.jpg", "dress/a.jpg")
    assert rows(tmp_path) == [
        ("dress/a.jpg", "dress", None),
        ("dress/b/1.jpg", "dress", None),
        ("hat/2.jpg", "hat", None),
    ]


def test_split_folders_by_any_of_their_names(tmp_path: Path) -> None:
    """train, validation, testing above class folders are the splits."""
    tree(tmp_path, "Train/hat/1.jpg", "validation/hat/1.jpg", "testing/hat/1.jpg")
    assert {(label, split) for _, label, split in rows(tmp_path)} == {
        ("hat", "train"),
        ("hat", "val"),
        ("hat", "test"),
    }


def test_flat_and_split_flat(tmp_path: Path) -> None:
    """Without class folders there are no labels."""
    assert rows(tree(tmp_path / "a", "2.jpg", "1.jpg")) == [
        ("1.jpg", None, None),
        ("2.jpg", None, None),
    ]
    assert rows(tree(tmp_path / "b", "train/1.jpg", "val/2.jpg")) == [
        ("train/1.jpg", None, "train"),
        ("val/2.jpg", None, "val"),
    ]


def test_a_class_called_test_is_a_class(tmp_path: Path) -> None:
    """Where one top folder is no split, none is."""
    tree(tmp_path, "test/1.jpg", "hat/1.jpg")
    assert {label for _, label, _ in rows(tmp_path)} == {"test", "hat"}


def test_files_beside_folders_need_a_decision(tmp_path: Path) -> None:
    """auto does not guess; classes and flat both work."""
    tree(tmp_path, "hat/1.jpg", "loose.jpg")
    with pytest.raises(SourceError, match="--layout"):
        rows(tmp_path)
    assert [r[1] for r in rows(tmp_path, "classes")] == ["hat", None]
    assert [r[1] for r in rows(tmp_path, "flat")] == [None, None]


def test_hidden_files_and_clutter_are_left_out(tmp_path: Path) -> None:
    """What file managers leave behind is no photograph; everything else is kept."""
    tree(tmp_path, "hat/1.jpg", "hat/.DS_Store", "hat/Thumbs.db", ".git/x", "hat/notes.txt")
    assert [r[0] for r in rows(tmp_path)] == ["hat/1.jpg", "hat/notes.txt"]


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    """Nothing there, or only empty folders."""
    (tmp_path / "hat").mkdir()
    with pytest.raises(SourceError, match="no files"):
        rows(tmp_path)


def test_odd_names_are_kept(tmp_path: Path) -> None:
    """Fault 16, 18: dots, blanks and bytes that are not UTF-8 stay in the name, reversibly."""
    raw = os.fsencode(tmp_path) + b"/hat"
    os.mkdir(raw)
    for name in (b"SKU-1.5kg.jpg", b"caf\xe9.jpg", b"a\\b.jpg", b"[b] <i>.jpg", b"sh#1.jpg"):
        Path(os.fsdecode(raw + b"/" + name)).write_bytes(name)
    for item in FolderSource(tmp_path).items():
        item.name.encode("utf-8")
        assert b"hat/" + item.read() == os.fsencode(from_text(item.name))


def test_loop_of_links_ends(tmp_path: Path) -> None:
    """A link back to a folder above is not walked again; a link to another folder is."""
    tree(tmp_path / "photos", "hat/1.jpg")
    tree(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "photos/hat/back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/dress").symlink_to(tmp_path / "elsewhere")
    assert [r[0] for r in rows(tmp_path / "photos")] == ["dress/2.jpg", "hat/1.jpg"]


def test_unreadable_entries_are_recorded_not_fatal(tmp_path: Path) -> None:
    """A dangling link, a link to itself and a named pipe fail alone; a pipe does not hang."""
    tree(tmp_path, "hat/1.jpg")
    (tmp_path / "hat/gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "hat/self.jpg").symlink_to(tmp_path / "hat/self.jpg")
    os.mkfifo(tmp_path / "hat/pipe.jpg")
    items, classes = plan(
        FolderSource(tmp_path).items(),
        split=None,
        default_split={"train": 1.0},
        allow_missing_classes=False,
        seed=0,
    )
    manifest = write_shards(
        items,
        classes,
        tmp_path / "out",
        check=lambda data: ImageInfo(extension="jpg"),
        samples_per_shard=9,
        workers=1,
        source={},
    )
    assert (manifest.items, manifest.failed) == (1, 3)


def test_unreadable_folder_is_a_source_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that may not be listed ends with one line, not with a traceback."""
    tree(tmp_path, "hat/1.jpg")

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="Permission denied"):
        rows(tmp_path)


def test_open_source_recognizes_and_refuses(tmp_path: Path) -> None:
    """A folder is read by the folder source; anything else says what to do."""
    tree(tmp_path, "hat/1.jpg")
    assert isinstance(open_source(tmp_path), FolderSource)
    assert isinstance(open_source(tmp_path, "folder", layout="flat"), FolderSource)
    with pytest.raises(UsageError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="folder"):
        open_source(tmp_path / "hat/1.jpg")
    with pytest.raises(UsageError, match="not a folder"):
        open_source(tmp_path / "hat/1.jpg", "folder")
    with pytest.raises(UnknownNameError, match="folder"):
        open_source(tmp_path, "foldr")
    with pytest.raises(UnknownNameError, match="layout"):
        open_source(tmp_path, layuot="flat")


def test_item_without_path_or_data_is_a_bug() -> None:
    """An item holds bytes or knows its file."""
    assert Item(name="a", data=b"x").read() == b"x"
    with pytest.raises(ValueError, match="neither"):
        Item(name="a").read()


def test_clothing_has_ten_classes_and_two_splits(clothing: Path) -> None:
    """The real catalogue is read by its parts; its README beside them is a choice to make."""
    items = list(FolderSource(clothing / "train").items())
    assert len({i.label for i in items}) == 10
    assert {i.split for i in items} == {None}
    assert len({i.name for i in items}) == len(items) > 1000
