"""What a training has beside its images: all that its options have made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fashionbatch.models.build import Classifier
from fashionbatch.training.distributed import Group
from fashionbatch.training.logger import Logger
from fashionbatch.training.metrics import Metrics
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.targets import Loss

#: parameters and what they alone have: ``params``, and ``scale`` of the learning rate
ParameterGroups = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that the loop needs beside its task.

    Attributes:
        model: on its device.
        optimizer: makes one over the parameters that are trained, at a learning rate; told whether
            the whole base is frozen.
        parameters: what is trained now, with the scale of its learning rate.
        schedule: factor on the learning rate at an epoch.
        lr: learning rate.
        loss: of a step; validation knows no class weights.
        regularizers: in the order given.
        metrics: makes an empty one; told whether those are wanted that take long.
        epochs: most of them.
        freeze_epochs: of these, how many with the whole base frozen.
        unfreeze: called once behind them: makes trainable what the user chose.
        frozen: entries of the model's state that are never trained; checkpoints leave them out.
        device: of the model.
        group: the processes that train it.
        bfloat16: mixed precision.
        compile: by torch.compile.
        micro_batch: most items worked off at a time.
        checkpoint_minutes: between two checkpoints within an epoch; 0 for none.
        identity: what a resumed run must share with its checkpoint, as JSON values.
        title: of the curves.
        loggers: told how it goes.
        tell: gets ``("step", ...)``, ``("epoch", row)``, ``("memory", {"micro_batch"})`` and, of a
            run that was gone on with, ``("resumed", {"epoch", "step"})`` or, where nothing is left
            to train, ``("finished", {"epochs", "stopped_early"})``.
    """

    model: Classifier
    optimizer: Callable[[ParameterGroups, float, bool], torch.optim.Optimizer]
    parameters: Callable[[], ParameterGroups]
    schedule: Callable[[float], float]
    lr: float
    loss: Loss
    regularizers: Sequence[Regularizer]
    metrics: Callable[[bool], Metrics]
    epochs: int
    freeze_epochs: int
    unfreeze: Callable[[], None]
    device: torch.device
    frozen: frozenset[str] = frozenset()
    group: Group = field(default_factory=Group)
    bfloat16: bool = False
    compile: bool = False
    micro_batch: int | None = None
    checkpoint_minutes: float = 0.0
    identity: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    loggers: Sequence[Logger] = ()
    tell: Callable[[str, dict[str, Any]], None] = field(default=lambda event, values: None)
