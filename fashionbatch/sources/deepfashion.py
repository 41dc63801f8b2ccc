"""DeepFashion's Category and Attribute Prediction benchmark, as it lies on disk."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fashionbatch.errors import SourceError, UnknownNameError, UsageError
from fashionbatch.sources.base import Attribute, Failure, Item, Source
from fashionbatch.sources.deepfashion_files import (
    CLOTHES_TYPES,
    MOST_LANDMARKS,
    SPLITS,
    Bits,
    Record,
    T,
    broken,
    read_attributes,
    read_categories,
    read_fine_landmarks,
    read_landmarks,
    read_names,
    read_numbers,
    read_splits,
    read_values,
    readable,
)

SETS = ("auto", "coarse", "fine")

_COARSE_FOLDERS = ("Anno", "Anno_coarse")
_FINE_FOLDER = "Anno_fine"
_IMAGE_FOLDERS = ("img", "Img/img")
_CATEGORIES = "list_category_cloth.txt"
_LABELS = "list_category_img.txt"
_ATTRIBUTES = "list_attr_cloth.txt"
_VALUES = "list_attr_img.txt"
_PARTITION = "Eval/list_eval_partition.txt"
_BATCH = 256  # images whose columns become items together
_NONE = -1
_NO_BOX = np.iinfo(np.int32).min


def is_deepfashion(path: Path) -> bool:
    """Whether a folder holds DeepFashion's coarse or fine annotations."""
    return _coarse_folder(path) is not None or (path / _FINE_FOLDER / "train.txt").is_file()


