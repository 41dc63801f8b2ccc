"""The training loop of all modes: epochs of steps, validation, the best epoch, checkpoints.

What differs between the modes is where a batch comes from and what of the model it runs through:
a :class:`fashionbatch.training.task.Task` says that.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch import files
from fashionbatch.errors import StoppedError, TrainingError, UsageError
from fashionbatch.interrupt import Interrupt, interrupts
from fashionbatch.models import freeze
from fashionbatch.training import checkpoint as checkpoints
from fashionbatch.training import curves
from fashionbatch.training.checkpoint import Checkpoint, Random
from fashionbatch.training.distributed import Group, LostError, is_lost, lost
from fashionbatch.training.metrics import Metrics
from fashionbatch.training.schedule import Schedule
from fashionbatch.training.setup import Setup
from fashionbatch.training.step import Forward, NotFiniteError, Stepper
from fashionbatch.training.targets import Loss
from fashionbatch.training.task import Task, TrainingBatch

_LOG_EVERY = 50  # steps


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


class Loop:
    """A training between its first and its last step.

    Args:
        setup: see :class:`Setup`.
        task: where batches come from.
        folder: of the run: history, curves and checkpoints go there.
    """

    def __init__(self, setup: Setup, task: Task, folder: Path) -> None:
        self.setup, self.task, self.folder = setup, task, folder
        self.result = Result()
        self.epoch = self.step = 0  # finished ones, and of the next epoch
        self.micro_batch = setup.micro_batch
        self._best: dict[str, Tensor] = {}
        self._finished = False  # the model has the best epoch's weights
        self._metrics = setup.metrics(False)
        self._forward: nn.Module = Forward(setup.model, task)
        if setup.compile:
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]  # a module too
        self._stepper: Stepper | None = None
        self._saved = time.monotonic()

    def run(self, *, resume: bool) -> Result:
        """Trains to the end and leaves the weights of the best epoch in the model.

        Args:
            resume: go on from the last checkpoint in the folder.

        Raises:
            StoppedError: a signal asked for it; a checkpoint was saved.
            TrainingError: the loss is not finite, a process was lost, or there is nothing to
                resume.
        """
        setup = self.setup
        with interrupts() as asked:
            try:
                self._run(asked, resume=resume)
            except LostError:
                asked.ending = True
                raise
            except RuntimeError as error:
                if not is_lost(error):
                    raise
                asked.ending = True
                raise lost(error) from error
        if not math.isfinite(self.result.best_loss):
            raise TrainingError(
                "the validation loss was never finite: lower --lr, or clip gradients"
            )
        setup.model.load_state_dict(self._best)
        self._finished = True
        if setup.group.leads:
            path = self.folder / "curves.png"
            curves.save_curves(
                path,
                self.result.history,
                setup.title,
                best_epoch=self.result.best_epoch,
                freeze_epochs=setup.freeze_epochs,
            )
            for logger in setup.loggers:
                logger.figure("curves", path)
        return self.result

    def _run(self, asked: Interrupt, *, resume: bool) -> None:
        """Epoch after epoch, until all are done or a signal has asked for an end."""
        setup = self.setup
        restored = self._restore() if resume else None
        while self.epoch < setup.epochs and not self.result.stopped_early:
            self._get_ready(restored)
            restored = None
            self._train(asked)
            self._close_epoch()
            stop = bool(setup.group.summed(torch.tensor([float(bool(asked))])))
            if stop and self.epoch < setup.epochs and not self.result.stopped_early:
                self._stop(asked.signal or signal.SIGTERM)

    def _get_ready(self, restored: Checkpoint | None) -> None:
        """Makes the optimizer where there is none yet, or other parameters are to be trained."""
        setup = self.setup
        if self._stepper is not None and (self.epoch != setup.freeze_epochs or self.step):
            return
        frozen = self.epoch < setup.freeze_epochs
        if frozen:
            freeze.unfreeze(setup.model, (), 0)
        else:
            setup.unfreeze()
        optimizer = setup.optimizer(setup.parameters(), setup.lr, frozen)
        if restored is not None and (self.epoch != setup.freeze_epochs or self.step):
            checkpoints.restore_optimizer(restored, optimizer)
        self._stepper = Stepper(
            model=setup.model,
            forward=self._forward,
            loss=setup.loss,
            optimizer=optimizer,
            regularizers=setup.regularizers,
            device=setup.device,
            group=setup.group,
            bfloat16=setup.bfloat16,
            micro_batch=self.micro_batch,
            on_memory=self._shrink,
        )
        if restored is not None:  # last: nothing may be drawn between this and the next step
            drawn = Random.of(restored, setup.group.rank)
            if drawn is not None:
                drawn.restore()

    def _shrink(self, size: int) -> None:
        self.micro_batch = size
        self.setup.tell("memory", {"micro_batch": size})

    def _train(self, asked: Interrupt) -> None:
        """The rest of an epoch's steps."""
        setup, stepper = self.setup, self._stepper
        assert stepper is not None
        steps = self.task.steps()
        self._began = time.perf_counter()
        freeze.train_mode(setup.model)
        for batch in self.task.train_batches(self.epoch, self.step):
            stop = due = False
            if len(batch.targets) or setup.group.world > 1:
                rate = setup.lr * setup.schedule(self.epoch + self.step / steps)
                for group in stepper.optimizer.param_groups:
                    group["lr"] = rate * group.get("scale", 1.0)
                # several processes stop and save at the same step: all hear of it with the next one
                flags = torch.tensor([float(bool(asked)), float(self._is_due())])
                try:
                    outputs, loss, flags = stepper.step(batch, flags)
                except NotFiniteError as error:
                    raise self._not_finite(batch, error.loss) from error
                stop, due = bool(flags[0]), bool(flags[1])
                targets = batch.targets.to(setup.device)
                self._metrics.update(outputs, targets, torch.tensor(loss), len(targets))
                self._log(steps, rate, loss)
            self.step += 1
            stop = stop or (setup.group.world == 1 and bool(asked))
            if stop or due:
                self._save()
            if stop:
                self._stop(asked.signal or signal.SIGTERM)

    def _log(self, steps: int, rate: float, loss: float) -> None:
        setup = self.setup
        setup.tell("step", {"step": self.step + 1, "of": steps, "loss": loss})
        number = self.epoch * steps + self.step + 1
        if number % _LOG_EVERY == 0:
            for logger in setup.loggers:
                logger.step(number, {"loss": loss, "lr": rate})

    def _is_due(self) -> bool:
        minutes = self.setup.checkpoint_minutes
        return (
            minutes > 0 and self.setup.group.leads and time.monotonic() - self._saved > minutes * 60
        )

    def _not_finite(self, batch: TrainingBatch, loss: float) -> TrainingError:
        keys = [k for share in self.setup.group.gathered(list(batch.keys)) for k in share]
        # beside the run's folder, which goes where there is nothing to resume
        path = self.folder.with_name(f"{self.folder.name}.not-finite.json")
        about = {"epoch": self.epoch + 1, "step": self.step + 1, "loss": str(loss), "keys": keys}
        if self.setup.group.leads:
            files.write_json(path, about)
        named = ", ".join(map(repr, keys[:3])) + (", ..." if len(keys) > 3 else "")
        return TrainingError(
            f"the loss is {loss} in epoch {self.epoch + 1}, step {self.step + 1}, with the images "
            f"{named} ({path} names all {len(keys)}): lower --lr, or clip gradients with "
            "--clip-grad 0.5"
        )

    def _close_epoch(self) -> None:
        """Validates, keeps the best weights, and saves."""
        setup, result = self.setup, self.result
        train = _computed(self._metrics, "train")
        metrics, loss = self.measure("val")
        val = {**_computed(metrics, "val"), "loss": loss}
        row = {
            "epoch": self.epoch + 1,
            "lr": setup.lr * setup.schedule(self.epoch),
            **{f"train_{k}": v for k, v in train.items()},
            **{f"val_{k}": v for k, v in val.items()},
            "seconds": round(time.perf_counter() - self._began, 3),
        }
        result.history.append(row)
        loss = loss if math.isfinite(loss) else math.inf
        if loss < result.best_loss or not self._best:
            result.best_loss, result.best_epoch = loss, self.epoch + 1
            with self._evaluated():
                self._best = {k: v.detach().clone() for k, v in setup.model.state_dict().items()}
        stops = [r.after_epoch(self.epoch + 1, row) for r in setup.regularizers]
        result.stopped_early = any(stops)
        if isinstance(setup.schedule, Schedule):
            setup.schedule.after_epoch(self.epoch + 1, row)
        self.epoch, self.step = self.epoch + 1, 0
        self._metrics = setup.metrics(False)
        if setup.group.leads:
            curves.save_history(self.folder / "history.csv", result.history)
        self._save()
        for logger in setup.loggers:
            logger.epoch(row)
        setup.tell("epoch", row)

    def measure(self, split: str) -> tuple[Metrics, float]:
        """Looks at every image of a split once, with the weights that are to be saved.

        Returns:
            the metrics, whose own loss is not set, and the loss.
        """
        setup = self.setup
        stepper = self._stepper or Stepper(
            model=setup.model,
            forward=self._forward,
            loss=setup.loss,
            optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.0),  # makes no step
            regularizers=(),
            device=setup.device,
            group=Group(),
            bfloat16=setup.bfloat16,
            micro_batch=self.micro_batch,
        )
        loss = Loss(attribute_weight=setup.loss.attribute_weight)
        metrics = setup.metrics(True)
        sums = torch.zeros(4, dtype=torch.float64)
        with self._evaluated():
            setup.model.eval()
            for batch in self.task.batches(split):
                if len(batch.targets):
                    outputs = stepper.evaluate(batch.inputs)
                    targets = batch.targets.to(setup.device)
                    norms = loss.norms(targets)
                    parts = loss.parts(outputs, targets)
                    sums += torch.cat([parts.double().cpu(), norms.double()])
                    metrics.update(outputs, targets, parts.new_zeros(()), len(targets))
        sums = setup.group.summed(sums)
        return metrics, float((sums[:2] / sums[2:].clamp(min=1e-12)).sum())

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """The model has the weights that are validated and saved, in every process the same."""
        model = self.setup.model
        if self._finished:  # they are in it already
            yield
            return
        other: dict[str, Tensor] = {}
        for regularizer in self.setup.regularizers:
            other |= regularizer.evaluated(model) or {}
        state = model.state_dict()
        own = {name: state[name].detach().clone() for name in other}
        model.load_state_dict(other, strict=False)
        for buffer in model.buffers():  # each process has running statistics of its own images
            self.setup.group.share(buffer)
        try:
            yield
        finally:
            model.load_state_dict(own, strict=False)

    def _save(self) -> None:
        setup, stepper, result = self.setup, self._stepper, self.result
        assert stepper is not None
        randoms = setup.group.gathered(Random.now())
        extra = {f"best.{k}": v for k, v in self._best.items()}
        if self.step:
            extra |= {f"metrics.{k}": v for k, v in self._metrics.state_dict().items()}
        states: list[Mapping[str, Any]] = []
        for number, regularizer in enumerate(setup.regularizers):
            values = regularizer.state_dict()
            tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
            extra |= {f"regularizer.{number}.{k}": v for k, v in tensors.items()}
            states.append({k: v for k, v in values.items() if k not in tensors})
        schedule = setup.schedule.state_dict() if isinstance(setup.schedule, Schedule) else {}
        if setup.group.leads:
            self._path = checkpoints.save(
                self.folder / "checkpoints",
                self.epoch,
                self.step,
                setup.model,
                stepper.optimizer,
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

    def _restore(self) -> Checkpoint:
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
        checkpoints.restore_model(restored, setup.model)
        self._best = restored.part("best.")
        if self.step:
            self._metrics.load_state_dict(restored.part("metrics."))
        for number, (regularizer, values) in enumerate(
            zip(setup.regularizers, state["regularizers"], strict=True)
        ):
            regularizer.load_state_dict({**values, **restored.part(f"regularizer.{number}.")})
        if isinstance(setup.schedule, Schedule):
            setup.schedule.load_state_dict(state["schedule"])
        setup.tell("resumed", {"epoch": self.epoch + 1, "step": self.step})
        return restored

    def _stop(self, number: int) -> None:
        """Ends a run that has just been saved."""
        where = f"behind epoch {self.epoch}"
        if self.step:
            where = f"in epoch {self.epoch + 1}, behind step {self.step} of {self.task.steps()}"
        raise StoppedError(
            f"stopped {where}: all of it is saved; the same command with --resume --name "
            f"{self.folder.name} goes on from there",
            number,
        )


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


def _computed(metrics: Metrics, split: str) -> dict[str, float]:
    found = metrics.compute()
    if not metrics.items:
        raise TrainingError(f"none of the {split} images can be used: pack the catalogue again")
    return found
