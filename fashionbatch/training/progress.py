"""How far a training has come: all that a checkpoint keeps and gives back, the optimizer aside."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fashionbatch.errors import UsageError
from fashionbatch.training import checkpoint as checkpoints
from fashionbatch.training.checkpoint import Checkpoint, Random
from fashionbatch.training.schedule import Schedule
from fashionbatch.training.setup import Setup


@dataclass
class Result:
    """What came out.

    Attributes:
        history: a row per epoch.
        best_epoch: lowest validation loss, counted from 1; its weights are in the model.
        stopped_early: a regularizer ended it.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    stopped_early: bool = False


class Progress:
    """A training between two steps.

    Args:
        setup: see :class:`Setup`; its model, regularizers and schedule are saved and restored, too.
        folder: of the run; checkpoints lie in it.

    Attributes:
        result: so far.
        epoch: how many are finished.
        step: how many of the next one are.
        micro_batch: most items worked off at a time.
        best: the weights of the best epoch that can change; none before the first has ended.
        metrics: of the images that the epoch has trained on so far.
    """

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.result = Result()
        self.epoch = self.step = 0
        self.micro_batch = setup.micro_batch
        self.best: dict[str, Tensor] = {}
        self.metrics = setup.metrics(False)
        self._saved = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether no epoch is left to train."""
        return self.epoch >= self.setup.epochs or self.result.stopped_early

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is older than the user wants it; the first process knows."""
        minutes = self.setup.checkpoint_minutes
        return (
            minutes > 0 and self.setup.group.leads and time.monotonic() - self._saved > minutes * 60
        )

    def close_epoch(self) -> None:
        """The next epoch is at its beginning."""
        self.epoch, self.step = self.epoch + 1, 0
        self.metrics = self.setup.metrics(False)

    def weights(self) -> dict[str, Tensor]:
        """What can change of the model's state, as it is."""
        state: dict[str, Tensor] = self.setup.model.state_dict()
        return {name: value for name, value in state.items() if name not in self.setup.frozen}

    def take_best(self) -> None:
        """Puts the weights of the best epoch into the model."""
        self.setup.model.load_state_dict({**self.setup.model.state_dict(), **self.best})

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Writes a checkpoint; every process must come here."""
        setup, result = self.setup, self.result
        randoms = setup.group.gathered(Random.now())
        extra = {f"best.{k}": v for k, v in self.best.items()}
        if self.step:
            extra |= {f"metrics.{k}": v for k, v in self.metrics.state_dict().items()}
        states: list[Mapping[str, Any]] = []
        for number, regularizer in enumerate(setup.regularizers):
            values = regularizer.state_dict()
            tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
            extra |= {f"regularizer.{number}.{k}": v for k, v in tensors.items()}
            states.append({k: v for k, v in values.items() if k not in tensors})
        schedule = setup.schedule.state_dict() if isinstance(setup.schedule, Schedule) else {}
        if setup.group.leads:
            checkpoints.save(
                self.folder / "checkpoints",
                self.epoch,
                self.step,
                self.weights(),
                optimizer,
                {
                    "history": result.history,
                    "best_epoch": result.best_epoch,
                    "stopped_early": result.stopped_early,
                    "regularizers": states,
                    "schedule": schedule,
                    "identity": setup.identity,
                    "micro_batch": self.micro_batch,
                },
                extra=extra,
                randoms=randoms,
            )
        setup.group.wait()
        self._saved = time.monotonic()

    def restore(self) -> Checkpoint:
        """Goes back to where the last checkpoint was made.

        Returns:
            that, for the optimizer and the random generators, which come later.

        Raises:
            UsageError: it is of a run that was begun with something else.
            TrainingError: there is none.
        """
        setup = self.setup
        restored = checkpoints.load_last(self.folder / "checkpoints")
        state = restored.state
        refuse_other(restored, setup.identity, self.folder)
        self.epoch, self.step = state["epoch"], state["step"]
        kept = ("history", "best_epoch", "stopped_early")
        self.result = Result(**{k: state[k] for k in kept})
        losses = [row["val_loss"] for row in self.result.history]
        self.result.best_loss = min((v for v in losses if math.isfinite(v)), default=math.inf)
        if setup.micro_batch is None:
            self.micro_batch = state["micro_batch"]
        checkpoints.restore_model(restored, setup.model, setup.frozen)
        self.best = restored.part("best.")
        if self.step:
            self.metrics.load_state_dict(restored.part("metrics."))
        for number, (regularizer, values) in enumerate(
            zip(setup.regularizers, state["regularizers"], strict=True)
        ):
            regularizer.load_state_dict({**values, **restored.part(f"regularizer.{number}.")})
        if isinstance(setup.schedule, Schedule):
            setup.schedule.load_state_dict(state["schedule"])
        return restored


def refuse_other(checkpoint: Checkpoint, identity: Mapping[str, Any], folder: Path) -> None:
    """Lets a run go on only with what it was begun with.

    Raises:
        UsageError: it was begun on other data, or with another backbone or other weights.
    """
    changed = [k for k in identity if checkpoint.state["identity"].get(k) != identity[k]]
    if changed:
        raise UsageError(
            f"--resume: {folder} was begun with other {' and other '.join(changed)}: start anew "
            "without --resume"
        )
