"""What the frozen part of a network gives, computed once and kept on disk.

``.features/KEY/`` holds parts (see :mod:`fashionbatch.training.activations.part`), ``about.json``
and the lock of :mod:`fashionbatch.training.activations.kept`. The key stands for all that the
numbers depend on: network, frozen weights, preprocessing, images and views. So another training on
the same finds them, and one that was killed goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fashionbatch import files
from fashionbatch.errors import TrainingError
from fashionbatch.models.build import Classifier
from fashionbatch.models.cut import Crossing, Cut
from fashionbatch.models.device import moved
from fashionbatch.pipeline.batches import Order, batches
from fashionbatch.shards.read import ShardSet
from fashionbatch.specs import Preprocessing
from fashionbatch.training.activations import part as parts
from fashionbatch.training.activations.kept import ABOUT, Hold
from fashionbatch.training.activations.part import PLAIN, Collected, Part, Rows
from fashionbatch.training.activations.reader import Activations

#: images per forward pass, whatever the batch size of training: random views depend on it
_TOGETHER = 32
_PART_BYTES = 256 << 20
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which images, and in which views.

    Attributes:
        plain: rows of images as they are.
        augmented: rows of images in random views.
        copies: how many random views of each.
        augment: as of :func:`fashionbatch.pipeline.transforms.augment`.
        seed: of the views, with the number of the copy and of the batch.
    """

    plain: Rows
    augmented: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    copies: int = 0
    augment: str = "none"
    seed: int = 0

    def __len__(self) -> int:
        return len(self.plain) + self.copies * len(self.augmented)

    def parts(self, crossing: Sequence[Crossing]) -> list[Part]:
        """What each file is to hold: one kind of view, 256 MiB at most or one image."""
        together = max(1, _PART_BYTES // parts.row_bytes(crossing))
        made: list[Part] = []
        for copy in (PLAIN, *range(self.copies)):
            rows = np.unique(self.plain if copy == PLAIN else self.augmented)
            for start in range(0, len(rows), together):
                chosen = rows[start : start + together]
                made.append(Part(number=len(made), copy=copy, rows=chosen))
        return made


def plan_bytes(crossing: Sequence[Crossing], missing: Sequence[Part]) -> int:
    """Exactly what the files are going to take.

    Args:
        crossing: what is kept of each image.
        missing: the files.

    Returns:
        bytes; fewer are taken where images cannot be used, and up to twice as many where a value is
        too large for float16.
    """
    key = "0" * 64
    # a file's size depends on how many images it holds, and not on which
    sizes = {len(part.rows): part for part in missing}
    each = {count: parts.size(part, key, crossing) for count, part in sizes.items()}
    return sum(each[len(part.rows)] for part in missing)


def compute(
    cut: Cut,
    model: Classifier,
    shards: ShardSet,
    views: Views,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    backbone: Mapping[str, Any],
    workers: int,
    device: torch.device,
    planned: Callable[[int, Path], None],
    progress: Callable[[int], None],
    budget: int | None = None,
) -> Activations:
    """Runs the frozen part over the images, as far as no earlier run has saved what it gives.

    The network is in evaluation mode, so what is random in front of the first trained weight (a
    dropout, say) is not. What is not finite in float32 makes the image unusable.

    Args:
        cut: of the model's backbone.
        model: normalizes the images.
        shards: the data set.
        views: which images, and how.
        preprocessing: fits the images.
        folder: of everything that was computed once.
        backbone: where the network comes from, as JSON values.
        workers: processes that decode.
        device: of the model.
        planned: called once with the bytes that are going to be written, and where; not called
            where nothing is missing.
        progress: called with the number of images done since the last call.
        budget: bytes of memory that the result may take; a quarter of what is free by default.

    Raises:
        TrainingError: the disk has not that much room, or cannot be written.
    """
    about = _about(cut, model, shards, views, preprocessing, backbone)
    key = files.fingerprint(about)
    own = folder / key[:32]
    wanted = views.parts(cut.crossing)
    hold = Hold(own) if own.is_dir() else None
    found = {p.number: parts.read(own, key, p, cut.crossing) for p in wanted}
    stored = {number: each for number, each in found.items() if each is not None}
    missing = [part for part in wanted if part.number not in stored]
    if missing:
        needed = plan_bytes(cut.crossing, missing)
        _check_room(folder, needed, sum(len(part.rows) for part in missing))
        planned(needed, own)
        hold = hold or Hold(own)
        files.write_json(own / ABOUT, about)
        kept = sum(len(part.rows) for part in wanted if part.number in stored)
        if kept:
            progress(kept)

        def done(collected: Collected) -> None:
            stored[collected.part.number] = collected.commit(own, key)

        passes = _Passes(cut, model, shards, views, preprocessing, workers, device, progress, done)
        passes.run(wanted, {part.number for part in missing})
    whole = [stored[part.number] for part in wanted]
    return Activations(whole, cut.crossing, reused=not missing, budget=budget, hold=hold)


def _about(
    cut: Cut,
    model: Classifier,
    shards: ShardSet,
    views: Views,
    preprocessing: Preprocessing,
    backbone: Mapping[str, Any],
) -> dict[str, Any]:
    """All that the numbers depend on, as JSON values."""
    random = {"copies": views.copies, "augment": views.augment, "seed": views.seed}
    return {
        "format": "fashionbatch-activations",
        "format_version": _VERSION,
        "backbone": dict(backbone),
        "weights": _hash_of(cut.prefix),
        "structure": hashlib.sha256(str(cut.prefix).encode()).hexdigest(),
        "crossing": [[c.name, list(c.shape)] for c in cut.crossing],
        "preprocessing": preprocessing.to_json(),
        "data": shards.manifest.fingerprint,
        "plain": _digest(np.unique(views.plain)),
        "augmented": _digest(np.unique(views.augmented)),
        **(random if views.copies else {}),
    }


def _hash_of(module: nn.Module) -> str:
    state = module.state_dict()
    return files.fingerprint({k: _digest(v.detach().cpu().numpy()) for k, v in state.items()})


def _digest(values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _check_room(folder: Path, needed: int, images: int) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise TrainingError(
            f"{folder} has no room: what the frozen part gives for {images:,} images takes "
            f"{_gib(needed)}, and {_gib(free)} are free; use fewer --augment-copies, --unfreeze "
            "fewer blocks, --limit the images, or another disk with --output"
        )


def _gib(count: int) -> str:
    return f"{count / (1 << 30):,.2f} GiB"


@dataclass(frozen=True)
class _Passes:
    """The forward passes; hands every missing part over once it is complete."""

    cut: Cut
    model: Classifier
    shards: ShardSet
    views: Views
    preprocessing: Preprocessing
    workers: int
    device: torch.device
    progress: Callable[[int], None]
    done: Callable[[Collected], None]

    def run(self, wanted: Sequence[Part], missing: set[int]) -> None:
        """Computes the parts of these numbers."""
        self.model.eval()
        for copy in (PLAIN, *range(self.views.copies)):
            chosen = [part for part in wanted if part.copy == copy]
            if missing.intersection(part.number for part in chosen):
                self._run_copy(copy, chosen, missing)

    def _run_copy(self, copy: int, chosen: Sequence[Part], missing: set[int]) -> None:
        listed: list[Rows] = []
        ends: dict[int, Part] = {}
        for part in chosen:
            for start in range(0, len(part.rows), _TOGETHER):
                rows = part.rows[start : start + _TOGETHER]
                # a batch that is done already stays in its place, empty: views go by its number
                listed.append(rows if part.number in missing else rows[:0])
            ends[len(listed) - 1] = part
        order = Order(batches=listed)
        if copy != PLAIN:
            order = Order(batches=listed, augment=self.views.augment, seed=(self.views.seed, copy))
        following = iter(chosen)
        collected = Collected(part=next(following), crossing=self.cut.crossing)
        loaded = batches(
            self.shards,
            order,
            self.preprocessing,
            workers=self.workers,
            pinned=self.device.type == "cuda",
        )
        for batch in loaded:
            collected.failed.update((row, str(error)) for row, error in batch.failures)
            if len(batch.rows):
                with torch.inference_mode():
                    pixels = self.model.normalized(moved(batch.images, self.device))
                    collected.add(batch.rows, self.cut.prefix(pixels))
            if len(listed[batch.number]):
                self.progress(len(listed[batch.number]))
            if batch.number in ends:
                if collected.part.number in missing:
                    self.done(collected)
                follower = next(following, None)
                if follower is not None:
                    collected = Collected(part=follower, crossing=self.cut.crossing)
