"""Checks of what belongs to a training: optimizers, regularizers, schedules, loggers."""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch.models.build import Classifier, Outputs
from fashionbatch.specs import LoggerSpec, OptimizerSpec, RegularizerSpec, ScheduleSpec
from fashionbatch.testing.parts import batch, check_state, classifier, create, want
from fashionbatch.training import averaged, checkpoint
from fashionbatch.training.logger import Logger
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.schedule import Schedule
from fashionbatch.training.targets import Loss, Targets

_STEPS = 60
_FROZEN = "0.bias"
_COMMON = {"momentum": 0.9, "weight_decay": 1e-4}


def check_optimizer(
    spec: OptimizerSpec, *, lr: float = 0.01, heeds_lr: bool = True, **options: Any
) -> None:
    """It learns, leaves frozen parameters alone, heeds ``lr``, and goes on from a checkpoint.

    Args:
        spec: of the optimizer.
        lr: at which 60 steps more than halve the loss of a small network.
        heeds_lr: a change of the rate between steps has an effect, as schedules want it.
        options: of ``--opt-kwargs``.

    Raises:
        AssertionError: what it does not do, in one line.

    Example:
        >>> from fashionbatch import OptimizerSpec
        >>> check_optimizer(OptimizerSpec(name="adam", factory="torch.optim:Adam", summary=""))
    """
    common = {name: _COMMON[name] for name in spec.options if name in _COMMON}

    def make(net: nn.Module, rate: float = lr) -> torch.optim.Optimizer:
        groups = [{"params": [p for p in net.parameters() if p.requires_grad]}]
        made = create("optimizer", spec, groups, lr=rate, **common, **options)
        want(
            isinstance(made, torch.optim.Optimizer),
            spec,
            f"the factory gives {type(made).__name__}, not a torch.optim.Optimizer",
        )
        optimizer: torch.optim.Optimizer = made
        averaged.begin(optimizer)
        return optimizer

    net = _net()
    frozen = net.get_parameter(_FROZEN).requires_grad_(False)
    before = frozen.clone()
    optimizer = make(net)
    losses = _learn(net, optimizer, _STEPS)
    want(math.isfinite(losses[-1]), spec, f"the loss is {losses[-1]} behind {_STEPS} steps")
    want(
        losses[-1] < losses[0] / 2,
        spec,
        f"{_STEPS} steps with lr {lr:g} take the loss from {losses[0]:.3g} to {losses[-1]:.3g}, "
        "not below its half",
    )
    want(torch.equal(frozen, before), spec, "it changes a parameter that it was not given")
    with averaged.kept(optimizer):
        kept = _error(net)
    want(
        kept.item() < losses[0] / 2,
        spec,
        f"behind its eval() the loss is {kept.item():.3g}, not below the half of {losses[0]:.3g}",
    )
    still = _net()
    start = [p.detach().clone() for p in still.parameters()]
    idle = make(still)
    for group in idle.param_groups:
        group["lr"] = 0.0  # as schedules set it, step by step
    _learn(still, idle, 2)
    pairs = zip(still.parameters(), start, strict=True)
    moved = max(float((p.detach() - s).abs().max()) for p, s in pairs)
    want(moved < 1e-6 or not heeds_lr, spec, 'it moves weights where param_groups[...]["lr"] is 0')
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), 1, 0, net.state_dict(), optimizer, {}, extra={}, randoms=[])
        other = _net()
        other.get_parameter(_FROZEN).requires_grad_(False)
        resumed = make(other)
        _learn(other, resumed, 1)  # what it has by now must give way
        found = checkpoint.load_last(Path(folder))
        checkpoint.restore_model(found, other)
        checkpoint.restore_optimizer(found, resumed)
    same = _learn(net, optimizer, 3) == _learn(other, resumed, 3)
    want(same, spec, "behind a checkpoint it takes other steps than without one")


