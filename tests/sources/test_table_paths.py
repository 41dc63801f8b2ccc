"""The files that a table names: below its root, with or without an extension."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fashionbatch.errors import SourceError
from fashionbatch.sources import Item
from fashionbatch.sources.base import from_text
from fashionbatch.sources.table import TableSource
from tests.sources.tables import items, message, table

Photo = Callable[..., bytes]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("./a.jpg", "a.jpg"),
        ("a//b/./c.jpg", "a/b/c.jpg"),
        ("a/../b.jpg", "b.jpg"),
        ("a..b/..c.jpg", "a..b/..c.jpg"),
        ("{root}/a/b.jpg", "a/b.jpg"),
        ("/{root}/a.jpg", "a.jpg"),
        ("//{root}/a.jpg", "a.jpg"),
        (r"a\b.jpg", r"a\\b.jpg"),
        (" a.jpg ", " a.jpg "),
    ],
)
def test_paths_below_the_root(tmp_path: Path, written: str, name: str) -> None:
    """Two ways to write a path are one name; a backslash is a character like others."""
    root = tmp_path / "images"
    root.mkdir()
    path = table(tmp_path, "image\n" + written.format(root=root) + "\n")
    assert [(i.name, i.path) for i in items(path, root=root)] == [
        (name, f"{root}/{from_text(name)}")
    ]


@pytest.mark.parametrize(
    "written", ["..", "../a.jpg", "a/../../b.jpg", "/etc/passwd", "{root}", "{root}x/a.jpg", "//a"]
)
def test_paths_out_of_the_root_are_refused(tmp_path: Path, written: str) -> None:
    """Fault 17: nothing outside is read; line, path and option are named."""
    root = tmp_path / "images"
    root.mkdir()
    written = written.format(root=root)
    path = table(tmp_path, f"image\n\na.jpg\n{written}\n")
    said = message(SourceError, path, root=root)
    assert all(part in said for part in (f"line 4: {written!r}", str(root), "--root"))


def test_the_root_as_text_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line gives it; absolute paths are compared with where it is."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(b"a")
    monkeypatch.chdir(tmp_path)
    source = TableSource(
        table(tmp_path, f"image\n{tmp_path}/images/a.jpg\n"), root="images/../images"
    )
    (item,) = source.items()
    assert isinstance(item, Item)
    assert (item.name, source.read(item)) == ("a.jpg", b"a")


@pytest.mark.parametrize("extension", ["", ".jpg", ".jpeg", ".png", ".webp", ".JPG", ".WEBP"])
def test_the_extension_may_be_missing(tmp_path: Path, photo: Photo, extension: str) -> None:
    """Tried when the path as written is no file."""
    (tmp_path / f"1163.2{extension}").write_bytes(photo())
    source = TableSource(table(tmp_path, "id,label\n1163.2,hat\n"), image_column="id")
    (item,) = source.items()
    assert isinstance(item, Item)
    assert (item.name, source.read(item)) == ("1163.2", photo())


def test_the_path_as_written_goes_first(tmp_path: Path) -> None:
    """Also when another has the extension."""
    (tmp_path / "a").write_bytes(b"as written")
    (tmp_path / "a.jpg").write_bytes(b"another")
    source = TableSource(table(tmp_path, "image\na\n"))
    (item,) = source.items()
    assert isinstance(item, Item)
    assert source.read(item) == b"as written"


@pytest.mark.parametrize("name", ["none", "n" * 253])
def test_a_missing_file_is_missed_as_written(tmp_path: Path, name: str) -> None:
    """The error names the path of the table, not one that was tried; no name is too long."""
    source = TableSource(table(tmp_path, f"image\n{name}\n"))
    (item,) = source.items()
    assert isinstance(item, Item)
    with pytest.raises(FileNotFoundError) as caught:
        source.read(item)
    assert caught.value.filename == f"{tmp_path}/{name}"


def test_a_file_that_cannot_be_read_is_not_taken_for_missing(tmp_path: Path) -> None:
    """A named pipe, and a loop of links behind a missing extension."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe.jpg").write_bytes(b"another")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "loop.png").write_bytes(b"another")
    source = TableSource(table(tmp_path, "image\npipe\nloop\n"))
    for item in source.items():
        assert isinstance(item, Item)
        with pytest.raises(OSError, match=r"regular|symbolic links"):
            source.read(item)
