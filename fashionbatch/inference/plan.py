"""What there is to predict: shards of a data set, or slices of a folder of images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.address import Address, Location, refuse_scheme
from fashionbatch.errors import ImageError, SourceError, UsageError
from fashionbatch.inference.catalogue import Catalogue, Elsewhere, Folder, PackedCatalogue
from fashionbatch.shards.read import ShardSet, has_images, is_shards, open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.sources import Failure
from fashionbatch.sources.base import to_text
from fashionbatch.sources.folder import is_image, walk
from fashionbatch.specs import SPLITS

#: images of a folder that make one part
SLICE = 1024
#: most images of a shard that make one part: a part is built in memory
MOST = 4096
#: how the hash of a unit begins whose shard cannot be used
DAMAGED = "damaged "
#: how that of a slice of a folder begins, of which an image could not be read
UNREAD = "unread "
_ALL = Selection()


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A shard or a slice: what becomes one part.

    Attributes:
        name: for people and for the store.
        chosen: what of the catalogue: rows one after the other, or int64 ``[N]``, ascending.
        sha256: stands for its content where that is known before any image is read: of a slice of a
            folder it is ``None``, and :func:`content` of what was read. Of a damaged shard it is
            another one than of the same shard when it is whole.
        damage: why the shard cannot be used: all of it fails.
        skipped: of a shard made elsewhere: what is in it and is no image that can be used.
    """

    name: str
    chosen: range | npt.NDArray[np.int64]
    sha256: str | None
    damage: str | None = None
    skipped: tuple[Failure, ...] = ()

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """int64 ``[N]``: of the catalogue."""
        chosen = self.chosen
        return np.arange(chosen.start, chosen.stop) if isinstance(chosen, range) else chosen

    @property
    def count(self) -> int:
        """Of what is predicted or fails: a damaged shard of unknown content is one failure."""
        return (len(self.chosen) or int(self.damage is not None)) + len(self.skipped)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All units of an input.

    Attributes:
        path: of the input, or its address.
        catalogue: reads it.
        units: in order.
        classes: the input's own vocabulary; empty for a folder.
        loose_classes: labels of shards made elsewhere, often numbers of a vocabulary that nobody
            recorded: those that the model knows are stored, others are no reason to refuse.
    """

    path: Location
    catalogue: Catalogue
    units: Sequence[Unit]
    classes: tuple[str, ...] = ()
    loose_classes: tuple[str, ...] = ()

    @property
    def items(self) -> int:
        """Of all units."""
        return sum(u.count for u in self.units)

    def stored_bytes(self, numbers: Sequence[int]) -> int:
        """Of the images of some units; of a folder each file is looked at."""
        units = [self.units[number] for number in numbers]
        return sum(self.catalogue.stored_bytes(u.rows) for u in units if u.damage is None)

    def labels(self, unit: Unit, classes: Sequence[str]) -> npt.NDArray[np.int32]:
        """int32 ``[N]``: of each image of a unit, the position of its label, -1 if it has none.

        Args:
            unit: of this plan.
            classes: that count.
        """
        return self.catalogue.labels(unit.rows, {name: i for i, name in enumerate(classes)})

    def absolute(self) -> Plan:
        """The same for a process on another machine, which opens it with :meth:`here`."""
        return replace(self, catalogue=self.catalogue.absolute())

    def here(self, stack: ExitStack) -> Plan:
        """The same, opened where this is called; itself, where it is open.

        Args:
            stack: ends what that takes.

        Raises:
            ShardError: the input is another one than was planned.
            RemoteError: it cannot be had.
        """
        return replace(self, catalogue=self.catalogue.here(stack))

    def bounded(self, most: int) -> Plan:
        """The same images in units of at most so many: a part is built in memory.

        Args:
            most: images of a unit.
        """
        if all(len(unit.chosen) <= most for unit in self.units):
            return self
        if isinstance(self.catalogue, Folder):
            return _of_folder(self.path, self.catalogue, min(SLICE, most))
        return replace(self, units=[p for unit in self.units for p in _pieces(unit, most)])


def make(
    path: Location,
    *,
    split: str | None,
    limit: int | None,
    selection: Selection = _ALL,
    exclude: Sequence[Path] = (),
) -> Plan:
    """Plans the prediction of a folder of images, one image, a data set or tar files.

    Args:
        path: of the input, or its address.
        split: of a data set, to predict that one only.
        limit: most items.
        selection: of a data set, to predict these only.
        exclude: files and folders below a folder of images that are left out. All other files
            are taken for images, whatever they are called, unless they are hidden.

    Raises:
        UsageError: nothing is there, or a split or selection is asked of a folder.
        SourceError: it is empty, or cannot be listed.
        ShardError: there are no shards at an address.
        RemoteError: a host cannot be reached, or refuses.
    """
    if isinstance(path, Address):
        if is_image(path.path) or has_images(path):
            _refuse_choice(path, split, selection)
            return _of_folder(path, Elsewhere.at(path, limit))
        return _of_shards(open_shards(path, strict=False, whole=False), split, selection, limit)
    refuse_scheme(path)
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: name a folder of images or of shards (an address begins with "
            "its scheme, such as s3://)"
        )
    if is_shards(path):
        return _of_shards(open_shards(path, strict=False, whole=False), split, selection, limit)
    _refuse_choice(path, split, selection)
    if path.is_file():
        return _of_folder(path, Folder(path.parent, [to_text(path.name)]))
    names = list(_listed(path, exclude))[:limit]
    if not names:
        raise SourceError(f"{path} holds no files to predict: name a folder with images in it")
    return _of_folder(path, Folder(path, names))


def _refuse_choice(path: Location, split: str | None, selection: Selection) -> None:
    """Nothing is known of the images of a folder."""
    if split is not None:
        raise UsageError(f"{path} is a folder of images and has no splits: leave --split out")
    if not selection.everything:
        raise UsageError(
            f"{path} is a folder of images, of which nothing is known to select by: pack it with "
            f"`fashionbatch shard {path}` first"
        )


def _listed(folder: Path, exclude: Sequence[Path]) -> Iterator[str]:
    """The name of every file that is not hidden."""
    left_out = {_real(p) for p in exclude}
    try:
        for parts, hidden in walk(folder):
            path = "/".join((os.fspath(folder), *parts))
            real = _real(path)
            if hidden is None and left_out.isdisjoint((real, *real.parents)):
                yield to_text("/".join(parts))
    except OSError as error:
        raise SourceError(
            f"{error.filename} cannot be listed ({error.strerror}): mend its permissions, or "
            "leave it out"
        ) from error


def _real(path: str | Path) -> Path:
    # not Path.resolve: that raises where links form a loop
    return Path(os.path.realpath(path))


def content(known: Iterable[tuple[str, bytes | ImageError]]) -> str:
    """Stands for the content of a slice of a folder.

    Args:
        known: of every image in order: its name, and the SHA-256 of its bytes or why they could not
            be read.
    """
    digest, prefix = hashlib.sha256(), ""
    for name, found in known:
        text = found.hex() if isinstance(found, bytes) else UNREAD
        prefix = prefix if isinstance(found, bytes) else UNREAD
        digest.update(hashlib.sha256(f"{name}\0{text}".encode()).digest())
    return prefix + digest.hexdigest()


def content_now(catalogue: Catalogue, unit: Unit) -> str:
    """What stands for a unit's content as it is; reads the files of a folder."""
    if unit.sha256 is not None:
        return unit.sha256

    def known() -> Iterator[tuple[str, bytes | ImageError]]:
        for row in unit.rows.tolist():
            try:
                yield catalogue.name(row), catalogue.sha256(row)
            except ImageError as error:
                yield catalogue.name(row), error

    return content(known())


