"""IDX files, the format of MNIST and Fashion-MNIST: all images in one file, labels in another.

LeCun's format: two zero bytes, the type of the numbers (8: unsigned bytes), how many dimensions,
the size of each as big-endian uint32, the numbers.
"""

from __future__ import annotations

import errno
import functools
import gzip
import io
import math
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources.base import Item, Source, to_text
from fashionbatch.sources.names import name_of, read_class_names, split_in

#: most bytes that a compressed file is unpacked to: they are held in memory
MAX_UNPACKED = 2 << 30

_IMAGES = re.compile(r"(?P<prefix>.*?)[-_.]?images[-.]idx[34]-ubyte(\.gz)?")
_UNSIGNED_BYTES = 8
_COLOURS = 3
_PIECE = 1 << 20
# deflate makes nothing smaller than this
_MAX_RATIO = 1032

Pixels = npt.NDArray[np.uint8]


def is_idx(path: Path) -> bool:
    """Whether this source can read what lies at ``path``."""
    return bool(_image_files(path))


class IdxSource(Source):
    """Images of IDX files, as PNG files.

    ``train-images-idx3-ubyte`` holds grey images ``[N, H, W]`` or, with four dimensions, RGB ones
    ``[N, H, W, 3]``; ``train-labels-idx1-ubyte`` beside it holds their labels ``[N]``, and may be
    missing. A dot can stand for the hyphen before ``idx``, and each name can end in ``.gz``. What
    stands before ``images`` gives the split: ``train``; ``t10k`` or ``test``; ``val``; else none.
    Row 12 of ``train-images-idx3-ubyte`` is called ``train-00012``.

    Args:
        path: a folder with such files, or one file of images.
        class_names: UTF-8 text file whose line ``n``, counted from 0, names label ``n``; without
            it the labels are their numbers, as text.

    Raises:
        UsageError: no such file is there, or the class names cannot be used.

    Example:
        >>> next(IdxSource(Path("fashion-mnist")).items())  # doctest: +SKIP
        Item(name='t10k-00000', label='9', split='test', ...)
    """

    def __init__(self, path: Path, *, class_names: Path | None = None) -> None:
        if not is_idx(path):
            raise UsageError(
                f"{path} holds no IDX images: name a folder with files like train-images-idx3-ubyte"
            )
        self.path = path
        self.class_names = None if class_names is None else read_class_names(class_names)

    def items(self) -> Iterator[Item]:
        """See :class:`fashionbatch.Source`; all files are read through before the first item.

        Raises:
            SourceError: a file is damaged, cut short or of another format, images and labels do
                not fit together, or there are no images.
            UsageError: a label has no class name.
        """
        files = [(images, *self._rows(images)) for images in self._files()]
        if not any(count for _, count, _ in files):
            raise SourceError(f"{_where(self.path)} holds no images: its files have no rows")
        for images, count, labels in files:
            prefix = _prefix(images)
            split = split_in(prefix)
            for row in range(count):
                yield Item(
                    name=to_text(f"{prefix}-{row:05d}" if prefix else f"{row:05d}"),
                    path=images,
                    offset=row,
                    label=None if labels is None else self._label(labels[row]),
                    split=split,
                )

    def read(self, item: Item) -> bytes:
        """The PNG file made of a row.

        Raises:
            OSError: the images cannot be read any more.
        """
        assert item.path is not None and item.offset is not None
        try:
            pixels = _row(Path(item.path), item.offset)
        except SourceError as error:
            raise OSError(errno.EIO, str(error)) from error
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    def _files(self) -> list[Path]:
        """The files of images; of a file and its compressed copy, the file."""
        names = {path.name for path in _image_files(self.path)}
        chosen: dict[str, Path] = {}
        for path in _image_files(self.path):
            if path.name.removesuffix(".gz") in names and path.suffix == ".gz":
                continue
            other = chosen.setdefault(_prefix(path), path)
            if other != path:
                raise SourceError(
                    f"{_where(other)} and {to_text(path.name)} would give their images the same "
                    "names: leave one out"
                )
        return list(chosen.values())

    def _rows(self, images: Path) -> tuple[int, bytes | None]:
        """How many images there are, and their labels."""
        count = _check(images, (3, 4))[0]
        path = _labels_file(images)
        if path is None:
            return count, None
        with _checked(path, (1,)) as (file, (labelled,)):
            labels = file.read(labelled)
        if labelled != count:
            raise SourceError(
                f"{_where(path)} holds {labelled} labels for the {count} images of "
                f"{to_text(images.name)}: they do not belong together"
            )
        for number in sorted(set(labels)):
            self._label(number)  # so that a missing name is found before hours of work
        return count, labels

    def _label(self, number: int) -> str:
        return str(number) if self.class_names is None else name_of(number, self.class_names)


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        with os.scandir(path) as entries:
            names = [e.name for e in entries if _IMAGES.fullmatch(e.name) and e.is_file()]
        return [path / name for name in sorted(names)]
    return [path] if _IMAGES.fullmatch(path.name) and path.is_file() else []


