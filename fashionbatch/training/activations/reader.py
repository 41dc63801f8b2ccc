"""Activations read back, for any images in any order."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from fashionbatch.errors import TrainingError
from fashionbatch.models.cut import Crossing
from fashionbatch.training.activations import memory
from fashionbatch.training.activations.kept import Hold
from fashionbatch.training.activations.part import Rows, Stored

_OPEN_FILES = 16
_TYPES = {2: torch.float16, 4: torch.float32}
#: what they may take of the memory that is free
_SHARE = 4


class Activations:
    """What crosses the cut, of every image that could be used.

    Held in memory where it takes no more than the budget, else read from the files batch by batch.

    Args:
        stored: the files, views of one kind together, their rows ascending.
        crossing: the tensors.
        reused: an earlier run has computed them.
        budget: bytes; a quarter of the free memory by default.
        hold: keeps others from clearing the files as long as they are read.

    Attributes:
        failed: reason by row of the images that could not be used.
        held: they are in memory.
        reused: as given.
    """

    def __init__(
        self,
        stored: Sequence[Stored],
        crossing: Sequence[Crossing],
        *,
        reused: bool = False,
        budget: int | None = None,
        hold: Hold | None = None,
    ) -> None:
        self.reused = reused
        self._hold = hold
        self.failed = {row: reason for each in stored for row, reason in each.failed.items()}
        self._stored = list(stored)
        self._crossing = list(crossing)
        self._starts = np.cumsum([0, *(len(each.rows) for each in stored)])
        self._files: OrderedDict[Path, h5py.File] = OrderedDict()
        self._known: dict[int, tuple[int, Rows]] = {}
        for copy in dict.fromkeys(each.copy for each in stored):
            first = next(i for i, each in enumerate(stored) if each.copy == copy)
            rows = np.concatenate([each.rows for each in stored if each.copy == copy])
            self._known[copy] = (int(self._starts[first]), rows)
        self._values: list[Tensor] = []
        types = [self._type(number) for number in range(len(self._crossing))]
        taken = len(self) * sum(
            type_.itemsize * int(np.prod(c.shape, dtype=np.int64))
            for type_, c in zip(types, self._crossing, strict=True)
        )
        self.held = taken <= (memory.available() // _SHARE if budget is None else budget)
        if self.held:
            self._values = [self._whole(number, type_) for number, type_ in enumerate(types)]
            self.close()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def places(self, rows: Rows, copy: int) -> Rows:
        """Where the images of ``rows`` lie in the view ``copy``; -1 where one could not be used."""
        start, known = self._known.get(copy, (0, np.empty(0, np.int64)))
        if not len(known):
            return np.full(len(rows), -1, np.int64)
        found = np.minimum(np.searchsorted(known, rows), len(known) - 1)
        return np.where(known[found] == rows, start + found, -1).astype(np.int64)

    def batch(self, places: Rows) -> tuple[Tensor, ...]:
        """float32 ``[N, *shape]`` of each tensor, for any places, repeated ones too.

        Raises:
            TrainingError: a file has been damaged since it was checked.
        """
        # torch's memory is aligned and numpy's is not: matrix products round by alignment, and a
        # resumed run must equal an uninterrupted one
        if self.held:
            chosen = torch.from_numpy(places)
            return tuple(values.index_select(0, chosen).float() for values in self._values)
        batch = tuple(torch.empty(len(places), *c.shape) for c in self._crossing)
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(numbers).tolist():
            targets = np.flatnonzero(numbers == number)
            wanted, back = np.unique(places[targets] - self._starts[number], return_inverse=True)
            for place, values in enumerate(batch):
                read = self._read(number, place, wanted)
                values[torch.from_numpy(targets)] = read[torch.from_numpy(back)].float()
        return batch

    def close(self) -> None:
        """Closes the files, and lets others clear them."""
        while self._files:
            self._files.popitem()[1].close()
        self._hold = None

    def _type(self, place: int) -> np.dtype[Any]:
        return max((each.types[place] for each in self._stored), key=lambda t: t.itemsize)

    def _whole(self, place: int, type_: np.dtype[Any]) -> Tensor:
        shape = (len(self), *self._crossing[place].shape)
        values = torch.empty(shape, dtype=_TYPES[type_.itemsize])
        for number, each in enumerate(self._stored):
            if len(each.rows):
                start = int(self._starts[number])
                target = values[start : start + len(each.rows)].numpy()
                self._dataset(number, place).read_direct(target)
        return values

    def _read(self, number: int, place: int, wanted: Rows) -> Tensor:
        shape = (len(wanted), *self._crossing[place].shape)
        values = torch.empty(shape, dtype=_TYPES[self._stored[number].types[place].itemsize])
        # run by run: a list of rows is one selection to HDF5, and takes it many times as long
        starts = [0, *(np.flatnonzero(np.diff(wanted) > 1) + 1).tolist(), len(wanted)]
        try:
            dataset = self._dataset(number, place)
            for start, end in itertools.pairwise(starts):
                first, last = int(wanted[start]), int(wanted[end - 1])
                dataset.read_direct(values.numpy(), np.s_[first : last + 1], np.s_[start:end])
        except OSError as error:
            raise TrainingError(
                f"{self._stored[number].path} is damaged ({str(error).splitlines()[0]}): run the "
                "same command again, and it is computed anew"
            ) from error
        return values

    def _dataset(self, number: int, place: int) -> h5py.Dataset:
        path = self._stored[number].path
        if path not in self._files:
            if len(self._files) == _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            # no cache of chunks: places are random, and the system caches the file
            self._files[path] = h5py.File(path, rdcc_nbytes=0)
        self._files.move_to_end(path)
        return self._files[path][f"tensors/{self._crossing[place].name}"]