def _pieces(unit: Unit, most: int) -> Iterator[Unit]:
    if len(unit.chosen) <= most:
        yield unit
        return
    for start in range(0, len(unit.chosen), most):
        chosen = unit.chosen[start : start + most]
        sha256 = files.fingerprint([unit.sha256, list(map(int, chosen))])
        yield replace(
            unit,
            name=f"{unit.name}[{start}:{start + len(chosen)}]",
            chosen=chosen,
            sha256=DAMAGED + sha256 if unit.damage is not None else sha256,
            skipped=() if start else unit.skipped,
        )


def _of_folder(path: Location, folder: Folder, most: int | None = None) -> Plan:
    most = SLICE if most is None else most
    name = path.name if isinstance(path, Address) else to_text(path.resolve().name)
    count = len(folder.names)
    units = [
        Unit(
            name=f"{name}[{start}:{min(start + most, count)}]",
            chosen=range(start, min(start + most, count)),
            sha256=folder.content(slice(start, start + most)),
        )
        for start in range(0, count, most)
    ]
    return Plan(path=path, catalogue=folder, units=units)


def _of_shards(
    shards: ShardSet, split: str | None, selection: Selection, limit: int | None
) -> Plan:
    of_shards = shards.spans(split)
    spans: Sequence[range | npt.NDArray[np.int64]] = of_shards
    if not selection.everything:
        rows = shards.select(split, selection, capped=(None, *SPLITS))
        spans = [rows[slice(*np.searchsorted(rows, (s.start, s.stop)))] for s in of_shards]
    if limit is not None:
        before = np.cumsum([0, *map(len, spans)]).tolist()
        spans = [s[: max(0, limit - b)] for s, b in zip(spans, before, strict=False)]
    shards = shards.restricted(selection)
    count = sum(map(len, spans))
    whole = count == len(shards)
    if not count and not (whole and (shards.damaged or shards.skipped)):
        raise SourceError(f"{shards.path} holds no images to predict")
    units = []
    for number, record in enumerate(shards.manifest.shards):
        mine = spans[number]
        if not len(mine) and not whole:
            continue
        damage = shards.damaged.get(number)
        for start in range(0, max(len(mine), 1), MOST):
            piece = mine[start : start + MOST]
            complete = len(piece) == record.items
            sha256, name = record.sha256, record.file
            if not complete:
                sha256 = files.fingerprint(f"{sha256} {list(map(int, piece))}")
            if len(mine) > MOST:
                name = f"{name}[{start}:{start + len(piece)}]"
            if damage is not None:
                # the same words wherever the shards lie
                reason = damage.replace(str(shards.file(number)), record.file)
                sha256 = DAMAGED + files.fingerprint([sha256, reason])
            # what is no image is told with the first piece of the whole shard
            skipped = shards.skipped.get(number, ()) if len(mine) == record.items else ()
            units.append(
                Unit(
                    name=name,
                    chosen=piece,
                    sha256=sha256,
                    damage=damage,
                    skipped=() if start else tuple(skipped),
                )
            )
    own = shards.is_ours
    return Plan(
        path=shards.path,
        catalogue=PackedCatalogue(shards),
        units=units,
        classes=shards.classes if own else (),
        loose_classes=() if own else shards.classes,
    )