class DeepFashionSource(Source):
    """DeepFashion with categories, splits, boxes, landmarks and attributes.

    The coarse set (``Anno/`` or ``Anno_coarse/``) holds 289,222 images and 1,000 attributes, the
    fine set (``Anno_fine/``) 20,000 and 26. Images lie in ``img/`` or ``Img/img/``. Attributes,
    boxes, landmarks and the partition may be missing. An image's group is its product's folder;
    the partition is per image, so one product may lie in all three splits. Of an image without a
    row of attributes all are unknown.

    Args:
        path: of the folder that holds the annotations' folder.
        annotations: ``coarse``, ``fine``, or ``auto``: coarse where there, else fine.

    Raises:
        UsageError: it is not a folder, or ``annotations`` is none of these.
        SourceError: categories, attributes or images are missing or broken.

    Example:
        >>> item = next(DeepFashionSource(Path("deepfashion")).items())  # doctest: +SKIP
        >>> item.name, item.label, item.split  # doctest: +SKIP
        ('img/Sheer_Blouse/img_00000001.jpg', 'Blouse', 'train')
    """

    def __init__(self, path: Path, *, annotations: str = "auto") -> None:
        if annotations not in SETS:
            raise UnknownNameError("annotation set", annotations, SETS)
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder: name the one that holds Anno and img")
        self.path = path
        self.folder, self.fine = _annotations(path, annotations)
        self.images = _images(path)
        pairs = read_categories(_categories(path, self.folder))
        self.categories = tuple(name for name, _ in pairs)
        self.class_types: Mapping[str, str] = dict(pairs)
        self.attributes: Sequence[Attribute] = self._attributes()

    def items(self) -> Iterator[Item | Failure]:
        """See :class:`fashionbatch.Source`; in the order of the list of categories.

        All annotations are read and checked before the first item, and held in columns: some 350
        MB at full size. Images of the partition that have no category follow as failures.

        Raises:
            SourceError: a file is missing, cut short or broken.
        """
        table, failures = (self._read_fine(), []) if self.fine else self._read_coarse()
        if not table.names:
            raise SourceError(f"{self.folder} lists no images: fetch its files again")
        for start in range(0, len(table.names), _BATCH):
            yield from self._batch(table, start)
        yield from failures

    def _attributes(self) -> list[Attribute]:
        values = [f"{split}_attr.txt" for split in SPLITS] if self.fine else [_VALUES]
        present = [name for name in values if (self.folder / name).is_file()]
        if not present:
            return []
        names = self.folder / _ATTRIBUTES
        if not names.is_file():
            raise SourceError(
                f"{names} is missing: it names the attributes of {present[0]}; fetch it, or leave "
                f"{present[0]} out"
            )
        return read_attributes(names, fine=self.fine)

    def _read_coarse(self) -> tuple[_Table, list[Failure]]:
        table = _Table()
        file = self.folder / _LABELS
        for line, name, (label,) in read_numbers(
            file, 1, listed=True, low=1, high=len(self.categories)
        ):
            table.add(file, line, name, label)
        table.complete(len(self.attributes))

        if (file := self.folder / "list_bbox.txt").is_file():
            table.set_boxes(_joined(file, read_numbers(file, 4, listed=True), table.rows))
        if (file := self.folder / "list_landmarks.txt").is_file():
            for row, (kind, triples) in _joined(file, read_landmarks(file), table.rows):
                table.set_landmarks(row, triples)
                table.clothes_types[row] = kind
        if self.attributes:
            file = self.folder / _VALUES
            values = read_values(file, len(self.attributes), listed=True)
            table.set_attributes(_joined(file, values, table.rows))
        failures: list[Failure] = []
        if (file := self.path / _PARTITION).is_file():
            for row, split in _joined(file, read_splits(file), table.rows, failures):
                table.splits[row] = split
        return table, failures

    def _read_fine(self) -> _Table:
        table = _Table()
        parts: dict[str, range] = {}
        for split in SPLITS:
            if (file := self.folder / f"{split}.txt").is_file():
                first = len(table.names)
                self._add_fine(table, file)
                parts[split] = range(first, len(table.names))
        table.complete(len(self.attributes))
        for split, rows in parts.items():
            table.splits[rows.start : rows.stop] = SPLITS.index(split)
            names = self.folder / f"{split}.txt"
            if (file := self.folder / f"{split}_bbox.txt").is_file():
                table.set_boxes(_aligned(file, read_numbers(file, 4, listed=False), names, rows))
            if (file := self.folder / f"{split}_landmarks.txt").is_file():
                for row, triples in _aligned(file, read_fine_landmarks(file), names, rows):
                    table.set_landmarks(row, triples)
            if (file := self.folder / f"{split}_attr.txt").is_file():
                values = read_values(file, len(self.attributes), listed=False)
                table.set_attributes(_aligned(file, values, names, rows))
        return table

    def _add_fine(self, table: _Table, names: Path) -> None:
        """Adds the images of a split, of which each needs its category."""
        labels = names.with_name(f"{names.stem}_cate.txt")
        found = list(read_names(names))
        records = read_numbers(labels, 1, listed=False, low=1, high=len(self.categories))
        for i, (label,) in _aligned(labels, records, names, range(len(found))):
            table.add(names, *found[i], label)

    def _batch(self, table: _Table, start: int) -> Iterator[Item]:
        part = slice(start, start + _BATCH)
        width = len(self.attributes)
        rows = zip(
            table.names[part],
            table.lines[part],
            table.labels[part],
            table.splits[part].tolist(),
            table.boxes[part].tolist(),
            table.landmarks[part].tolist(),
            table.landmark_counts[part].tolist(),
            table.clothes_types[part].tolist(),
            _positions(table.positive[part], width),
            _positions(table.unknown[part], width),
            strict=True,
        )
        for name, line, label, split, box, landmarks, count, kind, positive, unknown in rows:
            folder = readable(name.rpartition(b"/")[0])
            metadata: dict[str, Any] = {"product": folder.rpartition("/")[2]} if folder else {}
            if kind:
                metadata["clothes_type"] = CLOTHES_TYPES[kind]
            yield Item(
                name=readable(name),
                path=self.images / os.fsdecode(name),
                label=self.categories[label - 1],
                split=SPLITS[split] if split != _NONE else None,
                group=folder or None,
                positive=positive,
                unknown=unknown,
                box=tuple(box) if box[0] != _NO_BOX else None,
                landmarks=tuple(map(tuple, landmarks[:count])),
                metadata=metadata,
                line=line,
            )


