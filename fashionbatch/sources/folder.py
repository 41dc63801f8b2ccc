"""A folder of photographs: class folders, split folders above them, or flat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources.base import Item, Source, to_text

#: what people call the splits -> what we call them
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
#: suffixes of photographs, those that we cannot decode included
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".svg",
        ".eps",
    ]
)
#: files that file managers leave behind
CLUTTER = {"thumbs.db", "desktop.ini"}


def is_folder(path: Path) -> bool:
    """Whether this source can read what lies at ``path``."""
    return path.is_dir()


class FolderSource(Source):
    """Every file below a folder, except hidden ones, in the order of their names.

    The layout ``classes`` takes the first folder below the root as the label, ``flat`` takes no
    labels. Where all folders at the top are named like splits (``train``, ``val``, ``valid``,
    ``validation``, ``test``), they are the splits and the layout starts below them. ``auto`` is
    ``classes`` where all files lie in folders and ``flat`` where none does. A file beside folders
    that has no image's suffix (``README.md``, ``LICENSE``) is about the catalogue, not in it.

    Args:
        path: of the folder. Symbolic links are followed; a loop of links ends at its first round.
        layout: ``auto``, ``classes`` or ``flat``.

    Raises:
        UsageError: it is not a folder.

    Example:
        >>> [(i.name, i.label) for i in FolderSource(Path("catalog")).items()]  # doctest: +SKIP
        [('dress/1.jpg', 'dress'), ('hat/2.jpg', 'hat')]
    """

    def __init__(self, path: Path, *, layout: str = "auto") -> None:
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder: name a folder of photographs")
        self.path = path
        self.layout = layout

    def items(self) -> Iterator[Item]:
        """See :class:`fashionbatch.Source`.

        Raises:
            SourceError: it holds no file, or files lie both beside and in folders.
        """
        try:
            files = list(walk(self.path))
        except OSError as error:
            raise SourceError(
                f"{error.filename} cannot be listed ({error.strerror}): mend its permissions, or "
                "leave it out"
            ) from error
        if any(len(parts) > 1 for parts in files):
            files = [p for p in files if len(p) > 1 or Path(p[0]).suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise SourceError(f"{self.path} holds no files: name a folder with photographs in it")
        first = {parts[0] for parts in files if len(parts) > 1}
        beside = any(len(parts) == 1 for parts in files)
        splits = bool(first) and not beside and all(f.lower() in SPLIT_FOLDERS for f in first)
        labelled = self._labelled(files, skip=int(splits))
        for parts in files:
            rest = parts[1:] if splits else parts
            yield Item(
                name=to_text("/".join(parts)),
                path=self.path.joinpath(*parts),
                label=to_text(rest[0]) if labelled and len(rest) > 1 else None,
                split=SPLIT_FOLDERS[parts[0].lower()] if splits else None,
            )

    def _labelled(self, files: list[tuple[str, ...]], *, skip: int) -> bool:
        depths = [len(parts) - skip for parts in files]
        if self.layout == "flat" or max(depths) == 1:
            return False
        if min(depths) == 1 and self.layout == "auto":
            loose = next("/".join(p) for p in files if len(p) - skip == 1)
            nested = next("/".join(p) for p in files if len(p) - skip > 1)
            raise SourceError(
                f"{self.path} holds files beside folders ({loose!r}, {nested!r}): say --layout "
                "classes (folders are classes, other files have no label) or --layout flat"
            )
        return True


def walk(root: Path) -> Iterator[tuple[str, ...]]:
    """The path below ``root`` of every file, as parts, sorted; hidden files are left out."""
    yield from _walk(os.fspath(root), (), frozenset())


def _walk(
    folder: str, parts: tuple[str, ...], seen: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, ...]]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in seen:  # a symbolic link back to a folder we are in
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda e: e.name)
    for entry in ordered:
        if entry.name.startswith(".") or entry.name.lower() in CLUTTER:
            continue
        if _is_folder(entry):
            yield from _walk(entry.path, (*parts, entry.name), seen | {here})
        else:
            yield (*parts, entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: recorded as a file that cannot be read
        return False
