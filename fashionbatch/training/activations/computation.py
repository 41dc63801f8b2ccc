"""What the frozen part of a network gives, computed once and kept on disk.

``.features/KEY/`` holds parts (see :mod:`fashionbatch.training.activations.part`), ``about.json``
and the lock of :mod:`fashionbatch.training.activations.kept`. The key stands for all that the
numbers depend on: network, frozen weights, preprocessing, images, views, and the engine that
computed them. So another training on the same finds them, and one that was killed goes on with what
is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fashionbatch import files, registry
from fashionbatch.errors import StoppedError, TrainingError, UsageError
from fashionbatch.interrupt import Interrupt, interrupts
from fashionbatch.models import choice
from fashionbatch.models.build import Classifier, hash_of, normalized
from fashionbatch.models.choice import AUTO, Chosen
from fashionbatch.models.cut import Crossing, Cut
from fashionbatch.models.engine import Engine, EngineJob, answers
from fashionbatch.parse import parse_choice
from fashionbatch.pipeline.batches import Order, batches
from fashionbatch.shards.read import ShardSet
from fashionbatch.specs import Preprocessing
from fashionbatch.training.activations import begun
from fashionbatch.training.activations import part as parts
from fashionbatch.training.activations.begun import ENGINE, Begun
from fashionbatch.training.activations.part import PLAIN, Collected, Part, Rows
from fashionbatch.training.activations.reader import Activations

#: images per forward pass, whatever the batch size of training: random views depend on it
_TOGETHER = 32
_PART_BYTES = 256 << 20
#: minutes of work on a CPU, which are lost with a part that was not finished
_PART_IMAGES = 8192
_VERSION = 2
#: of what the numbers depend on, that which says what an engine runs
_OF_THE_NETWORK = ("backbone", "weights", "structure", "crossing", "preprocessing")


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
        """What each file is to hold: one kind of view, 256 MiB and 8,192 images at most."""
        together = min(_PART_IMAGES, max(1, _PART_BYTES // parts.row_bytes(crossing)))
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
    engine: str,
    precision: str,
    planned: Callable[[int, Path], None],
    progress: Callable[[int], None],
    tell: Callable[[str, dict[str, Any]], None],
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
        device: to run on.
        engine: that runs it, ``NAME[:k=v,...]``; with ``auto`` what an earlier run has computed is
            gone on with, whichever engine it used, and else the quickest is taken.
        precision: of the engine.
        planned: called once with the bytes that are going to be written, and where; not called
            where nothing is missing.
        progress: called with the number of images done since the last call.
        tell: gets ``("trying", {"engine", "preparation"})`` and ``("engine", {"engine", "rates",
            "left_out", "device", "precision"})``.
        budget: bytes of memory that the result may take; a quarter of what is free by default.

    Raises:
        StoppedError: a signal asked for it; parts that are finished are kept.
        TrainingError: the disk has not that much room, or cannot be written.
        UsageError: there is no such engine, or it cannot run this network.
    """
    about = _about(cut, model, shards, views, preprocessing, backbone, precision)
    wanted = views.parts(cut.crossing)
    found = begun.find(folder, about, lambda by: _fits(engine, by), wanted, cut.crossing)
    reused = found is not None and not found.missing
    if found is None or found.missing:
        missing = found.missing if found else wanted
        _check_room(folder, cut.crossing, missing)
        model.eval()
        front = _Front(model, cut.prefix)
        job = EngineJob.of_this_machine(
            # engines want the weights on the CPU
            module=front if device.type == "cpu" else deepcopy(front).cpu(),
            shape=(_TOGETHER, 3, preprocessing.size, preprocessing.size),
            device=device,
            precision=precision,
            key=files.fingerprint({name: about[name] for name in _OF_THE_NETWORK}),
        )
        chosen = _choose(engine, found, job, missing, tell)
        try:
            about = {**about, ENGINE: chosen.picked.fingerprint}
            if found is None or found.key != files.fingerprint(about):
                found = begun.new(folder, about, wanted)
            figures = chosen.picked.figures(_TOGETHER)
            tell("engine", {**figures, "device": str(device), "precision": precision})
            planned(plan_bytes(cut.crossing, found.missing), found.path)
            found.start()
            if found.images:
                progress(found.images)
            passes = _Passes(
                crossing=cut.crossing,
                engine=chosen.engine,
                pinned=device.type == "cuda",
                shards=shards,
                views=views,
                preprocessing=preprocessing,
                workers=workers,
                progress=progress,
                done=found.commit,
                tell=tell,
            )
            with interrupts() as asked:
                passes.run(wanted, {part.number for part in found.missing}, asked)
        finally:
            chosen.engine.close()
    whole = [found.stored[part.number] for part in wanted]
    return Activations(whole, cut.crossing, reused=reused, budget=budget, hold=found.hold)


