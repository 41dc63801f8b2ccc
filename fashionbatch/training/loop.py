"""The training loop of all modes: epochs of steps, validation, the best epoch, checkpoints.

What differs between the modes is where a batch comes from and what of the model it runs through:
a :class:`fashionbatch.training.task.Task` says that.
"""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

import torch
from torch import nn

from fashionbatch import files
from fashionbatch.errors import StoppedError, TrainingError
from fashionbatch.interrupt import Interrupt, interrupts
from fashionbatch.models import freeze
from fashionbatch.training import averaged, curves
from fashionbatch.training import checkpoint as checkpoints
from fashionbatch.training.checkpoint import Checkpoint, Random
from fashionbatch.training.distributed import LostError, is_lost, lost
from fashionbatch.training.metrics import Metrics, rounded
from fashionbatch.training.progress import Progress, Result
from fashionbatch.training.schedule import Schedule
from fashionbatch.training.setup import Setup
from fashionbatch.training.step import Forward, NotFiniteError, Stepper
from fashionbatch.training.task import Task, TrainingBatch
from fashionbatch.training.validation import Validation

_LOG_EVERY = 50  # steps


class Loop:
    """A training between its first and its last step.

    Args:
        setup: see :class:`Setup`.
        task: where batches come from.
        folder: of the run: history, curves and checkpoints go there.
    """

    def __init__(self, setup: Setup, task: Task, folder: Path) -> None:
        self.setup, self.task, self.folder = setup, task, folder
        self.progress = Progress(setup, folder)
        self._forward: nn.Module = Forward(setup.model, task)
        if setup.compile:
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]  # a module too
        self._validation = Validation(setup, task, self.progress, self._forward)
        self._stepper: Stepper | None = None

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
        result = self.progress.result
        if not math.isfinite(result.best_loss):
            raise TrainingError(
                "the validation loss was never finite: lower --lr, or clip gradients"
            )
        self.progress.take_best()
        self._validation.settled = True
        if setup.group.leads:
            path = self.folder / "curves.png"
            curves.save_curves(
                path,
                result.history,
                setup.title,
                best_epoch=result.best_epoch,
                freeze_epochs=setup.freeze_epochs,
            )
            for logger in setup.loggers:
                logger.figure("curves", path)
        return result

    def measure(self, split: str) -> tuple[Metrics, float]:
        """See :meth:`Validation.measure`."""
        return self._validation.measure(split, self._stepper)

    def _run(self, asked: Interrupt, *, resume: bool) -> None:
        """Epoch after epoch, until all are done or a signal has asked for an end."""
        setup, progress = self.setup, self.progress
        restored: Checkpoint | None = None
        if resume:
            restored = progress.restore()
            if progress.over:
                early = progress.result.stopped_early
                setup.tell("finished", {"epochs": progress.epoch, "stopped_early": early})
            else:
                setup.tell("resumed", {"epoch": progress.epoch + 1, "step": progress.step})
        while not progress.over:
            self._get_ready(restored)
            restored = None
            self._train(asked)
            self._close_epoch()
            stop = bool(setup.group.summed(torch.tensor([float(bool(asked))])))
            if stop and not progress.over:
                self._stop(asked.signal or signal.SIGTERM)

    def _get_ready(self, restored: Checkpoint | None) -> None:
        """Makes the optimizer where there is none yet, or other parameters are to be trained."""
        setup, progress = self.setup, self.progress
        if self._stepper is not None and (progress.epoch != setup.freeze_epochs or progress.step):
            return
        frozen = progress.epoch < setup.freeze_epochs
        if frozen:
            freeze.unfreeze(setup.model, (), 0)
        else:
            setup.unfreeze()
        optimizer = setup.optimizer(setup.parameters(), setup.lr, frozen)
        if restored is not None and (progress.epoch != setup.freeze_epochs or progress.step):
            checkpoints.restore_optimizer(restored, optimizer)
        averaged.begin(optimizer)
        self._stepper = Stepper(
            model=setup.model,
            forward=self._forward,
            loss=setup.loss,
            optimizer=optimizer,
            regularizers=setup.regularizers,
            device=setup.device,
            group=setup.group,
            bfloat16=setup.bfloat16,
            micro_batch=progress.micro_batch,
            on_memory=self._shrink,
        )
        if restored is not None:  # last: nothing may be drawn between this and the next step
            drawn = Random.of(restored, setup.group.rank)
            if drawn is not None:
                drawn.restore()

    def _shrink(self, size: int) -> None:
        self.progress.micro_batch = size
        self.setup.tell("memory", {"micro_batch": size})

    def _train(self, asked: Interrupt) -> None:
        """The rest of an epoch's steps."""
        setup, progress, stepper = self.setup, self.progress, self._stepper
        assert stepper is not None
        steps = self.task.steps()
        self._began = time.perf_counter()
        freeze.train_mode(setup.model)
        for batch in self.task.train_batches(progress.epoch, progress.step):
            stop = due = False
            if len(batch.targets) or setup.group.world > 1:
                rate = setup.lr * setup.schedule(progress.epoch + progress.step / steps)
                for group in stepper.optimizer.param_groups:
                    group["lr"] = rate * group.get("scale", 1.0)
                # several processes stop and save at the same step: all hear of it with the next one
                flags = torch.tensor([float(bool(asked)), float(progress.due)])
                batch = batch.to(setup.device)
                try:
                    outputs, loss, flags = stepper.step(batch, flags)
                except NotFiniteError as error:
                    raise self._not_finite(batch, str(error)) from error
                stop, due = bool(flags[0]), bool(flags[1])
                targets = batch.targets
                progress.metrics.update(outputs, targets, loss, len(targets))
                self._log(steps, rate, loss)
            progress.step += 1
            stop = stop or (setup.group.world == 1 and bool(asked))
            if stop or due:
                progress.save(stepper.optimizer)
            if stop:
                self._stop(asked.signal or signal.SIGTERM)

    def _log(self, steps: int, rate: float, loss: float) -> None:
        setup, step = self.setup, self.progress.step + 1
        setup.tell("step", {"step": step, "of": steps, "loss": loss})
        number = self.progress.epoch * steps + step
        if number % _LOG_EVERY == 0:
            for logger in setup.loggers:
                logger.step(number, {"loss": loss, "lr": rate})

    def _not_finite(self, batch: TrainingBatch, what: str) -> TrainingError:
        keys = [k for share in self.setup.group.gathered(list(batch.keys)) for k in share]
        epoch, step = self.progress.epoch + 1, self.progress.step + 1
        # beside the run's folder, which goes where there is nothing to resume
        path = self.folder.with_name(f"{self.folder.name}.not-finite.json")
        if self.setup.group.leads:
            about = {"epoch": epoch, "step": step, "what": what, "keys": keys}
            files.write_json(path, about)
        named = ", ".join(map(repr, keys[:3])) + (", ..." if len(keys) > 3 else "")
        return TrainingError(
            f"{what} in epoch {epoch}, step {step}, with the images {named} ({path} "
            f"names all {len(keys)}): lower --lr, or clip gradients with --clip-grad 0.5"
        )

    def _close_epoch(self) -> None:
        """Validates, keeps the best weights, and saves."""
        setup, progress, result = self.setup, self.progress, self.progress.result
        assert self._stepper is not None
        epoch = progress.epoch + 1
        train = _computed(progress.metrics, "train")
        metrics, loss = self.measure("val")
        val = {**_computed(metrics, "val"), "loss": loss}
        row = {
            "epoch": epoch,
            "lr": setup.lr * setup.schedule(progress.epoch),
            **{f"train_{k}": v for k, v in train.items()},
            **{f"val_{k}": v for k, v in val.items()},
            "seconds": round(time.perf_counter() - self._began, 3),
        }
        result.history.append(row)
        loss = loss if math.isfinite(loss) else math.inf
        if loss < result.best_loss or not progress.best:
            result.best_loss, result.best_epoch = loss, epoch
            with self._validation.weights(self._stepper.optimizer):
                found = progress.weights()
                progress.best = {name: v.detach().clone() for name, v in found.items()}
        stops = [r.after_epoch(epoch, row) for r in setup.regularizers]
        result.stopped_early = any(stops)
        if isinstance(setup.schedule, Schedule):
            setup.schedule.after_epoch(epoch, row)
        progress.close_epoch()
        if progress.epoch == setup.freeze_epochs:
            averaged.settle(self._stepper.optimizer)  # the next one begins at what this one keeps
        if setup.group.leads:
            curves.save_history(self.folder / curves.HISTORY, result.history)
        progress.save(self._stepper.optimizer)
        for logger in setup.loggers:
            logger.epoch(row)
        setup.tell("epoch", row)

    def _stop(self, number: int) -> None:
        """Ends a run that has just been saved."""
        progress = self.progress
        where = f"behind epoch {progress.epoch}"
        if progress.step:
            steps = self.task.steps()
            where = f"in epoch {progress.epoch + 1}, behind step {progress.step} of {steps}"
        raise StoppedError(
            f"stopped {where}: all of it is saved; the same command with --resume --name "
            f"{self.folder.name} goes on from there",
            number,
        )


def _computed(metrics: Metrics, split: str) -> dict[str, float]:
    found = metrics.compute()
    if not metrics.items:
        raise TrainingError(f"none of the {split} images can be used: pack the catalogue again")
    return {name: rounded(value) for name, value in found.items()}
