"""Where the photographs to explain come from: paths, or rows of a prediction file."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from fashionbatch.address import Address, Location, is_address
from fashionbatch.drawing.catalogue import Catalogue
from fashionbatch.errors import ImageError, UsageError
from fashionbatch.shards.read import has_images, is_shards, open_shards
from fashionbatch.sources import Failure, Item
from fashionbatch.sources.base import to_text
from fashionbatch.sources.folder import FolderSource
from fashionbatch.store.answers import answers_of
from fashionbatch.store.reader import Predictions

T = TypeVar("T")

#: photographs that are announced to whoever reads them
_TOGETHER = 64


class Source(NamedTuple):
    """A photograph before it is read: one that cannot be read must not end the run.

    Attributes:
        name: what its catalogue calls it.
        label: its class, if it is known.
        read: gives its bytes; raises ImageError or OSError.
    """

    name: str
    label: str | None
    read: Callable[[], bytes]


def of_paths(paths: Sequence[Location], limit: int | None = None) -> Iterator[Source]:
    """Images, folders and data sets; of a loose image its folder's name is the class.

    Args:
        paths: of them, or their addresses.
        limit: so many are wanted at most: of a folder or data set with more, they are spread over
            it, because its first ones may all be of one class; of several, each gives in turn.

    Raises:
        UsageError: one does not exist.
        RemoteError: a host cannot be reached, or refuses.
    """
    for path in paths:
        if isinstance(path, Path) and not path.exists():
            raise UsageError(f"{path} does not exist: name images, folders or data sets")
    each = [_of_path(path, limit) for path in paths]
    if limit is None:
        yield from itertools.chain(*each)
        return
    for row in itertools.zip_longest(*each):  # some of each
        yield from (source for source in row if source is not None)


def _of_path(path: Location, limit: int | None) -> Iterator[Source]:
    found = _images(path)
    if found is None:
        shards = open_shards(path)
        for place, row in enumerate(rows := _spread(range(len(shards)), limit)):
            if place % _TOGETHER == 0:
                shards.expect(rows[place : place + _TOGETHER])
            number = int(shards.labels[row])
            label = shards.classes[number] if number >= 0 else None
            yield Source(shards.name(row), label, functools.partial(shards.read, row))
        return
    for item in _spread(found, limit):
        yield Source(item.name, _folder(item) or None, item.read)


def _images(path: Location) -> Sequence[Item] | None:
    """Loose images; ``None`` of shards."""
    if isinstance(path, Address):
        from fashionbatch.sources import elsewhere

        images = elsewhere.images(path)
        if images is not None or not has_images(path):
            return images
    elif is_shards(path):
        return None
    elif path.is_file():
        return [Item(name=to_text(path.name), path=path)]
    found = FolderSource(path, layout="flat").items()
    return [item for item in found if not isinstance(item, Failure)]  # not an image


def _folder(item: Item) -> str:
    """The name of the folder that an image lies in."""
    assert item.path is not None
    if is_address(item.path):
        return Address(str(item.path)).parent.path.rpartition("/")[2]
    return Path(item.path).absolute().parent.name


def _spread(found: Sequence[T], limit: int | None) -> Sequence[T]:
    """At most so many, evenly apart."""
    if limit is None or len(found) <= limit:
        return found
    return [found[int(place)] for place in np.linspace(0, len(found) - 1, limit)]


def of_rows(
    predictions: Predictions, catalogue: Catalogue, rows: npt.NDArray[np.int64]
) -> Iterator[Source]:
    """Rows of a prediction file, in the order given."""
    for place, row in enumerate(rows.tolist()):
        if place % _TOGETHER == 0:
            catalogue.expect(rows[place : place + _TOGETHER].tolist())
        found = predictions[row]
        yield Source(found.name, found.label, functools.partial(_read, catalogue, row))


def choose(predictions: Predictions, which: str, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Rows to explain.

    Args:
        predictions: the file.
        which: ``mistakes`` (of a known class and another one predicted, the surest first),
            ``right`` (likewise), ``unsure`` (the least sure first), or ``all``, in their order.
        names: of rows; if there are any, these are taken.

    Returns:
        int64.

    Raises:
        UnknownNameError: there is no row of that name.
        UsageError: there is no such row, or the model learnt no category.
    """
    if names:
        return np.array([predictions.row(name) for name in names], np.int64)
    if which == "all":
        return np.arange(len(predictions))
    if not predictions.classes:
        raise UsageError(f"--rows {which}: the model learnt no category; use --rows all")
    answers = answers_of(predictions)
    rows = np.arange(len(predictions))
    if which != "unsure":
        right = (answers.labels >= 0) & ~answers.wrong
        rows = np.flatnonzero(right if which == "right" else answers.wrong)
    order = answers.confidence[rows] * (1 if which == "unsure" else -1)
    found: npt.NDArray[np.int64] = rows[np.argsort(order, kind="stable")].astype(np.int64)
    if not len(found):
        raise UsageError(
            f"--rows {which}: {predictions.path} has none; of {len(predictions):,} rows the class "
            f"of {int((answers.labels >= 0).sum()):,} is known"
        )
    return found


def _read(catalogue: Catalogue, row: int) -> bytes:
    data = catalogue.read(row)
    if isinstance(data, str):
        raise ImageError("read", data)
    return data
