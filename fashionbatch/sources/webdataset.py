"""Tar files in WebDataset's layout: made by others, or a data set of our own to be packed anew."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fashionbatch.errors import ShardError, SourceError, UsageError
from fashionbatch.sources.base import Attribute, Failure, Item, Source, to_text
from fashionbatch.sources.folder import IMAGE_SUFFIXES
from fashionbatch.sources.names import SPLIT_NAMES, name_of, read_class_names, split_in
from fashionbatch.sources.tar import MANIFEST, Sample, is_ours, scan
from fashionbatch.specs import SPLITS

_SUFFIX = ".tar"

_NUMBER = re.compile(r"-?[0-9]{1,18}")
# the packer finds these out anew
_MEASURED = ("width", "height")


def is_webdataset(path: Path) -> bool:
    """Whether this source can read what lies at ``path``.

    A folder in which photographs lie beside the tar files is one of photographs.

    Raises:
        SourceError: the folder cannot be listed.
    """
    return bool(tars(path)) and not _holds_photographs(path)


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
    ``val/000000.tar``); what else its JSON holds becomes its metadata. The items of a data set of
    our own have its splits, and the names, products, attributes, boxes and landmarks they had
    before it was packed. A damaged file is recorded, and the others are read.

    Args:
        path: a tar file, or a folder of them; also of split folders with tar files in them.
        class_names: UTF-8 text file whose line ``n``, counted from 0, names label ``n``; without
            it the labels are their numbers, as text.

    Attributes:
        notes: what else there is to know about the files read so far, a line each.

    Raises:
        UsageError: no tar file is there, or the class names cannot be used.
        SourceError: the folder cannot be listed, or its ``dataset.json`` is damaged.

    Example:
        >>> next(WebdatasetSource(Path("shards/photos")).items())  # doctest: +SKIP
        Item(name='dress/1.jpg', path=PosixPath('shards/photos/train-000000.tar'), offset=512, ...)
    """

    def __init__(self, path: Path, *, class_names: Path | None = None) -> None:
        folder = path if path.is_dir() else path.parent
        self.path = path
        self.notes: list[str] = []
        self.ours = is_ours(folder)
        if self.ours:
            _, self.class_types, self.attributes = _manifest(folder / MANIFEST)
        if not self._tars():
            raise UsageError(f"{to_text(os.fspath(path))} is no tar file and holds none: name one")
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
        for name, path in self._tars():
            try:
                found = scan(path)
            except ShardError as error:
                reason = str(error)
                yield Failure(name=name, stage="shard", reason=reason)
                continue
            self.notes += [f"{name}: {note}" for note in found.notes]
            for failure in found.failures:
                yield Failure(
                    name=_named(name, failure.name), stage=failure.stage, reason=failure.reason
                )
            for sample in found.samples:
                made = self._item(name, path, sample)
                empty = empty and isinstance(made, Failure)
                yield made
        if empty:
            raise SourceError(
                f"{to_text(os.fspath(self.path))} holds no tar file with images that can be used: "
                f"{reason}"
            )

    def _tars(self) -> list[tuple[str, Path]]:
        if not self.ours or not self.path.is_dir():
            return tars(self.path)
        # an interrupted --append leaves others, and one that is missing is to be recorded
        shards, _, _ = _manifest(self.path / MANIFEST)
        return [(name, self.path / name) for name in shards]

    def _item(self, tar: str, path: Path, sample: Sample) -> Item | Failure:
        place: dict[str, Any] = {"path": path, "offset": sample.offset, "size": sample.size}
        label = self._label(sample.label)
        if not self.ours:
            aside = ("label", *_MEASURED) if sample.label is not None else _MEASURED
            return Item(
                name=_named(tar, sample.name),
                **place,
                label=label,
                split=split_of(tar),
                metadata={k: v for k, v in sample.about.items() if k not in aside},
            )
        try:
            known = _known(sample.about, len(self.attributes))
        except (TypeError, ValueError) as error:
            reason = f"its JSON is damaged ({error}): take the shard from another copy"
            return Failure(name=_named(tar, sample.name), stage="shard", reason=reason)
        return Item(name=sample.name, **place, label=label, **known)

    def _label(self, label: str | None) -> str | None:
        if label is None or self.class_names is None or not _NUMBER.fullmatch(label):
            return label
        return name_of(int(label), self.class_names)


def _named(tar: str, name: str) -> str:
    return f"{tar.removesuffix(_SUFFIX)}/{name}"


def _listed(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, without hidden ones, and whether each is a folder."""
    try:
        with os.scandir(folder) as entries:
            return [(e.name, _is_folder(e)) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        raise SourceError(
            f"{to_text(os.fspath(folder))} cannot be listed ({error.strerror}): mend its "
            "permissions, or leave it out"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_tar(name: str, is_folder: bool) -> bool:
    return name.endswith(_SUFFIX) and not is_folder


def _holds_photographs(path: Path) -> bool:
    """Whether photographs lie in a folder, or in one of its folders."""
    if not path.is_dir():
        return False
    listed = _listed(path)
    if any(_is_photograph(name) for name, is_folder in listed if not is_folder):
        return True
    return any(
        _is_photograph(name)
        for folder, is_folder in listed
        if is_folder
        for name, inner in _listed(path / folder)
        if not inner
    )


def _is_photograph(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _manifest(path: Path) -> tuple[tuple[str, ...], Mapping[str, str], Sequence[Attribute]]:
    """Shards, types of classes, and attributes of a data set of our own."""
    try:
        values = json.loads(path.read_bytes())
        shards = tuple(str(s["file"]) for s in values["shards"])
        if any("/" in name for name in shards):
            raise ValueError("a shard of another folder")
        classes, types = values["classes"], values["class_types"]
        class_types = {c: t for c, t in zip(classes, types, strict=bool(types)) if t is not None}
        return shards, class_types, tuple(Attribute(**a) for a in values["attributes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(
            f"{to_text(os.fspath(path))} is damaged ({error}): take it from another copy of the "
            "data set"
        ) from error


def _known(about: Mapping[str, Any], attributes: int) -> dict[str, Any]:
    """What the JSON of our own says of an item, as the fields of :class:`Item`.

    Raises:
        TypeError, ValueError: it is none of ours.
    """
    if not isinstance(about.get("name"), str) or about.get("split") not in (None, *SPLITS):
        raise ValueError("it names no image")
    known: dict[str, Any] = {
        "split": about["split"],
        "positive": _whole(about.get("positive", [])),
        "unknown": _whole(about.get("unknown", [])),
        "landmarks": tuple(_whole(point, 3) for point in about.get("landmarks", [])),
        "metadata": dict(about.get("metadata", {})),
    }
    if not all(0 <= n < attributes for n in (*known["positive"], *known["unknown"])):
        raise ValueError("an attribute that dataset.json does not list")
    if "box" in about:
        known["box"] = _whole(about["box"], 4)
    if "group" in about:
        known["group"] = str(about["group"])
    return known


def _whole(values: Any, length: int | None = None) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int for v in values):
        raise TypeError(f"{values!r:.40} are not whole numbers")
    if length is not None and len(values) != length:
        raise ValueError(f"{values!r:.40} are not {length} numbers")
    return tuple(values)
