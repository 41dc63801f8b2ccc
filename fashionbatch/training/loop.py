"""The training loop of both modes: epochs of steps, validation, the best epoch, checkpoints.

What differs between the modes is where a batch comes from and what of the model it runs through:
a :class:`fashionbatch.training.task.Task` says that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch.errors import TrainingError, UsageError, counted
from fashionbatch.models import freeze
from fashionbatch.models.build import Classifier
from fashionbatch.training import checkpoint as checkpoints
from fashionbatch.training import curves
from fashionbatch.training.metrics import Metrics
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.targets import Loss
from fashionbatch.training.task import Task


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that the loop needs beside its task.

    Attributes:
        model: on its device.
        optimizer: makes one over the parameters that are trained now.
        schedule: factor on the learning rate at an epoch.
        lr: learning rate.
        regularizers: in the order given.
        epochs: most of them.
        freeze_epochs: of these, how many with the whole base frozen.
        unfreeze: called once behind them: makes trainable what the user chose.
        classes: how many.
        device: of the model.
        identity: what a resumed run must share with its checkpoint, as JSON values.
        title: of the curves.
    """

    model: Classifier
    optimizer: Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
    schedule: Callable[[float], float]
    lr: float
    regularizers: Sequence[Regularizer]
    epochs: int
    freeze_epochs: int
    unfreeze: Callable[[], None]
    classes: int
    device: torch.device
    loss: Loss = field(default_factory=Loss)
    identity: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    on_epoch: Callable[[dict[str, Any]], None] = field(default=lambda row: None)
    on_step: Callable[[int, int, float], None] = field(default=lambda epoch, steps, loss: None)


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


def run(setup: Setup, task: Task, folder: Path, *, resume: bool) -> Result:
    """Trains to the end and leaves the weights of the best epoch in the model.

    Args:
        setup: see :class:`Setup`.
        task: where batches come from.
        folder: of the run: history, curves and checkpoints go there.
        resume: go on from the last checkpoint in it.

    Raises:
        TrainingError: the loss is not finite, or there is nothing to resume.
    """
    result = Result()
    best: dict[str, Tensor] = {}
    start = 0
    optimizer: torch.optim.Optimizer | None = None
    restored: checkpoints.Checkpoint | None = None
    if resume:
        restored = checkpoints.load_last(folder / "checkpoints")
        start = restored.state["epoch"]
        kept = ("history", "best_epoch", "stopped_early")
        result = Result(**{k: restored.state[k] for k in kept})
        losses = [row["val_loss"] for row in result.history]
        result.best_loss = min((v for v in losses if math.isfinite(v)), default=math.inf)
        if restored.state["identity"] != setup.identity:
            raise UsageError(
                f"--resume: {folder} was begun on other data or with another backbone: start anew "
                "without --resume"
            )
        checkpoints.restore_model(restored, setup.model)
        best = {
            k.removeprefix("best."): v for k, v in restored.tensors.items() if k.startswith("best.")
        }
        states = restored.state["regularizers"]
        for regularizer, state in zip(setup.regularizers, states, strict=True):
            regularizer.load_state_dict(state)
    for epoch in range(start, setup.epochs):
        if result.stopped_early:
            break
        if optimizer is None or epoch == setup.freeze_epochs:
            _set_trained(setup, frozen=epoch < setup.freeze_epochs)
            trained = [p for p in setup.model.parameters() if p.requires_grad]
            optimizer = setup.optimizer(trained, setup.lr)
            if restored is not None and epoch == start:
                if epoch != setup.freeze_epochs:
                    checkpoints.restore_optimizer(restored, optimizer)
                checkpoints.restore_random(restored)
        began = time.perf_counter()
        train = _epoch(setup, task, optimizer, epoch)
        val = evaluate(setup, task, "val")
        row = {
            "epoch": epoch + 1,
            "lr": setup.lr * setup.schedule(epoch),
            **{f"train_{k}": v for k, v in train.items()},
            **{f"val_{k}": v for k, v in val.items()},
            "seconds": round(time.perf_counter() - began, 3),
        }
        result.history.append(row)
        loss = val["loss"] if math.isfinite(val["loss"]) else math.inf
        if loss < result.best_loss or not best:
            result.best_loss, result.best_epoch = loss, epoch + 1
            best = {k: v.detach().clone() for k, v in setup.model.state_dict().items()}
        stops = [r.after_epoch(epoch + 1, row) for r in setup.regularizers]
        result.stopped_early = any(stops)
        curves.save_history(folder / "history.csv", result.history)
        _checkpoint(setup, folder, optimizer, result, best)
        setup.on_epoch(row)
    if not math.isfinite(result.best_loss):
        raise TrainingError("the validation loss was never finite: lower --lr, or clip gradients")
    setup.model.load_state_dict(best)
    curves.save_curves(folder / "curves.png", result.history, setup.title)
    return result


