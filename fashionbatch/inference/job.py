"""A prediction, checked and ready: everything that can be known before an image is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fashionbatch import files
from fashionbatch.config import PredictConfig
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.inference.answers import Answers
from fashionbatch.inference.grid import Grid
from fashionbatch.inference.plan import Plan, Unit
from fashionbatch.models import card as cards
from fashionbatch.models import device as devices
from fashionbatch.models.card import ModelCard, code_version
from fashionbatch.models.engine import EngineJob
from fashionbatch.models.features import NONE, FeatureTap, try_out
from fashionbatch.parse import parse_most
from fashionbatch.pipeline.batches import default_workers
from fashionbatch.pipeline.pool import Limits, Pool
from fashionbatch.shards.travel import Parcel
from fashionbatch.store.merge import ShardEntry

if TYPE_CHECKING:
    from fashionbatch.inference.delivery import Delivery

Tell = Callable[[str, dict[str, Any]], None]

#: options that change what is stored
_STORED = ("topk", "probabilities", "features", "feature_dtype", "ignore_labels")
#: bytes of an item's name, key and hash in the file, beside the characters of the name
_ITEM_BYTES = 96
_FILE_BYTES = 32 << 10  # of the file beside the items: the model's card, HDF5's own
_PART_BYTES = 256 << 20  # of rows in one part, which is built in memory
_SAMPLE = 1000  # names that the others are as long as


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the numbers depend on of the place where the network runs.

    Attributes:
        kind: type of the device, as torch has it.
        precision: of the numbers within the network.
    """

    kind: str
    precision: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.precision}"

    @classmethod
    def of(cls, config: PredictConfig) -> Site:
        """This machine.

        Raises:
            UsageError: it has no such device.
        """
        each = [devices.choose(name) for name in config.device_names]
        device = each[0]
        if any(other.type != device.type for other in each):
            raise UsageError(
                f"--devices {config.devices}: devices of several kinds round differently: name one "
                "kind"
            )
        precision = config.precision
        if precision == "auto":
            precision = "float32"
            if device.type == "cuda":
                precision = "bfloat16" if devices.has_bfloat16(device) else "float16"
        return cls(kind=device.type, precision=precision)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is predicted, with what, and into which file.

    Attributes:
        plan: what there is to predict.
        folder: of the run whose model predicts, and the model's ``card``.
        config: of the job.
        output: the HDF5 file.
        site: where the network runs.
        tap: the model, with the layer whose output is stored.
        answers: what is stored.
        grid: which images go through the network together.
        delivery: puts the output where it is to lie, if that is elsewhere.
    """

    plan: Plan
    folder: Path
    card: ModelCard
    config: PredictConfig
    output: Path
    site: Site
    tap: FeatureTap
    answers: Answers
    grid: Grid
    delivery: Delivery | None = None

    @property
    def device(self) -> torch.device:
        """Of this process, to run on; the first one where there are several."""
        return devices.choose(self.config.device_names[0])

    @property
    def workers(self) -> int:
        """Processes that read and decode, for each device."""
        if self.config.workers is not None:
            return self.config.workers
        return max(1, default_workers(self.site.kind) // len(self.config.device_names))

    @property
    def limits(self) -> Limits:
        """Of one image."""
        config = self.config
        return Limits(seconds=config.image_seconds, memory=int(config.image_memory * (1 << 30)))

    @property
    def most_failures(self) -> int | None:
        """That the run may have."""
        if self.config.max_failures is None:
            return None
        number, share = parse_most(self.config.max_failures)
        return int(self.plan.items * number / 100) if share else int(number)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """All that the numbers depend on, the engine aside."""
        return {
            "input": files.fingerprint(
                [[u.name, files.fingerprint(u.rows.tolist())] for u in self.plan.units]
            ),
            "items": self.plan.items,
            "rows": sum(len(unit.chosen) for unit in self.plan.units),
            "model": self.card.sha256,
            "temperature": self.card.temperature,
            "preprocessing": self.card.preprocessing.to_json(),
            "configuration": {name: getattr(self.config, name) for name in _STORED},
            "batch_size": self.grid.batch_size,
            "classes": list(self.card.classes),
            "attributes": [asdict(a) for a in self.card.attributes],
            "device": self.site.kind,
            "precision": self.site.precision,
            "code": code_version(),
        }

    @property
    def entries(self) -> list[ShardEntry]:
        """What the output says of the units."""
        return [ShardEntry(name=unit.name, count=unit.count) for unit in self.plan.units]

    def parcel(self, numbers: Sequence[int]) -> Parcel | None:
        """What a worker on another machine needs to know of the images of some units.

        It takes as much memory as these have rows: neighbours that go through the network with
        them, too.
        """
        grid = self.grid
        rows = [self.plan.units[number].rows for number in numbers]
        rows += [grid.rows(number) for number in grid.numbers(numbers)]
        return self.plan.catalogue.parcel(np.unique(np.concatenate(rows)))

    def labels(self, unit: Unit) -> npt.NDArray[np.int32]:
        """int32 ``[N]``: of each image of a unit its class, -1 where that is unknown."""
        if self.config.ignore_labels:
            return np.full(len(unit.chosen), -1, np.int32)
        return self.plan.labels(unit, self.card.classes)

    def known_labels(self) -> tuple[int, int]:
        """How many images have a label, and how many there are."""
        units = self.plan.units
        known = sum(int((self.labels(unit) >= 0).sum()) for unit in units)
        return known, sum(len(unit.chosen) for unit in units)

    def engine_job(self) -> EngineJob:
        """What an engine is made for."""
        side = self.card.preprocessing.size
        about = self.card.to_json()
        aside = ("metrics", "lineage", "temperature")
        structure = {k: v for k, v in about.items() if k not in aside}
        return EngineJob.of_this_machine(
            module=self.tap,
            shape=(self.grid.batch_size, 3, side, side),
            device=self.device,
            precision=self.site.precision,
            key=files.fingerprint([structure, self.config.features]),
        )

    def pool(self) -> Pool:
        """Reads and decodes for one worker; a context manager that starts processes."""
        return Pool(
            self.plan.catalogue,
            self.card.preprocessing,
            batch_size=self.grid.batch_size,
            workers=self.workers,
            limits=self.limits,
        )

    def bytes(self) -> int:
        """About how many the output is going to have."""
        rows = (row for unit in self.plan.units for row in unit.rows.tolist())
        names = [len(self.plan.catalogue.name(r)) for r in itertools.islice(rows, _SAMPLE)]
        each = self.answers.row_bytes + _ITEM_BYTES + (sum(names) / len(names) if names else 0)
        return _FILE_BYTES + int(each * self.plan.items)


def prepare(
    plan: Plan,
    folder: Path,
    config: PredictConfig,
    output: Path,
    tell: Tell,
    *,
    site: Site | None = None,
) -> Job:
    """Loads the model and checks what can be checked before an image is read.

    Args:
        plan: what there is to predict.
        folder: of the run whose model predicts.
        config: of the job.
        output: the HDF5 file.
        tell: gets ``("warn", {"text"})``.
        site: where the network runs, if not here.

    Raises:
        ModelError: the model is damaged, or its package is missing.
        SourceError: labels of other classes than the model's.
        UsageError: there is no such device or layer.
    """
    model, card = cards.load(folder)
    _check_labels(plan, card, config, tell)
    site = site or Site.of(config)
    tap = FeatureTap(model, config.features)
    shapes = try_out(tap, card.preprocessing.size)
    answers = Answers(
        config=config, card=card, feature_shape=None if config.features == NONE else shapes[2]
    )
    plan = plan.bounded(max(1, _PART_BYTES // answers.row_bytes))
    # a batch always has the same shape; a few images do not pay for the places of many
    grid = Grid(plan.units, max(1, min(config.batch_size, sum(len(u.chosen) for u in plan.units))))
    return Job(
        plan=plan,
        folder=folder,
        card=card,
        config=config,
        output=output,
        site=site,
        tap=tap,
        answers=answers,
        grid=grid,
    )


def _check_labels(plan: Plan, card: ModelCard, config: PredictConfig, tell: Tell) -> None:
    # a model that learnt no category takes no side in what the classes are
    used = bool(card.classes) and not config.ignore_labels
    foreign = [c for c in plan.classes if c not in card.classes]
    if foreign and used:
        raise SourceError(
            f"{plan.path} has {len(foreign)} classes that the model does not know "
            f"({', '.join(map(repr, foreign[:3]))}{', ...' if len(foreign) > 3 else ''}): choose "
            "another --model, or predict without its labels: --ignore-labels"
        )
    loose = plan.loose_classes
    if loose and used and not set(loose) & set(card.classes):
        text = (
            f"the labels of {plan.path} ({', '.join(map(repr, loose[:3]))}"
            f"{', ...' if len(loose) > 3 else ''}) are no classes of the model and are not stored"
        )
        tell("warn", {"text": text})
