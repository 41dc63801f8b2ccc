"""One file of activations: some images in one view, committed whole, checked whole.

``part-000000.h5`` holds ``rows`` (int64 ``[N]``, ascending), ``tensors/NAME`` (``[N, *shape]``) for
each tensor that crosses the cut, and ``failures/row`` and ``failures/reason`` of the images that
have no row. A tensor is stored as float16; where a value of the part is too large for that, as
float32. Numbers have checksums (fletcher32), HDF5's own structures too, and what is small is hashed
besides, so that a file with any damage is found out and made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch import files
from fashionbatch.errors import TrainingError
from fashionbatch.models.cut import Crossing
from fashionbatch.models.threads import pieces

#: number of the view without augmentation
PLAIN = -1
#: rows of at least this size have a chunk each; smaller ones share chunks of about a mebibyte
_OWN_CHUNK = 32 << 10
_CHUNK_BYTES = 1 << 20
_CHECK_BYTES = 16 << 20
#: from here on a number rounds to infinity in float16 (65504 is its largest)
_OVERFLOW = 65520.0
#: the first whose structures have checksums
_FORMAT = "v110"

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a file is to hold.

    Attributes:
        number: in the store.
        copy: random view, or ``PLAIN``.
        rows: int64, ascending.
    """

    number: int
    copy: int
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a file holds.

    Attributes:
        path: of the file.
        copy: random view, or ``PLAIN``.
        rows: int64 ``[N]``, ascending: those of the images that could be used.
        failed: reason by row.
        types: of each tensor, float16 or float32.
    """

    path: Path
    copy: int
    rows: Rows
    failed: dict[int, str]
    types: tuple[np.dtype[Any], ...]


@dataclass(kw_only=True)
class Collected:
    """A part while it is computed.

    Attributes:
        part: what it is to hold.
        crossing: what is kept of each image.
        rows: so far, and ``failed`` so far.
    """

    part: Part
    crossing: Sequence[Crossing]
    rows: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    _buffers: list[npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.part.rows)
        self._buffers = [np.empty((count, *c.shape), np.float16) for c in self.crossing]

    def add(self, rows: Rows, tensors: Sequence[Tensor]) -> None:
        """Takes float ``[n, *shape]`` of each; a row that is not finite becomes a failure."""
        peaks = torch.stack([_peaks(tensor) for tensor in tensors])
        finite = peaks.isfinite().all(dim=0)
        too_large = (peaks[:, finite] >= _OVERFLOW).any(dim=1).tolist()
        good = finite.cpu().numpy()
        self.failed.update((row, "model: gives no finite numbers") for row in rows[~good].tolist())
        start = len(self.rows)
        self.rows += rows[good].tolist()
        for place, tensor in enumerate(tensors):
            if too_large[place]:
                self._buffers[place] = self._buffers[place].astype(np.float32, copy=False)
            buffer = self._buffers[place]
            at = start
            for kept in pieces(tensor if good.all() else tensor[finite]):
                kept = kept.half() if buffer.dtype == np.float16 else kept.float()
                buffer[at : at + len(kept)] = kept.contiguous().cpu().numpy()
                at += len(kept)

    def commit(self, folder: Path, key: str) -> Stored:
        """Writes the file.

        Returns:
            what it holds.

        Raises:
            TrainingError: it cannot be written.
        """
        path = path_of(folder, self.part.number)
        rows = np.array(self.rows, np.int64)
        tensors = [buffer[: len(self.rows)] for buffer in self._buffers]
        try:
            with (
                files.atomic(path) as temporary,
                h5py.File(temporary, "w", libver=_FORMAT) as file,
            ):
                _write(file, key, self.part, rows, self.failed)
                for crossing, values in zip(self.crossing, tensors, strict=True):
                    _write_tensor(file, crossing, values)
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be written ({str(error).splitlines()[0]}): make room and run the "
                "same command again; finished parts are kept"
            ) from error
        types = tuple(buffer.dtype for buffer in self._buffers)
        return Stored(path=path, copy=self.part.copy, rows=rows, failed=self.failed, types=types)


def _peaks(tensor: Tensor) -> Tensor:
    """float32 ``[N]``: the largest absolute value of each row; NaN where there is one."""
    axes = tuple(range(1, tensor.ndim))
    found = [torch.maximum(each.amax(axes), -each.amin(axes)) for each in pieces(tensor)]
    return torch.cat(found).float()


def path_of(folder: Path, number: int) -> Path:
    """Where a part lies."""
    return folder / f"part-{number:06d}.h5"


def row_bytes(crossing: Sequence[Crossing]) -> int:
    """Of one image, in float16."""
    return sum(2 * int(np.prod(c.shape, dtype=np.int64)) for c in crossing)


def size(part: Part, key: str, crossing: Sequence[Crossing]) -> int:
    """Bytes that the file takes if all its images can be used and no value is too large."""
    with h5py.File("part", "w", driver="core", backing_store=False, libver=_FORMAT) as file:
        _write(file, key, part, part.rows, {})
        for each in crossing:
            _write_tensor(file, each, np.zeros((len(part.rows), *each.shape), np.float16))
        file.flush()
        return len(file.id.get_file_image())  # the file's own size is rounded up


def _write(file: h5py.File, key: str, part: Part, rows: Rows, failed: dict[int, str]) -> None:
    numbers = np.array(list(failed), np.int64)
    reasons = list(failed.values())
    file.create_dataset("rows", data=rows)
    file.create_dataset("failures/row", data=numbers)
    file.create_dataset("failures/reason", data=reasons, dtype=h5py.string_dtype())
    file.attrs["key"] = key
    file.attrs["copy"] = part.copy
    file.attrs["sha256"] = _digest(rows, numbers, reasons)


def _write_tensor(file: h5py.File, crossing: Crossing, values: npt.NDArray[Any]) -> None:
    layout: dict[str, Any] = {}
    if values.size:
        row = values[0].nbytes
        together = 1 if row >= _OWN_CHUNK else min(len(values), max(1, _CHUNK_BYTES // row))
        layout = {"chunks": (together, *crossing.shape), "fletcher32": True}
    file.create_dataset(f"tensors/{crossing.name}", data=values, **layout)


def _digest(rows: Rows, numbers: Rows, reasons: list[str]) -> str:
    return files.fingerprint(
        [hashlib.sha256(a.tobytes()).hexdigest() for a in (rows, numbers)] + reasons
    )


def read(folder: Path, key: str, part: Part, crossing: Sequence[Crossing]) -> Stored | None:
    """Reads a file through.

    Returns:
        what it holds; ``None`` where there is none yet, or it is damaged, or of something else.
    """
    path = path_of(folder, part.number)
    try:
        with h5py.File(path, rdcc_nbytes=0) as file:
            rows, numbers = file["rows"][()], file["failures/row"][()]
            reasons = file["failures/reason"].asstr()[()].tolist()
            tensors = [file[f"tensors/{c.name}"] for c in crossing]
            fits = (
                file.attrs["key"] == key
                and file.attrs["copy"] == part.copy
                and file.attrs["sha256"] == _digest(rows, numbers, reasons)
                and np.array_equal(np.sort(np.concatenate([rows, numbers])), part.rows)
                and all(
                    tensor.shape == (len(rows), *c.shape)
                    for tensor, c in zip(tensors, crossing, strict=True)
                )
            )
            if not fits:
                return None
            for tensor in tensors:
                _read_through(tensor)
            types = tuple(tensor.dtype for tensor in tensors)
    except (OSError, KeyError, ValueError, RuntimeError):
        return None
    failed = dict(zip(numbers.tolist(), reasons, strict=True))
    return Stored(path=path, copy=part.copy, rows=rows, failed=failed, types=types)


def _read_through(tensor: h5py.Dataset) -> None:
    """Every chunk once, for its checksum."""
    if tensor.size:
        step = max(1, _CHECK_BYTES // max(1, tensor.nbytes // len(tensor)))
        step = -(-step // tensor.chunks[0]) * tensor.chunks[0]
        for start in range(0, len(tensor), step):
            tensor[start : start + step]