class _Front(nn.Module):
    """What engines run: pixels → what crosses the cut."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier, prefix: nn.Module) -> None:
        super().__init__()
        self.prefix = prefix
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.prefix(normalized(images, self.mean, self.std)))


def _fits(wanted: str, by: Mapping[str, Any]) -> bool:
    """Whether what an engine has computed is what is asked for."""
    name, options = parse_choice(wanted)
    if name == AUTO:
        return True
    asked = choice.provenance(registry.find("engine", name), options)
    return all(by.get(k) == v for k, v in asked.items())


def _choose(
    engine: str,
    found: Begun | None,
    job: EngineJob,
    missing: Sequence[Part],
    tell: Callable[[str, dict[str, Any]], None],
) -> Chosen:
    if engine != AUTO:
        return choice.remade(choice.provenance(*choice.find(engine, job.device)), job)
    if found is not None:
        # what the earlier run used may be gone: then all is computed anew, with another
        with contextlib.suppress(UsageError, KeyError):
            return choice.remade(found.about[ENGINE], job)
    return choice.quickest(job, sum(-(-len(p.rows) // _TOGETHER) for p in missing), tell)


def _about(
    cut: Cut,
    model: Classifier,
    shards: ShardSet,
    views: Views,
    preprocessing: Preprocessing,
    backbone: Mapping[str, Any],
    precision: str,
) -> dict[str, Any]:
    """All that the numbers depend on but for the engine, as JSON values."""
    random = {"copies": views.copies, "augment": views.augment, "seed": views.seed}
    return {
        "format": "fashionbatch-activations",
        "format_version": _VERSION,
        "backbone": dict(backbone),
        "weights": hash_of(cut.prefix.state_dict()),
        "structure": hashlib.sha256(str(cut.prefix).encode()).hexdigest(),
        "crossing": [[c.name, list(c.shape)] for c in cut.crossing],
        "preprocessing": preprocessing.to_json(),
        "precision": precision,
        "data": shards.manifest.fingerprint,
        "plain": _digest(np.unique(views.plain)),
        "augmented": _digest(np.unique(views.augmented)),
        **(random if views.copies else {}),
    }


def _digest(values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _check_room(folder: Path, crossing: Sequence[Crossing], missing: Sequence[Part]) -> None:
    needed, images = plan_bytes(crossing, missing), sum(len(part.rows) for part in missing)
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


@dataclass(frozen=True, kw_only=True)
class _Passes:
    """The forward passes; hands every missing part over once it is complete."""

    crossing: Sequence[Crossing]
    engine: Engine
    pinned: bool
    shards: ShardSet
    views: Views
    preprocessing: Preprocessing
    workers: int
    progress: Callable[[int], None]
    done: Callable[[Collected], None]
    tell: Callable[[str, dict[str, Any]], None]

    def run(self, wanted: Sequence[Part], missing: set[int], asked: Interrupt) -> None:
        """Computes the parts of these numbers.

        Raises:
            StoppedError: a signal asked for it; parts that are finished are kept.
        """
        for copy in (PLAIN, *range(self.views.copies)):
            chosen = [part for part in wanted if part.copy == copy]
            if missing.intersection(part.number for part in chosen):
                self._run_copy(copy, chosen, missing, asked)

    def _run_copy(
        self, copy: int, chosen: Sequence[Part], missing: set[int], asked: Interrupt
    ) -> None:
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
        collected = Collected(part=next(following), crossing=self.crossing)
        loaded = batches(
            self.shards,
            order,
            self.preprocessing,
            workers=self.workers,
            pinned=self.pinned,
        )
        told = len(self.engine.notes)
        for batch in loaded:
            if asked:
                raise StoppedError(
                    "stopped while the frozen part was computed: finished parts (of at most "
                    f"{_PART_IMAGES:,} images) are kept, and the same command goes on from there",
                    asked.signal,
                )
            collected.failed.update((row, str(error)) for row, error in batch.failures)
            if len(batch.rows):
                collected.add(batch.rows, self._answers(batch.images))
                for note in self.engine.notes[told:]:
                    self.tell("warn", {"text": note})
                told = len(self.engine.notes)
            if len(listed[batch.number]):
                self.progress(len(listed[batch.number]))
            if batch.number in ends:
                if collected.part.number in missing:
                    self.done(collected)
                follower = next(following, None)
                if follower is not None:
                    collected = Collected(part=follower, crossing=self.crossing)

    def _answers(self, images: Tensor) -> list[Tensor]:
        """What the engine gives for them; its batches are always full."""
        count = len(images)
        if count < _TOGETHER:
            black = images.new_zeros((_TOGETHER - count, *images.shape[1:]))
            images = torch.cat([images, black])
            images = images.pin_memory() if self.pinned else images
        given = answers(self.engine, images.contiguous(memory_format=torch.channels_last))
        return [tensor[:count] for tensor in given]
