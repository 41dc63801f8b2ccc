"""The components that a training's options name, made and tried before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fashionbatch import registry
from fashionbatch.config import TrainConfig
from fashionbatch.errors import UsageError
from fashionbatch.models.build import Classifier
from fashionbatch.parse import parse_choice, parse_options
from fashionbatch.registry import Component
from fashionbatch.specs import OptimizerSpec
from fashionbatch.training.logger import Logger
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.schedule import Schedule, with_warmup
from fashionbatch.training.targets import Targets


def used(config: TrainConfig) -> list[Component]:
    """All that the options name, the backbone aside.

    Raises:
        UnknownNameError: one of them does not exist.
    """
    names = [("optimizer", config.opt), ("schedule", parse_choice(config.sched)[0])]
    if config.freeze_opt is not None:
        names.append(("optimizer", config.freeze_opt))
    names += [("regularizer", parse_choice(text)[0]) for text in config.regularizers]
    names += [("logger", parse_choice(text)[0]) for text in config.logger]
    return [registry.find(kind, name) for kind, name in names]


def regularizers(
    config: TrainConfig, model: Classifier, crossing: Sequence[tuple[int, ...]] = ()
) -> list[Regularizer]:
    """In the order given; the model is changed as they want it.

    Args:
        config: names them.
        model: to be trained.
        crossing: shapes of what a batch holds of an image in place of its pixels, if it does.

    Raises:
        UsageError: an option is wrong, or the model has nothing that could be changed so.
    """
    made = []
    for text in config.regularizers:
        name, options = parse_choice(text)
        regularizer: Regularizer = registry.create(registry.find("regularizer", name), **options)
        try:
            regularizer.on_model(model)
            if crossing:  # whether it can change those shows on some
                known = torch.ones(2, model.head.outputs - model.head.classes, dtype=torch.bool)
                given = torch.zeros(2, *crossing[0])
                changed, _ = regularizer.on_batch(
                    given,
                    Targets(
                        category=torch.zeros(2, dtype=torch.int64) if model.head.classes else None,
                        attributes=known.float() if known.shape[1] else None,
                        known=known if known.shape[1] else None,
                    ),
                )
                if changed is not given and len(crossing) > 1:
                    # what mixes or erases the first of several would tear an image apart
                    raise ValueError(
                        f"it changes the images, and this network has {len(crossing)} activations "
                        "of each at the cut: leave --prefix-cache out"
                    )
        except ValueError as error:
            raise UsageError(f"--regularizer {text}: {error}") from error
        made.append(regularizer)
    return made


def schedule(config: TrainConfig, steps: int) -> Schedule:
    """The learning rate's, with its rise; ``steps`` are those of an epoch."""
    name, options = parse_choice(config.sched)
    made: Callable[[float], float] = registry.create(
        registry.find("schedule", name), config.epochs, **options
    )
    return with_warmup(made, config.warmup_epochs, steps)


def optimizer(
    config: TrainConfig, parameters: list[dict[str, Any]], lr: float, frozen: bool
) -> torch.optim.Optimizer:
    """Over parameter groups; told whether the whole base is frozen."""
    other = frozen and config.freeze_opt is not None
    component = registry.find("optimizer", str(config.freeze_opt) if other else config.opt)
    assert isinstance(component.spec, OptimizerSpec)
    options: dict[str, Any] = {}
    if not other:
        common = {"momentum": config.momentum, "weight_decay": config.weight_decay}
        options = {k: v for k, v in common.items() if v is not None}
        for name in options:
            if name not in component.spec.options:
                raise UsageError(
                    f"--{name.replace('_', '-')}: the optimizer {config.opt} has none: leave it out"
                )
        given = parse_options(config.opt_kwargs, "--opt-kwargs")
        for name in ("lr", "params"):
            if name in given:
                raise UsageError(f"--opt-kwargs {name}: that has an option of its own, --lr")
        options |= given
    made: torch.optim.Optimizer = registry.create(component, parameters, lr=lr, **options)
    return made


def loggers(config: TrainConfig, folder: Path) -> list[Logger]:
    """Told how the run in a folder goes."""
    made = []
    for text in config.logger:
        name, options = parse_choice(text)
        made.append(registry.create(registry.find("logger", name), folder, **options))
    return made


def check(config: TrainConfig) -> None:
    """Makes what is only made for good when training starts.

    Raises:
        UsageError: an option of one of them is wrong.
    """
    schedule(config, 1)
    for frozen in (False, True):
        optimizer(config, [{"params": [nn.Parameter(torch.zeros(1))]}], config.lr, frozen)
