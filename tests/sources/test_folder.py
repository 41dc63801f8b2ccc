"""Folders of photographs: layouts, splits, order, and what lies about in them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from fashionbatch.errors import SourceError, UnknownNameError, UsageError
from fashionbatch.shards.manifest import Manifest
from fashionbatch.sources import Failure, Item, open_source
from fashionbatch.sources.base import MAX_BYTES, from_text
from fashionbatch.sources.folder import FolderSource


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def rows(root: Path, layout: str = "auto") -> list[tuple[str, str | None, str | None]]:
    found = FolderSource(root, layout=layout).items()
    return [(i.name, i.label, i.split) for i in found if isinstance(i, Item)]


def left_out(root: Path, layout: str = "auto") -> dict[str, str]:
    found = FolderSource(root, layout=layout).items()
    return {f.name: f.reason for f in found if isinstance(f, Failure) and f.stage == "source"}


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


def test_splits_beside_other_folders_need_a_decision(tmp_path: Path) -> None:
    """Two folders are hardly both classes by chance; what is beside them could be anything."""
    tree(tmp_path, "train/hat/1.jpg", "val/hat/2.jpg", "runs/plot.png")
    with pytest.raises(SourceError, match=r"'train', 'val'.*'runs'.*--layout") as caught:
        rows(tmp_path)
    assert "\n" not in str(caught.value)
    assert [r[1:] for r in rows(tmp_path, "classes")] == [
        ("runs", None), ("train", None), ("val", None)
    ]  # fmt: skip
    assert {r[1:] for r in rows(tmp_path, "flat")} == {(None, None)}
    (tmp_path / "runs/plot.png").unlink()
    assert {r[2] for r in rows(tmp_path)} == {"train", "val"}, "an empty folder is nothing"


def test_files_beside_folders_need_a_decision(tmp_path: Path) -> None:
    """auto does not guess; classes and flat both work."""
    tree(tmp_path, "hat/1.jpg", "loose.jpg")
    with pytest.raises(SourceError, match="--layout"):
        rows(tmp_path)
    assert [r[1] for r in rows(tmp_path, "classes")] == ["hat", None]
    assert [r[1] for r in rows(tmp_path, "flat")] == [None, None]


def test_hidden_files_and_clutter_are_failures(tmp_path: Path) -> None:
    """What is no photograph of the catalogue is named with its reason; a hidden folder once."""
    tree(
        tmp_path,
        "hat/1.jpg", "hat/.DS_Store", "hat/Thumbs.db", ".git/x", ".git/y", "hat/notes.txt",
    )  # fmt: skip
    assert [r[0] for r in rows(tmp_path)] == ["hat/1.jpg", "hat/notes.txt"]
    assert left_out(tmp_path) == {
        ".git": "it is hidden",
        "hat/.DS_Store": "it is hidden",
        "hat/Thumbs.db": "a file manager left it",
    }


@pytest.mark.parametrize("layout", ["auto", "classes", "flat"])
def test_other_files_beside_class_folders_are_failures(tmp_path: Path, layout: str) -> None:
    """A README is about the catalogue; it neither stops it nor is left out without a word."""
    tree(tmp_path, "hat/1.jpg", "dress/2.jpg", "README.md", "labels.csv")
    assert [r[0] for r in rows(tmp_path, layout)] == ["dress/2.jpg", "hat/1.jpg"]
    reason = "it lies beside the folders and has no image's suffix"
    assert left_out(tmp_path, layout) == {"README.md": reason, "labels.csv": reason}


def test_other_files_in_split_folders_are_failures(tmp_path: Path) -> None:
    """Beside the class folders of a split too."""
    tree(tmp_path, "train/hat/1.jpg", "val/hat/2.jpg", "train/LICENSE")
    assert rows(tmp_path) == [("train/hat/1.jpg", "hat", "train"), ("val/hat/2.jpg", "hat", "val")]
    assert list(left_out(tmp_path)) == ["train/LICENSE"]


def test_flat_folder_takes_every_file(tmp_path: Path) -> None:
    """Without folders beside it a file of any name may be an image."""
    assert [r[0] for r in rows(tree(tmp_path, "1", "2.jpg"))] == ["1", "2.jpg"]
    assert left_out(tmp_path) == {}


def test_items_come_in_the_same_order(tmp_path: Path) -> None:
    """Of their names, and not of the disk."""
    names = [f"{c}/{n}.jpg" for c in ("b", "a", "c") for n in (10, 2, 1)]
    assert [r[0] for r in rows(tree(tmp_path, *names))] == sorted(names)


def test_source_is_small(tmp_path: Path) -> None:
    """It travels to worker processes, and reads there."""
    source = FolderSource(tree(tmp_path, *(f"hat/{n}.jpg" for n in range(200))))
    items = [i for i in source.items() if isinstance(i, Item)]
    data = pickle.dumps(source)
    assert len(data) < 1000
    assert pickle.loads(data).read(items[7]) == items[7].name.encode()


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
        assert isinstance(item, Item)
        item.name.encode("utf-8")
        assert b"hat/" + item.read() == os.fsencode(from_text(item.name))


def test_loop_of_links_ends(tmp_path: Path) -> None:
    """A link back to a folder above is not walked again; a link to another folder is."""
    tree(tmp_path / "photos", "hat/1.jpg")
    tree(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "photos/hat/back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/dress").symlink_to(tmp_path / "elsewhere")
    assert [r[0] for r in rows(tmp_path / "photos")] == ["dress/2.jpg", "hat/1.jpg"]


def test_very_deep_folders(tmp_path: Path) -> None:
    """Deeper than Python's stack."""
    root = tmp_path
    for _ in range(1200):
        root = root / "d"
        os.mkdir(root)
    (root / "1.jpg").write_bytes(b"deep")
    try:
        ((name, label, _),) = rows(tmp_path)
        assert (name, label) == ("d/" * 1200 + "1.jpg", "d")
    finally:  # rmtree is recursive too
        (root / "1.jpg").unlink()
        while root != tmp_path:
            root.rmdir()
            root = root.parent


def test_unreadable_entries_are_recorded_not_fatal(
    tmp_path: Path, pack: Callable[..., tuple[Path, Manifest]], photo: Callable[..., bytes]
) -> None:
    """A dangling link, a link to itself and a named pipe fail alone; a pipe does not hang."""
    root = tree(tmp_path / "photos", "hat/1.jpg")
    (root / "hat/1.jpg").write_bytes(photo())
    (root / "hat/gone.jpg").symlink_to(tmp_path / "nowhere")
    (root / "hat/self.jpg").symlink_to(root / "hat/self.jpg")
    os.mkfifo(root / "hat/pipe.jpg")
    _, manifest = pack(root)
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


def test_large_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its size; also a part of a file, and at the limit nothing is refused."""
    path = tmp_path / "1.jpg"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)
    whole, part = Item(name="a", path=path), Item(name="a", path=path, offset=0, size=MAX_BYTES + 1)
    with monkeypatch.context() as patch:
        for name in ("read", "pread"):
            patch.delattr(os, name)
        for item in (whole, part):
            with pytest.raises(OSError, match="over 256 MiB"):
                item.read()
    os.truncate(path, MAX_BYTES)
    assert len(whole.read()) == MAX_BYTES


def test_clothing_has_ten_classes_and_two_splits(clothing: Path) -> None:
    """The real catalogue is read by its parts; its README beside them is a choice to make."""
    items = [i for i in FolderSource(clothing / "train").items() if isinstance(i, Item)]
    assert len({i.label for i in items}) == 10
    assert {i.split for i in items} == {None}
    assert len({i.name for i in items}) == len(items) > 1000