def _prefix(images: Path) -> str:
    found = _IMAGES.fullmatch(images.name)
    assert found is not None
    return found["prefix"]


def _labels_file(images: Path) -> Path | None:
    stem = images.name.removesuffix(".gz")[: -len("images-idx3-ubyte")] + "labels"
    for mark in ("-", "."):
        for packed in ("", ".gz"):
            path = images.with_name(f"{stem}{mark}idx1-ubyte{packed}")
            if os.path.lexists(path):  # a link to nowhere is no catalogue without labels
                return path
    return None


def _where(path: Path) -> str:
    return to_text(os.fspath(path))


def _row(path: Path, row: int) -> Pixels:
    if path.suffix == ".gz":
        status = path.stat()
        with _unpacking:  # threads would each unpack it
            images = _unpacked(path, status.st_mtime_ns, status.st_size)
        pixels: Pixels = images[row]
        return pixels
    with _opened(path) as (file, _):
        shape = _header(file, path, (3, 4))
        size = math.prod(shape[1:])
        file.seek(row * size, os.SEEK_CUR)
        return _array(file.read(size), shape[1:])


_unpacking = threading.Lock()


@functools.lru_cache(maxsize=2)  # a catalogue is mostly read file by file
def _unpacked(path: Path, mtime: int, size: int) -> Pixels:
    with _checked(path, (3, 4)) as (file, shape):
        return _array(file.read(math.prod(shape)), shape)


def _array(data: bytes, shape: tuple[int, ...]) -> Pixels:
    if len(data) != math.prod(shape):
        raise OSError(errno.EIO, "the file became shorter")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _check(path: Path, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes that a file has; a compressed one is read to its end, for its checksum."""
    with _checked(path, ranks) as (file, shape):
        if path.suffix == ".gz":
            left = math.prod(shape)
            while left and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
    return shape


@contextmanager
def _checked(path: Path, ranks: tuple[int, ...]) -> Iterator[tuple[BinaryIO, tuple[int, ...]]]:
    """A file at its first number, and its sizes; to be read to the end, which is looked at then.

    Raises:
        SourceError: it is of another format, or not as long as it says.
    """
    where = _where(path)
    with _opened(path) as (file, length):
        shape = _header(file, path, ranks)
        claimed = math.prod(shape)
        if path.suffix == ".gz":
            if claimed > length * _MAX_RATIO:
                raise SourceError(
                    f"{where} is cut short: it says that it holds {claimed} bytes: fetch it again"
                )
            if claimed > MAX_UNPACKED:
                raise SourceError(
                    f"{where} holds {claimed} bytes, too many to unpack in memory: unpack it with "
                    "gunzip"
                )
            yield file, shape
            if file.tell() != _start(shape) + claimed or file.read(1):
                raise SourceError(f"{where} is not as long as it says: fetch it again")
            return
        if length != _start(shape) + claimed:
            raise SourceError(
                f"{where} says that it holds {claimed} bytes and holds "
                f"{length - _start(shape)}: fetch it again"
            )
        yield file, shape


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file's unpacked bytes, and its length on the disk."""
    where = _where(path)
    try:
        # not blocking: opening a named pipe would wait for its writer for ever
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123  # Path.open takes no flags
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"{where} is not a regular file: leave it out")
            if path.suffix != ".gz":
                yield file, status.st_size
                return
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked, status.st_size  # type: ignore[misc]  # a GzipFile reads like one
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{where} is damaged ({error}): fetch it again") from error
    except OSError as error:
        raise SourceError(
            f"{where} cannot be read ({error.strerror or error}): mend it, or leave it out"
        ) from error


def _header(file: BinaryIO, path: Path, ranks: tuple[int, ...]) -> tuple[int, ...]:
    where = _where(path)
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise SourceError(f"{where} is no IDX file: it begins with {magic.hex(' ') or 'nothing'}")
    kind, rank = magic[2:]
    if kind != _UNSIGNED_BYTES or rank not in ranks:
        raise SourceError(
            f"{where} holds numbers of type {kind} in {rank} dimensions, not unsigned bytes "
            f"(type {_UNSIGNED_BYTES}) in {' or '.join(map(str, ranks))}: convert it"
        )
    sizes = file.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise SourceError(f"{where} is cut short within its header: fetch it again")
    shape = struct.unpack(f">{rank}I", sizes)
    if rank > 1 and 0 in shape[1:]:
        raise SourceError(f"{where} holds images of {shape[1]} × {shape[2]} pixels: leave it out")
    if rank == 4 and shape[3] != _COLOURS:
        raise SourceError(
            f"{where} holds images of {shape[3]} colours, not of {_COLOURS}: convert it"
        )
    return shape


def _start(shape: tuple[int, ...]) -> int:
    return 4 + 4 * len(shape)