def check_regularizer(
    spec: RegularizerSpec,
    *,
    change: Callable[[nn.Module], nn.Module] | None = None,
    **options: Any,
) -> None:
    """Every method, in the order of a training, on a small model of classes and attributes.

    Args:
        spec: of the regularizer.
        change: for one that takes certain networks only: makes one of a small network, which
            averages a map of 4 channels over its places.
        options: of its factory.

    Raises:
        AssertionError: what it does not do, in one line.
    """
    made = create("regularizer", spec, **options)
    want(
        isinstance(made, Regularizer),
        spec,
        f"the factory gives {type(made).__name__}, not a fashionbatch.Regularizer",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = classifier(change=change)
        made.on_model(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):
            _step(spec, made, model, optimizer)
        state = made.state_dict()
        check_state(spec, state, tensors=True)
        again = create("regularizer", spec, **options)
        twin = copy.deepcopy(model)
        again.on_model(twin)
        again.load_state_dict(copy.deepcopy(state))
        twice = torch.optim.SGD(twin.parameters(), lr=0.05)
        twin.load_state_dict(model.state_dict())
        drawn = torch.get_rng_state()
        _step(spec, made, model, optimizer)
        torch.set_rng_state(drawn)
        _step(spec, again, twin, twice)
    for name, value in model.state_dict().items():
        want(
            torch.equal(value, twin.state_dict()[name]),
            spec,
            f"behind load_state_dict(state_dict()) a step gives another {name}: keep all of its "
            "memory in state_dict(), and draw from torch's generator of the CPU only",
        )
    weights = made.evaluated(model) or {}
    known = model.state_dict()
    for name, value in weights.items():
        want(name in known, spec, f"evaluated() gives {name!r}, which the model does not have")
        want(value.shape == known[name].shape, spec, f"evaluated()[{name!r}] is of another shape")
    metrics = {"train_loss": 1.0, "val_loss": 1.0, "val_top1": 0.5, "val_top3": 0.7}
    stops = made.after_epoch(1, metrics)
    want(isinstance(stops, bool), spec, f"after_epoch() gives {stops!r}, not True or False")


def check_schedule(spec: ScheduleSpec, *, epochs: int = 12, **options: Any) -> None:
    """A finite factor from 0 on, at every part of every epoch; with its memory kept.

    Args:
        spec: of the schedule.
        epochs: of the training.
        options: of its factory.

    Raises:
        AssertionError: what it does not do, in one line.
    """
    made: Callable[[float], float] = create("schedule", spec, epochs, **options)
    want(callable(made), spec, f"the factory gives {type(made).__name__}, which cannot be called")
    for epoch in range(epochs):
        for part in (0.0, 0.25, 0.99):
            factor = made(epoch + part)
            fine = isinstance(factor, float | int) and math.isfinite(factor) and factor >= 0
            want(fine, spec, f"at epoch {epoch + part:g} it gives {factor!r}, no factor from 0 on")
        if isinstance(made, Schedule):
            made.after_epoch(epoch + 1, {"val_loss": 1.0 + (epoch % 3), "val_top1": 0.5})
    want(any(made(e) > 0 for e in range(epochs)), spec, "it never lets anything be learnt")
    if isinstance(made, Schedule):
        state = made.state_dict()
        check_state(spec, state, tensors=False)
        again = create("schedule", spec, epochs, **options)
        again.load_state_dict(copy.deepcopy(state))
        for schedule in (made, again):
            schedule.after_epoch(epochs, {"val_loss": 9.0, "val_top1": 0.5})
        same = all(made(e / 2) == again(e / 2) for e in range(2 * epochs))
        want(same, spec, "behind load_state_dict(state_dict()) it gives other factors")


def check_logger(spec: LoggerSpec, **options: Any) -> None:
    """It takes everything that a training tells, and writes nothing but below the run's folder.

    Args:
        spec: of the logger.
        options: of its factory.

    Raises:
        AssertionError: what it does not do, in one line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        folder.mkdir()
        made = create("logger", spec, folder, **options)
        want(
            isinstance(made, Logger),
            spec,
            f"the factory gives {type(made).__name__}, not a fashionbatch.Logger",
        )
        made.start({"epochs": 2, "regularizer": ["ema"], "limit": None}, {"items": {"train": 8}})
        for epoch in (1, 2):
            made.step(epoch, {"loss": 0.5, "lr": 1e-3})
            made.epoch({"epoch": epoch, "lr": 1e-3, "train_loss": 0.5, "val_loss": math.nan})
        picture = folder / "curves.png"
        picture.write_bytes(_PNG)
        made.figure("curves", picture)
        made.close()
        beside = [path.name for path in Path(scratch).iterdir() if path != folder]
        want(not beside, spec, f"it writes {', '.join(beside)} beside the run's folder")


#: one white pixel
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c63f80f00010101001bb6ee560000000049454e44ae426082"
)


def _net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)
        )


def _learn(net: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    """The losses of some steps towards sums."""
    losses = []
    for _ in range(count):
        loss = _error(net)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def _error(net: nn.Module) -> Tensor:
    """How far it is from giving the sums of its input."""
    values = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    error: Tensor = (net(values) - values.sum(1, keepdim=True)).square().mean()
    return error


def _step(
    spec: RegularizerSpec,
    made: Regularizer,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
) -> None:
    """One step, as the training makes it."""
    images, targets = batch(landmarks=spec.needs_landmarks)
    given = [t.clone() for t in (images, *_tensors(targets))]
    mixed, aims = made.on_batch(images, targets)
    same = all(torch.equal(a, b) for a, b in zip(given, (images, *_tensors(targets)), strict=True))
    want(same, spec, "on_batch() changes the tensors that it is given: make new ones")
    want(
        mixed.shape == images.shape,
        spec,
        f"on_batch() gives images {list(mixed.shape)}, not {list(images.shape)}",
    )
    want(
        isinstance(aims, Targets) and len(aims) == len(targets),
        spec,
        "on_batch() gives no Targets of as many items",
    )
    optimizer.zero_grad()
    model.train()
    outputs = model(mixed)
    whole = _loss(outputs, aims)
    penalty = made.penalty(model.head, outputs, aims)
    if penalty is not None:
        fine = penalty.shape == () and bool(penalty.isfinite())
        want(fine, spec, f"penalty() gives {list(penalty.shape)}, not a finite scalar")
        whole = whole + penalty
    want(bool(whole.isfinite()), spec, "the loss is not finite with it")
    whole.backward()  # type: ignore[no-untyped-call]  # torch's is not annotated
    trained = [p for p in model.parameters() if p.requires_grad]

    def again() -> None:
        with torch.enable_grad():
            optimizer.zero_grad()
            outputs = model(mixed)
            penalty = made.penalty(model.head, outputs, aims)
            loss = _loss(outputs, aims)
            total = loss if penalty is None else loss + penalty
            total.backward()  # type: ignore[no-untyped-call]

    _look_again(spec, made, trained, again)
    made.on_gradients(trained)
    finite = all(p.grad is None or bool(p.grad.isfinite().all()) for p in trained)
    want(finite, spec, "on_gradients() leaves gradients that are not finite")
    optimizer.step()
    made.after_step(model)


def _loss(outputs: Outputs, targets: Targets) -> Tensor:
    loss = Loss()
    return loss(outputs, targets, loss.norms(targets))


def _look_again(
    spec: RegularizerSpec,
    made: Regularizer,
    trained: list[nn.Parameter],
    again: Callable[[], None],
) -> None:
    """It puts the weights back, also where the gradients cannot be computed anew."""
    before = [p.detach().clone() for p in trained]
    gradients = [None if p.grad is None else p.grad.clone() for p in trained]

    def fails() -> None:
        raise _LossError

    for compute in (fails, again):
        with contextlib.suppress(_LossError):
            made.after_backward(trained, compute)
        kept = all(torch.equal(p, value) for p, value in zip(trained, before, strict=True))
        where = "where again() raises an error" if compute is fails else "bit for bit"
        want(kept, spec, f"after_backward() does not put the weights back {where}")
        if compute is fails:
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
    finite = all(p.grad is None or bool(p.grad.isfinite().all()) for p in trained)
    want(finite, spec, "after_backward() leaves gradients that are not finite")


class _LossError(Exception):
    """Stands for a loss that is not finite."""


def _tensors(targets: Targets) -> list[Tensor]:
    return [t for t in vars(targets).values() if t is not None]
