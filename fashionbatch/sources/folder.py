"""A folder of photographs: class folders, split folders above them, or flat."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from fashionbatch.address import Address, Location
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources.base import Failure, Item, Source, to_text
from fashionbatch.sources.names import SPLIT_NAMES

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


def is_folder(path: Location) -> bool:
    """Whether this source can read what lies at ``path``."""
    if isinstance(path, Address):
        return path.has_bucket and not path.is_pattern
    return path.is_dir()


class FolderSource(Source):
    """Every file below a folder, in the order of their names.

    The layout ``classes`` takes the first folder below the root as the label, ``flat`` takes no
    labels. Where all folders at the top are named like splits (``train``, ``val``, ``valid``,
    ``validation``, ``test``), they are the splits and the layout starts below them. ``auto`` is
    ``classes`` where all files lie in folders and ``flat`` where none does; it refuses several
    folders named like splits beside others.

    Hidden files, what file managers leave behind, and files beside class folders that have no
    image's suffix (``README.md``) are yielded as failures: they are about the catalogue, not in it.

    What lies below an address of an object store is read in the same way: the list of it is held
    in memory, in some 400 bytes for each file.

    Args:
        path: of the folder. Symbolic links are followed; a loop of links ends at its first round.
            Or an address of an object store.
        layout: ``auto``, ``classes`` or ``flat``.

    Raises:
        UsageError: it is not a folder.

    Example:
        >>> [(i.name, i.label) for i in FolderSource(Path("catalog")).items()]  # doctest: +SKIP
        [('dress/1.jpg', 'dress'), ('hat/2.jpg', 'hat')]
    """

    def __init__(self, path: Location, *, layout: str = "auto") -> None:
        if isinstance(path, Path) and not path.is_dir():
            raise UsageError(f"{path} is not a folder: name a folder of photographs")
        self.path = path
        self.layout = layout

    def items(self) -> Iterator[Item | Failure]:
        """See :class:`fashionbatch.Source`.

        Raises:
            SourceError: it holds no file, files lie both beside and in folders, or split folders
                beside others.
            RemoteError: a host cannot be reached, or refuses.
        """
        empty = True
        tree = _tree(self.path)
        try:
            shape = _shape(tree, self.path, self.layout)
            for parts, reason in tree.walk():
                name = to_text("/".join(parts))
                rest = parts[int(shape.splits) :]
                if reason is None and shape.nested and len(rest) < 2 and not is_image(parts[-1]):
                    reason = "it lies beside the folders and has no image's suffix"
                if reason is not None:
                    yield Failure(name=name, stage="source", reason=reason)
                    continue
                empty = False
                item = tree.item(parts, name)
                item.label = to_text(rest[0]) if shape.labelled and len(rest) > 1 else None
                item.split = SPLIT_NAMES[parts[0].lower()] if shape.splits else None
                yield item
        except OSError as error:
            raise SourceError(
                f"{error.filename} cannot be listed ({error.strerror}): mend its permissions, or "
                "leave it out"
            ) from error
        if empty:
            raise SourceError(f"{self.path} holds no files: name a folder with photographs in it")


class Tree(Protocol):
    """Files in folders, by the parts of their names below a root."""

    def walk(self) -> Iterator[tuple[tuple[str, ...], str | None]]:
        """See :func:`walk`."""
        ...

    def level(self, parts: tuple[str, ...]) -> Iterable[tuple[str, bool]]:
        """Files in a folder, and folders in it that hold files, with whether each is a folder."""
        ...

    def item(self, parts: tuple[str, ...], name: str) -> Item:
        """A file as an item."""
        ...


def _tree(path: Location) -> Tree:
    if isinstance(path, Address):
        from fashionbatch.sources.objects import Objects

        return Objects(path)
    return _Disk(path)


class _Disk:
    """See :class:`Tree`."""

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root)

    def walk(self) -> Iterator[tuple[tuple[str, ...], str | None]]:
        return walk(Path(self.root))

    def level(self, parts: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
        with os.scandir("/".join((self.root, *parts))) as entries:
            for entry in entries:
                if left_out(entry.name):
                    continue
                if not _is_folder(entry):
                    yield entry.name, False
                elif next(_visible(Path(entry.path)), None) is not None:
                    yield entry.name, True

    def item(self, parts: tuple[str, ...], name: str) -> Item:
        # a Path of each would take longer than reading
        return Item(name=name, path="/".join((self.root, *parts)))


@dataclass(frozen=True)
class _Shape:
    """Whether the top folders are splits; whether there are folders below; whether these are
    classes."""

    splits: bool
    nested: bool
    labelled: bool


def _shape(tree: Tree, root: Location, layout: str) -> _Shape:
    """Found by looking at the top two levels only, however many files there are."""
    loose, folders = _level(tree, ())
    named = [f for f in folders if f.lower() in SPLIT_NAMES]
    splits = bool(folders) and not loose and named == folders
    if layout == "auto" and len(named) > 1 and named != folders:
        other = next(f for f in folders if f not in named)
        raise SourceError(
            f"{root} holds splits ({', '.join(map(repr, named))}) beside another folder "
            f"({to_text(other)!r}): move that one out, or say --layout classes (all of them are "
            "classes) or --layout flat"
        )
    tops: list[tuple[str, ...]] = [(folder,) for folder in folders] if splits else [()]
    nested = False
    beside: str | None = None
    below: str | None = None
    for top in tops:
        mine, inner = _level(tree, top)
        nested = nested or bool(inner)
        prefix = f"{top[0]}/" if splits else ""
        beside = beside or (f"{prefix}{mine}" if mine else None)
        below = below or (f"{prefix}{inner[0]}/" if inner else None)
    if layout == "auto" and beside and below:
        raise SourceError(
            f"{root} holds files beside folders ({beside!r}, {below!r}): say --layout "
            "classes (folders are classes, other files have no label) or --layout flat"
        )
    return _Shape(splits=splits, nested=nested, labelled=nested and layout != "flat")


def _level(tree: Tree, folder: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """A file that lies in the folder, and the folders in it that hold files; sorted.

    Beside folders only an image counts as a file.
    """
    files: list[str] = []
    folders: list[str] = []
    for name, is_folder in tree.level(folder):
        if is_folder:
            folders.append(name)
        elif len(files) < 1 or is_image(name):
            files = [min([f for f in files if is_image(f)] + [name])]
    if folders:
        files = [f for f in files if is_image(f)]
    return (files[0] if files else None), sorted(folders)


def _visible(folder: Path) -> Iterator[tuple[str, ...]]:
    return (parts for parts, reason in walk(folder) if reason is None)


def holds_images(folder: Path) -> bool:
    """Whether a file with an image's suffix lies anywhere below a folder.

    Raises:
        OSError: a folder cannot be listed.

    Example:
        >>> holds_images(Path("catalog"))  # doctest: +SKIP
        True
    """
    return any(is_image(parts[-1]) for parts in _visible(folder))


def is_image(name: str) -> bool:
    """Whether a file's name has an image's suffix."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  # a Path is slow


