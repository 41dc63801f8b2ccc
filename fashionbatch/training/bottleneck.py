"""Offline training: the frozen base's features are computed once, then the head alone is trained.

The features lie in an HDF5 file named by what they depend on (network, weights, preprocessing,
images), so another training on the same ones does not compute them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch import files
from fashionbatch.models.build import Classifier, Outputs
from fashionbatch.pipeline.batches import Order, batches
from fashionbatch.shards.read import ShardSet
from fashionbatch.specs import Preprocessing
from fashionbatch.training.sampling import Sampling
from fashionbatch.training.targets import Targets
from fashionbatch.training.task import TrainingBatch

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Features:
    """Bottleneck features of some rows of a data set.

    Attributes:
        rows: int64 ``[N]``, ascending, without the images that could not be used.
        values: float32 ``[N, D]``.
        failed: reason by row.
        reused: they were read from the cache.
    """

    rows: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    failed: Mapping[int, str]
    reused: bool


def compute(
    model: Classifier,
    shards: ShardSet,
    rows: npt.NDArray[np.int64],
    preprocessing: Preprocessing,
    cache: Path,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    progress: Callable[[int], None],
) -> Features:
    """Runs the base over the rows, or reads what an earlier run saved.

    Args:
        model: its backbone is used, in evaluation mode.
        shards: the data set.
        rows: int64 ``[N]``.
        preprocessing: fits the images.
        cache: file to read or make.
        batch_size: images per forward pass.
        workers: processes that decode.
        device: of the model.
        progress: called with the number of images done since the last call.
    """
    rows = np.sort(rows)
    found = _read(cache, rows)
    if found is not None:
        return found
    model.eval()
    good: list[npt.NDArray[np.int64]] = []
    values: list[npt.NDArray[np.float32]] = []
    failed: dict[int, str] = {}
    order = Order.sequential(rows, batch_size)
    with torch.inference_mode():
        for batch in batches(shards, order, preprocessing, workers=workers):
            failed.update((row, str(error)) for row, error in batch.failures)
            if len(batch.rows):
                values.append(model.bottleneck(batch.images.to(device)).float().cpu().numpy())
                good.append(batch.rows)
            progress(len(batch.rows) + len(batch.failures))
    features = Features(
        rows=np.concatenate(good) if good else np.empty(0, np.int64),
        values=np.concatenate(values) if values else np.empty((0, 0), np.float32),
        failed=failed,
        reused=False,
    )
    _write(cache, features)
    return features


def _write(path: Path, features: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("rows", data=features.rows)
        values = features.values
        chunks = None
        if values.size:
            chunks = (
                max(1, min(len(values), _CHUNK_BYTES // max(1, values[0].nbytes))),
                values.shape[1],
            )
        file.create_dataset("values", data=values, chunks=chunks, fletcher32=chunks is not None)
        file.create_dataset("failed/row", data=np.array(list(features.failed), np.int64))
        file.create_dataset(
            "failed/reason", data=list(features.failed.values()), dtype=h5py.string_dtype()
        )


def _read(path: Path, rows: npt.NDArray[np.int64]) -> Features | None:
    try:
        with h5py.File(path) as file:
            features = Features(
                rows=file["rows"][()],
                values=file["values"][()],
                failed=dict(
                    zip(
                        file["failed/row"][()].tolist(),
                        file["failed/reason"].asstr()[()],
                        strict=True,
                    )
                ),
                reused=True,
            )
    except (OSError, KeyError, ValueError):  # none yet, or damaged: it is computed again
        return None
    known = np.sort(np.concatenate([features.rows, np.array(list(features.failed), np.int64)]))
    return (
        features
        if np.array_equal(known, rows) and len(features.values) == len(features.rows)
        else None
    )


@dataclass(kw_only=True)
class Bottleneck:
    """A :class:`fashionbatch.training.loop.Task` over features.

    Attributes:
        model: its head is trained.
        features: of the rows of all splits.
        labels: int64 ``[N]``, of the same rows.
        rows: rows of each split.
        batch_size: feature vectors per step.
        seed: of the order.
    """

    model: Classifier
    features: Features
    labels: npt.NDArray[np.int64]
    rows: Mapping[str, npt.NDArray[np.int64]]
    batch_size: int
    seed: int
    _places: dict[str, npt.NDArray[np.int64]] = field(init=False)
    _values: Tensor = field(init=False)

    def __post_init__(self) -> None:
        # torch's memory is aligned and numpy's is not: matrix products round by alignment, and a
        # resumed run must equal an uninterrupted one
        self._values = torch.from_numpy(self.features.values)
        self._places = {
            split: np.flatnonzero(np.isin(self.features.rows, rows)).astype(np.int64)
            for split, rows in self.rows.items()
        }

    def steps(self) -> int:
        """See :class:`fashionbatch.training.loop.Task`."""
        return len(self._order(0))

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
        """See :class:`fashionbatch.training.loop.Task`."""
        return self._batches(self._order(epoch)[start:])

    def batches(self, split: str) -> Iterator[TrainingBatch]:
        """See :class:`fashionbatch.training.loop.Task`."""
        return self._batches(Order.sequential(self._places[split], self.batch_size).batches)

    def forward(self, inputs: tuple[Tensor, ...]) -> Outputs:
        outputs: Outputs = self.model.head(inputs[0])
        return outputs

    def _order(self, epoch: int):
        return Sampling(
            rows=self._places["train"], batch_size=self.batch_size, seed=self.seed
        ).epoch(epoch)

    def _batches(self, order) -> Iterator[TrainingBatch]:
        for places in order:
            yield TrainingBatch(
                (self._values[torch.from_numpy(places)],),
                Targets(category=torch.from_numpy(self.labels[places])),
                ("x",),
            )