def _checkpoint(
    setup: Setup,
    folder: Path,
    optimizer: torch.optim.Optimizer,
    result: Result,
    best: dict[str, Tensor],
) -> None:
    checkpoints.save(
        folder / "checkpoints",
        result.history[-1]["epoch"],
        setup.model,
        optimizer,
        {
            "history": result.history,
            "best_epoch": result.best_epoch,
            "stopped_early": result.stopped_early,
            "regularizers": [r.state_dict() for r in setup.regularizers],
            "identity": setup.identity,
        },
        extra={f"best.{k}": v for k, v in best.items()},
    )


def _set_trained(setup: Setup, *, frozen: bool) -> None:
    if frozen:
        freeze.unfreeze(setup.model, (), 0)
    else:
        setup.unfreeze()


def _epoch(
    setup: Setup, task: Task, optimizer: torch.optim.Optimizer, epoch: int
) -> dict[str, float]:
    metrics = Metrics(setup.classes, setup.device)
    steps = task.steps()
    trained = [p for p in setup.model.parameters() if p.requires_grad]
    freeze.train_mode(setup.model)
    for step, batch in enumerate(task.train_batches(epoch)):
        if not batch.keys:
            continue
        for group in optimizer.param_groups:
            group["lr"] = setup.lr * setup.schedule(epoch + step / steps)
        inputs = tuple(t.to(setup.device) for t in batch.inputs)
        targets = aims = batch.targets.to(setup.device)
        if len(inputs) == 1:  # several tensors of one image have no common meaning
            for regularizer in setup.regularizers:
                first, aims = regularizer.on_batch(inputs[0], aims)
                inputs = (first,)
        outputs = task.forward(inputs)
        loss = setup.loss(outputs, aims, setup.loss.norms(aims))
        total = loss
        for regularizer in setup.regularizers:
            penalty = regularizer.penalty(setup.model.head, outputs)
            if penalty is not None:
                total = total + penalty
        if not math.isfinite(total.item()):
            names = f"{counted(len(batch.keys), 'image')}, {batch.keys[0]!r} to {batch.keys[-1]!r}"
            raise TrainingError(
                f"the loss is {total.item()} in epoch {epoch + 1}, step {step + 1} ({names}): "
                "lower --lr, or clip gradients with --clip-grad 0.5"
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]  # torch's is not annotated
        for regularizer in setup.regularizers:
            regularizer.on_gradients(trained)
        optimizer.step()
        for regularizer in setup.regularizers:
            regularizer.after_step(setup.model)
        assert targets.category is not None
        metrics.update(outputs.logits, targets.category, loss)
        setup.on_step(step + 1, steps, loss.item())
    setup.model.eval()
    return _computed(metrics, "train")


def evaluate(setup: Setup, task: Task, split: str) -> dict[str, float]:
    """Loss and accuracies over a split, in evaluation mode."""
    metrics = Metrics(setup.classes, setup.device)
    setup.model.eval()
    with torch.inference_mode():
        for batch in task.batches(split):
            if batch.keys:
                outputs = task.forward(tuple(t.to(setup.device) for t in batch.inputs))
                targets = batch.targets.to(setup.device)
                assert targets.category is not None
                metrics.update(outputs.logits, targets.category)
    return _computed(metrics, split)


def _computed(metrics: Metrics, split: str) -> dict[str, float]:
    if not metrics.items:
        raise TrainingError(f"none of the {split} images can be used: pack the catalogue again")
    return metrics.compute()
