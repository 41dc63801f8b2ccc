"""A table of photographs: a CSV, TSV or Parquet file with one row for each."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fashionbatch.address import Address, Location, located, written
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources.base import Failure, Item, Source, to_text
from fashionbatch.sources.names import SPLIT_NAMES
from fashionbatch.sources.rows import open_table, plain, text

SUFFIXES = frozenset([".csv", ".tsv", ".parquet"])
#: what people call the columns, the most telling name first; lower case, ``_`` for blanks and ``-``
USUAL: Mapping[str, tuple[str, ...]] = {
    "image": (
        "image",
        "image_path",
        "image_file",
        "image_filename",
        "image_name",
        "path",
        "file_path",
        "filepath",
        "file",
        "file_name",
        "filename",
        "img",
        "img_path",
        "img_name",
        "photo",
        "picture",
    ),
    "label": ("label", "class", "category", "label_name", "class_name", "category_name"),
    "split": ("split", "partition", "subset", "evaluation_status"),
    "type": (),  # few tables have it, and "type" often means something else
}
#: tried behind a path that names no file
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG", ".WEBP")


def is_table(path: Location) -> bool:
    """Whether this source can read what lies at ``path``; of an address its name says so."""
    if isinstance(path, Address):
        return not path.is_pattern and posixpath.splitext(path.path)[1].lower() in SUFFIXES
    return path.suffix.lower() in SUFFIXES and path.is_file()


class Columns(NamedTuple):
    """Positions of the columns that mean something to us."""

    image: int
    label: int | None
    split: int | None
    type: int | None


class TableSource(Source):
    r"""Every row of a CSV, TSV or Parquet file, in the file's order.

    The first line names the columns. A CSV file's delimiter is the one of ``,``, ``;``, tab and
    ``|`` with which the header has an image column. Text is UTF-8, of which bytes that are none are
    kept as they are, or UTF-16 with a byte order mark. Blank lines are passed over; a row that
    cannot be used is a :class:`Failure`.

    A column that is not named is guessed: the first of these names that the table has, in upper or
    lower case, with ``_``, ``-`` or a blank between words. The image: ``image``, ``image_path``,
    ``image_file``, ``image_filename``, ``image_name``, ``path``, ``file_path``, ``filepath``,
    ``file``, ``file_name``, ``filename``, ``img``, ``img_path``, ``img_name``, ``photo``,
    ``picture``. The label: ``label``, ``class``, ``category``, ``label_name``, ``class_name``,
    ``category_name``, or else there are no labels. The split: ``split``, ``partition``,
    ``subset``, ``evaluation_status``, or else there are no splits. All other columns are the
    items' metadata.

    An image's path is relative to ``root``, with ``/``, and may lack its extension: ``.jpg``,
    ``.jpeg``, ``.png`` and ``.webp`` are tried. An item's name is that path, its line the one that
    its row starts in; the first row of a Parquet file counts as line 2. In place of a path there
    may be an address, whole, whose query is no part of the name; and so may the ``root`` be one.
    At an address no extensions are tried.

    Args:
        path: of the table, or its address. Parquet needs pyarrow.
        image_column: name of the column with the image's path.
        label_column: of the one with the class; an empty field is no label.
        split_column: of the one with ``train``, ``val`` or ``test``, or another usual name of
            these; an empty field is no split.
        type_column: of the one with the type of the class, such as ``upper`` for blouses.
        root: folder that the paths start from, by default the table's; no ``..`` leads out of it,
            while a symbolic link in it may. Or its address.

    Raises:
        UsageError: there is no such file, folder or column, or pyarrow is missing.
        SourceError: the table has no header, or two columns of the same name.
        RemoteError: what lies at the address cannot be had.

    Example:
        >>> TableSource(Path("catalog.csv"), label_column="article").items()  # doctest: +SKIP
    """

    def __init__(
        self,
        path: Location,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        type_column: str | None = None,
        root: Location | str | None = None,
    ) -> None:
        self.path, self._copy = path, _copy(path)
        self.root = path.parent if root is None else located(root)
        self._below = f"{self.root}/"
        if isinstance(self.root, Path):
            if not self.root.is_dir():
                raise UsageError(f"{self.root} is not a folder: name the images' with --root")
            self._below = posixpath.normpath(self.root.absolute()).rstrip("/") + "/"
        named = {
            "image": image_column,
            "label": label_column,
            "split": split_column,
            "type": type_column,
        }
        with self._called():
            self._table = open_table(
                self._copy, lambda columns: "image" in _positions(columns, named)
            )
        self._columns = _columns(path, self._table.columns, named)
        used = [i for i in self._columns if i is not None]
        for position in self._table.nested.intersection(used):
            name = to_text(self._table.columns[position])
            raise UsageError(f"{path} holds no text in column {name!r}: name another one")
        self._rest = [
            (to_text(name), i) for i, name in enumerate(self._table.columns) if i not in used
        ]

    def items(self) -> Iterator[Item | Failure]:
        """See :class:`fashionbatch.Source`.

        Raises:
            SourceError: the table has no rows or cannot be read to its end, a path leads out of
                the root, or a class has two types.
        """
        with self._called():
            yield from self._items()

    def _items(self) -> Iterator[Item | Failure]:
        types: dict[str, str] = {}
        stated: dict[str, int] = {}
        self.class_types = types
        empty = True
        for line, fields in self._table.rows():
            empty = False
            item = self._item(line, fields)
            if self._columns.type is not None and isinstance(item, Item) and item.label:
                kind = to_text(text(fields[self._columns.type]).strip())
                if kind and types.setdefault(item.label, kind) != kind:
                    raise SourceError(
                        f"{self.path}: class {item.label!r} is of type {types[item.label]!r} in "
                        f"line {stated[item.label]} and {kind!r} in line {line}: give it one"
                    )
                if kind:
                    stated.setdefault(item.label, line)
            yield item
        if empty:
            raise SourceError(f"{self.path} has no rows: write one for each image")

    def _called(self) -> AbstractContextManager[None]:
        """What is said of the copy is meant of what it was copied from."""
        if isinstance(self.path, Path):
            return nullcontext()
        from fashionbatch.remote import copies

        return copies.called(self._copy, self.path)

    def read(self, item: Item) -> bytes:
        """The bytes of an item's image file, whose extension the table may have left out.

        Raises:
            OSError: they cannot be read.
        """
        try:
            return item.read()
        except (FileNotFoundError, IsADirectoryError):
            for extension in EXTENSIONS:
                try:
                    return replace(item, path=f"{item.path}{extension}").read()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG):
                        raise
            raise

    def _item(self, line: int, fields: Sequence[Any] | str) -> Item | Failure:
        if isinstance(fields, str):
            return self._failure(fields, line)
        image = text(fields[self._columns.image])
        if not image.strip():
            return self._failure("names no image", line)
        if "\0" in image:
            return self._failure("the image's path holds a NUL byte", line)
        if _broken(image):
            return self._failure("the image's path holds a line break", line)
        try:
            name, path = self._place(image, line)
        except UsageError as error:
            return self._failure(str(error), line)
        split = None
        if self._columns.split is not None:
            given = text(fields[self._columns.split]).strip()
            split = SPLIT_NAMES.get(given.lower())
            if given and split is None:
                reason = f"split {to_text(given)!r} is none of {', '.join(SPLIT_NAMES)}"
                return Failure(name=name, stage="source", reason=reason, line=line)
        label = None
        if self._columns.label is not None:
            label = plain(text(fields[self._columns.label]).strip()) or None
            if label and _broken(label):
                reason = "the label holds a line break"
                return Failure(name=name, stage="source", reason=reason, line=line)
        return Item(
            name=name,
            path=path,
            label=label,
            split=split,
            metadata={name: plain(fields[i]) for name, i in self._rest},
            line=line,
        )

    def _failure(self, reason: str, line: int) -> Failure:
        return Failure(name=to_text(self.path.name), stage="source", reason=reason, line=line)

    def _place(self, image: str, line: int) -> tuple[str, str]:
        """What an image is called, and its path or address, as text.

        Raises:
            UsageError: it is an address of a kind that is not read.
            SourceError: the path leads out of the root.
        """
        address = written(image) if ":" in image else None
        if isinstance(address, Address):
            return str(address), address.url
        below = self._checked(image if address is None else str(address), line)
        if isinstance(self.root, Address):
            return plain(below), (self.root / below).url
        # text: a Path of each would take longer than reading
        return plain(below), f"{self.root}/{below}"

    def _checked(self, image: str, line: int) -> str:
        """The path below the root; without ``.``, ``..`` and doubled slashes."""
        path = posixpath.normpath(image)
        if path.startswith("/"):
            path = "/" + path.lstrip("/")  # POSIX lets two at the start stand
            if path.startswith(self._below):
                return path[len(self._below) :]
        elif path != ".." and not path.startswith("../"):
            return path
        raise SourceError(
            f"{self.path}, line {line}: {to_text(image)!r} leads out of {self.root}: name a folder "
            "above the images with --root, and write paths from there on"
        )


def _broken(given: str) -> bool:
    return "\n" in given or "\r" in given


def _copy(path: Location) -> Path:
    """Where a table can be opened."""
    if isinstance(path, Address):
        from fashionbatch.remote import copies

        return copies.copy(path)
    if not path.is_file():
        raise UsageError(f"{path} is not a file: name a table (.csv, .tsv or .parquet)")
    return path


def _columns(path: Location, columns: Sequence[str], named: Mapping[str, str | None]) -> Columns:
    for role, name in named.items():
        if name is not None and name not in columns:
            raise UsageError(
                f"{path} has no column {to_text(name)!r}, named for the {role}: "
                f"it has {_listed(columns)}"
            )
    found = _positions(columns, named)
    if "image" not in found:
        raise UsageError(
            f"{path} has no column with a usual name for images: it has {_listed(columns)}; "
            "choose one with --image-column"
        )
    if "type" in found and "label" not in found:
        raise UsageError(f"{path} has types of classes and no classes: name the label's column")
    return Columns(found["image"], found.get("label"), found.get("split"), found.get("type"))


def _positions(columns: Sequence[str], named: Mapping[str, str | None]) -> dict[str, int]:
    """Where the column of each role is; those that there are."""
    found = {role: columns.index(name) for role, name in named.items() if name in columns}
    for role, name in named.items():
        if name is None:
            position = _guessed(columns, USUAL[role], taken=found.values())
            if position is not None:
                found[role] = position
    return found


def _guessed(columns: Sequence[str], usual: Sequence[str], taken: Collection[int]) -> int | None:
    simple = [c.lower().replace(" ", "_").replace("-", "_") for c in columns]
    for name in usual:
        for position, column in enumerate(simple):
            if column == name and position not in taken:
                return position
    return None


def _listed(columns: Sequence[str]) -> str:
    names = ", ".join(repr(to_text(c)) for c in columns)
    return names if len(names) <= 500 else f"{names[:500]} ... ({len(columns)} columns)"