def left_out(name: str) -> str | None:
    """Why a name is not part of a catalogue."""
    if name.startswith("."):
        return "it is hidden"
    return "a file manager left it" if name.lower() in CLUTTER else None


#: a folder, its parts below the root, which it is, and what of it is still to come
_Level: TypeAlias = tuple[str, tuple[str, ...], tuple[int, int], Iterator[tuple[str, bool]]]


def walk(root: Path) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """The path below ``root`` of every file, as parts, sorted; and why it is to be left out.

    A hidden folder comes as one entry.

    Raises:
        OSError: a folder cannot be listed.
    """
    top = os.fspath(root)
    here = _identity(top)
    # not recursive: folders can be deeper than Python's stack
    levels: list[_Level] = [(top, (), here, _entries(top))]
    inside = {here}
    while levels:
        folder, parts, here, entries = levels[-1]
        for name, is_folder in entries:
            reason = left_out(name)
            if not is_folder or reason is not None:
                yield (*parts, name), reason
                continue
            inner = os.path.join(folder, name)  # noqa: PTH118  # a Path for each folder is slow
            identity = _identity(inner)
            if identity not in inside:  # else a symbolic link back to a folder we are in
                inside.add(identity)
                levels.append((inner, (*parts, name), identity, _entries(inner)))
                break
        else:
            levels.pop()
            inside.remove(here)


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """Names and whether each is a folder, sorted; no more of each, there may be millions."""
    with os.scandir(folder) as entries:
        return iter(sorted((entry.name, _is_folder(entry)) for entry in entries))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: recorded as a file that cannot be read
        return False
