"""IDX files, the format of MNIST and Fashion-MNIST: all images in one file, labels in another.

LeCun's format: two zero bytes, the type of the numbers (8: unsigned bytes), how many dimensions,
the size of each as big-endian uint32, the numbers.
"""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources.base import Item, Source, to_text
from fashionbatch.sources.folder import SPLIT_FOLDERS

_IMAGES = re.compile(r"(?P<prefix>.*?)[-_.]?images(?P<mark>[-.])idx[34]-ubyte(?P<packed>\.gz)?")
_SPLITS = {**SPLIT_FOLDERS, "t10k": "test"}
_UNSIGNED_BYTES = 8
_PIECE = 1 << 20
#: most bytes that a compressed file is unpacked to, in memory
MAX_UNPACKED = 2 << 30
#: deflate makes nothing smaller than this
_MAX_RATIO = 1032


def is_idx(path: Path) -> bool:
    """Whether this source can read what lies at ``path``."""
    return bool(_image_files(path))


class IdxSource(Source):
    """Images of IDX files, as PNG files.

    ``train-images-idx3-ubyte`` holds grey images ``[N, H, W]``, ``train-images-idx4-ubyte`` RGB
    ones ``[N, H, W, 3]``; ``train-labels-idx1-ubyte`` beside it holds their labels ``[N]`` and can
    be missing. A dot can stand for the hyphen before ``idx``, and each can end in ``.gz``. What
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
        """See :class:`fashionbatch.Source`; every file is read to its end before its first item.

        Raises:
            SourceError: a file is damaged, cut short or of another format, or images and labels
                do not fit together.
            UsageError: there are fewer class names than labels.
        """
        pairs = list(_pairs(self.path))
        if not any(self._labels(images, labels)[0] for images, labels in pairs):
            raise SourceError(f"{self.path} holds no images: its files have no rows")
        for images, labels in pairs:
            count, numbers = self._labels(images, labels)
            prefix = _prefix(images)
            split = split_of(prefix)
            for row in range(count):
                yield Item(
                    name=to_text(f"{prefix}-{row:05d}" if prefix else f"{row:05d}"),
                    path=images,
                    offset=row,
                    label=None if numbers is None else name_of(numbers[row], self.class_names),
                    split=split,
                )

    def read(self, item: Item) -> bytes:
        """The PNG file made of a row.

        Raises:
            OSError: the images cannot be read any more.
        """
        assert item.path is not None and item.offset is not None
        try:
            pixels = _row(item.path, item.offset)
        except SourceError as error:
            raise OSError(errno.EIO, str(error)) from error
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()
