"""Tar files in WebDataset's layout, made by others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fashionbatch.errors import ShardError, SourceError, UsageError
from fashionbatch.sources.base import Failure, Item, Source, to_text
from fashionbatch.sources.folder import holds_images
from fashionbatch.sources.names import SPLIT_NAMES, name_of, read_class_names, split_in
from fashionbatch.sources.tar import Sample, scan

#: the file beside shards that fashionbatch wrote, and what it says of itself
MANIFEST = "dataset.json"
FORMAT = "fashionbatch-shards"

_SUFFIX = ".tar"
_HEAD = 512
_NUMBER = re.compile(r"-?[0-9]{1,18}")
# the packer finds these out anew
_MEASURED = ("width", "height")


def is_webdataset(path: Path) -> bool:
    """Whether this source can read what lies at ``path``: tar files that are none of our own.

    Raises:
        SourceError: a folder cannot be listed.
    """
    return holds_tars(path) and not in_dataset(path)


def holds_tars(path: Path) -> bool:
    """Whether a tar file or a folder of them lies at ``path``.

    A folder with photographs anywhere in it is one of photographs, not of tar files.

    Raises:
        SourceError: a folder cannot be listed.
    """
    if not tars(path):
        return False
    try:
        return not (path.is_dir() and holds_images(path))
    except OSError as error:
        raise _unlisted(error.filename, error) from error


def in_dataset(path: Path) -> bool:
    """Whether a folder, or that of a tar file, is a data set that fashionbatch wrote."""
    folder = path if path.is_dir() else path.parent
    try:
        with (folder / MANIFEST).open("rb") as file:
            return f'"{FORMAT}"'.encode() in file.read(_HEAD)  # it begins with its format
    except OSError:
        return False


def tars(path: Path) -> list[tuple[str, Path]]:
    """The tar files of a folder and of its split folders (``train/``, ``val/``, ...).

    Args:
        path: of the folder, or of one tar file.

    Returns:
        of each its path below the folder, as text, and the file; sorted; hidden ones left out.

    Raises:
        SourceError: the folder cannot be listed.

    Example:
        >>> tars(Path("shards/photos"))  # doctest: +SKIP
        [('all-000000.tar', PosixPath('shards/photos/all-000000.tar'))]
    """
    if not path.is_dir():
        return [(to_text(path.name), path)] if path.suffix == _SUFFIX and path.exists() else []
    listed = _listed(path)
    found = [(to_text(n), path / n) for n, is_folder in listed if _is_tar(n, is_folder)]
    for folder, is_folder in listed:
        if is_folder and folder.lower() in SPLIT_NAMES:
            found += [
                (to_text(f"{folder}/{n}"), path / folder / n)
                for n, inner in _listed(path / folder)
                if _is_tar(n, inner)
            ]
    return sorted(found)


def prefixes(tars: Sequence[str]) -> list[str]:
    """What the items of each tar file are called after: its name without ``.tar``.

    A file beside a folder of the same name keeps its ``.tar``, so that ``x/1.jpg`` in
    ``train.tar`` is not called like ``1.jpg`` in ``train/x.tar``.

    Example:
        >>> prefixes(["a.tar", "train.tar", "train/x.tar"])
        ['a', 'train.tar', 'train/x']
    """
    folders = {tar.rpartition("/")[0] for tar in tars}
    stems = [tar.removesuffix(_SUFFIX) for tar in tars]
    return [tar if stem in folders else stem for tar, stem in zip(tars, stems, strict=True)]


def split_of(name: str) -> str | None:
    """The split of a tar file, from its own name, else from its folder's.

    Example:
        >>> split_of("imagenet-train-000000.tar"), split_of("val/000000.tar"), split_of("0.tar")
        ('train', 'val', None)
    """
    folder, _, base = name.rpartition("/")
    return split_in(base.removesuffix(_SUFFIX)) or split_in(folder)


class WebdatasetSource(Source):
    """The images of tar files, shard by shard, and what their JSON and ``.cls`` members say.

    Keys start anew in each file, so an item is called after both: ``part-000000/0017.jpg`` is
    ``0017.jpg`` in ``part-000000.tar``. Its label is the ``label`` of its JSON, else its ``.cls``;
    its split is the one that the file or its folder is named after (``imagenet-train-000000.tar``,
    ``val/000000.tar``); what else its JSON holds becomes its metadata. A damaged file is recorded,
    and the others are read.

    Args:
        path: a tar file, or a folder of them; also of split folders with tar files in them.
        class_names: UTF-8 text file whose line ``n``, counted from 0, names label ``n``; without
            it the labels are their numbers, as text.

    Attributes:
        notes: what else there is to know about the files read so far, a line each.

    Raises:
        UsageError: no tar file is there, they are a data set of our own, or the class names cannot
            be used.
        SourceError: the folder cannot be listed.

    Example:
        >>> next(WebdatasetSource(Path("made-elsewhere")).items())  # doctest: +SKIP
        Item(name='part-0/1.jpg', path=PosixPath('made-elsewhere/part-0.tar'), offset=512, ...)
    """

    def __init__(self, path: Path, *, class_names: Path | None = None) -> None:
        where = to_text(os.fspath(path))
        if not tars(path):
            raise UsageError(f"{where} is no tar file and holds none: name one")
        if in_dataset(path):
            raise UsageError(
                f"{where} is of a data set that fashionbatch wrote: read it with --source dataset, "
                "which knows its annotations and hashes"
            )
        self.path = path
        self.notes: list[str] = []
        self.class_names = None if class_names is None else read_class_names(class_names)

    def items(self) -> Iterator[Item | Failure]:
        """See :class:`fashionbatch.Source`; a file is read through before its first item.

        Raises:
            SourceError: no file holds an image that can be used.
            UsageError: a label has no class name.
        """
        self.notes.clear()
        empty = True
        reason = "they hold no images"
        found = tars(self.path)
        for (name, path), prefix in zip(found, prefixes([n for n, _ in found]), strict=True):
            try:
                scanned = scan(path)
            except ShardError as error:
                reason = str(error)
                yield Failure(name=name, stage="shard", reason=reason)
                continue
            self.notes += [f"{name}: {note}" for note in scanned.notes]
            for failure in scanned.failures:
                yield Failure(
                    name=f"{prefix}/{failure.name}", stage=failure.stage, reason=failure.reason
                )
            for sample in scanned.samples:
                empty = False
                yield self._item(name, prefix, path, sample)
        if empty:
            raise SourceError(
                f"{to_text(os.fspath(self.path))} holds no tar file with images that can be used: "
                f"{reason}"
            )

    def _item(self, tar: str, prefix: str, path: Path, sample: Sample) -> Item:
        aside = ("label", *_MEASURED) if sample.label is not None else _MEASURED
        return Item(
            name=f"{prefix}/{sample.name}",
            path=path,
            offset=sample.offset,
            size=sample.size,
            label=self._label(sample.label),
            split=split_of(tar),
            metadata={k: v for k, v in sample.about.items() if k not in aside},
        )

    def _label(self, label: str | None) -> str | None:
        if label is None or self.class_names is None or not _NUMBER.fullmatch(label):
            return label
        return name_of(int(label), self.class_names)


def _listed(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, without hidden ones, and whether each is a folder."""
    try:
        with os.scandir(folder) as entries:
            return [(e.name, _is_folder(e)) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        raise _unlisted(folder, error) from error


def _unlisted(folder: Path | str, error: OSError) -> SourceError:
    return SourceError(
        f"{to_text(os.fspath(folder))} cannot be listed ({error.strerror}): mend its permissions, "
        "or leave it out"
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_tar(name: str, is_folder: bool) -> bool:
    return name.endswith(_SUFFIX) and not is_folder