class _Table:
    """What the files say, a row per image: some 250 bytes and 2 bits per attribute each.

    Bits, because a file may leave most attributes unknown: lists of positions would then be as
    large as the file.
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, int] = {}  # files in any order need an index of the names
        self.names: list[bytes] = []
        self.lines = array("I")
        self.labels = array("H")

    def add(self, file: Path, line: int, name: bytes, label: int) -> None:
        """Adds an image; ``label`` counts from 1."""
        if name in self.rows:
            raise broken(file, line, f"{readable(name)!r} is listed a second time")
        if name.startswith(b"/") or b".." in name.split(b"/") or b"\0" in name:
            raise broken(file, line, f"{readable(name)!r} is not a file of the catalogue")
        self.rows[name] = len(self.names)
        self.names.append(name)
        self.lines.append(line)
        self.labels.append(label)

    def complete(self, attributes: int) -> None:
        """Makes the other columns, empty, when all images are in."""
        size, width = len(self.names), -(-attributes // 8)
        self.splits = np.full(size, _NONE, np.int8)
        self.boxes = np.full((size, 4), _NO_BOX, np.int32)
        self.landmarks = np.zeros((size, MOST_LANDMARKS, 3), np.int32)
        self.landmark_counts = np.zeros(size, np.uint8)
        self.clothes_types = np.zeros(size, np.uint8)
        self.positive = np.zeros((size, width), np.uint8)
        self.unknown = np.full((size, width), 0xFF, np.uint8)

    def set_boxes(self, boxes: Iterable[tuple[int, list[int]]]) -> None:
        for row, box in boxes:
            self.boxes[row] = box

    def set_landmarks(self, row: int, triples: list[int]) -> None:
        count = len(triples) // 3
        self.landmarks[row].reshape(-1)[: len(triples)] = triples
        self.landmark_counts[row] = count

    def set_attributes(self, values: Iterable[tuple[int, Bits]]) -> None:
        for row, (positive, unknown) in values:
            self.positive[row] = positive
            self.unknown[row] = unknown


def _joined(
    file: Path,
    records: Iterable[Record[T]],
    rows: Mapping[bytes, int],
    failures: list[Failure] | None = None,
) -> Iterator[tuple[int, T]]:
    """Gives each record its image's row; those of no image go to ``failures``."""
    seen = np.zeros(len(rows), np.bool_)
    for line, name, value in records:
        row = rows.get(name)
        if row is not None:
            if seen[row]:
                raise broken(file, line, f"{readable(name)!r} is listed a second time")
            seen[row] = True
            yield row, value
        elif failures is not None:
            reason = f"{_LABELS} gives it no category"
            failures.append(Failure(name=readable(name), stage="source", reason=reason, line=line))


def _aligned(
    file: Path, records: Iterable[Record[T]], names: Path, rows: range
) -> Iterator[tuple[int, T]]:
    """Gives each record the row of the image in the same line of ``names``."""
    found = 0
    for _, _, value in records:
        if found < len(rows):
            yield rows[found], value
        found += 1
    if found != len(rows):
        raise SourceError(
            f"{file} has {found} rows and {names} {len(rows)}: they belong together line by "
            "line, fetch both again"
        )


def _positions(bits: NDArray[np.uint8], width: int) -> list[tuple[int, ...]]:
    """Where bits are set, a tuple for each row."""
    rows, columns = np.nonzero(np.unpackbits(bits, axis=1, count=width))
    ends = np.searchsorted(rows, np.arange(len(bits)), side="right").tolist()
    found = columns.tolist()
    return [tuple(found[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def _coarse_folder(path: Path) -> Path | None:
    folders = (path / name for name in _COARSE_FOLDERS)
    return next((f for f in folders if (f / _LABELS).is_file()), None)


def _annotations(path: Path, annotations: str) -> tuple[Path, bool]:
    """The folder of the annotations, and whether they are the fine ones."""
    coarse, fine = _coarse_folder(path), path / _FINE_FOLDER
    if coarse is not None and annotations != "fine":
        return coarse, False
    if (fine / "train.txt").is_file() and annotations != "coarse":
        return fine, True
    wanted = {
        "coarse": f"Anno/{_LABELS} (or Anno_coarse/{_LABELS})",
        "fine": f"{_FINE_FOLDER}/train.txt",
        "auto": f"Anno/{_LABELS}, Anno_coarse/{_LABELS} or {_FINE_FOLDER}/train.txt",
    }
    raise SourceError(
        f"{path} does not hold {wanted[annotations]}: fetch the annotations, or name the folder "
        "above them"
    )


def _categories(path: Path, folder: Path) -> Path:
    folders = [folder, *(path / name for name in _COARSE_FOLDERS)]
    for file in (f / _CATEGORIES for f in folders):
        if file.is_file():
            return file
    raise SourceError(f"{folder / _CATEGORIES} is missing: it names the categories, fetch it")


def _images(path: Path) -> Path:
    """The folder that the images' names start from."""
    for name in _IMAGE_FOLDERS:
        if (path / name).is_dir():
            return (path / name).parent
    raise SourceError(f"{path} holds neither img nor Img/img: unpack the images (img.zip) there")
