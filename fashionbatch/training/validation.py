"""Looking at a split with the weights that are to be saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fashionbatch.training import averaged
from fashionbatch.training.distributed import Group
from fashionbatch.training.metrics import Metrics
from fashionbatch.training.progress import Progress
from fashionbatch.training.setup import Setup
from fashionbatch.training.step import Stepper
from fashionbatch.training.targets import Loss
from fashionbatch.training.task import Task


class Validation:
    """Measures the model of a training.

    Args:
        setup: see :class:`Setup`.
        task: where batches come from.
        progress: of the training.
        forward: runs the model on the inputs of the task, perhaps compiled.

    Attributes:
        settled: the weights that are to be saved are in the model already.
    """

    def __init__(self, setup: Setup, task: Task, progress: Progress, forward: nn.Module) -> None:
        self.setup, self.task, self.progress, self.forward = setup, task, progress, forward
        self.settled = False

    def measure(self, split: str, stepper: Stepper | None) -> tuple[Metrics, float]:
        """Looks at every image of a split once, with the weights that are to be saved.

        Args:
            split: its name.
            stepper: that of the training; one that makes no steps serves where there is none.

        Returns:
            the metrics, whose own loss is not set, and the loss.
        """
        setup = self.setup
        stepper = stepper or self._stepper()
        loss = Loss(attribute_weight=setup.loss.attribute_weight)
        metrics = setup.metrics(True)
        sums = torch.zeros(4, dtype=torch.float64)
        with self.weights(stepper.optimizer):
            setup.model.eval()
            for batch in self.task.batches(split):
                if len(batch.targets):
                    batch = batch.to(setup.device)
                    targets = batch.targets
                    outputs = stepper.evaluate(batch.inputs)
                    norms = loss.norms(targets)
                    parts = loss.parts(outputs, targets)
                    sums += torch.cat([parts.double().cpu(), norms.double()])
                    metrics.update(outputs, targets, 0.0, len(targets))
        sums = setup.group.summed(sums)
        return metrics, float((sums[:2] / sums[2:].clamp(min=1e-12)).sum())

    @contextmanager
    def weights(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """The model has the weights that are validated and saved, in every process the same.

        Args:
            optimizer: of the training; its weights give way to a regularizer's.
        """
        if self.settled:
            yield
            return
        with averaged.kept(optimizer), self._evaluated():
            yield

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """With what the regularizers put in place of weights."""
        model = self.setup.model
        other: dict[str, Tensor] = {}
        for regularizer in self.setup.regularizers:
            other |= regularizer.evaluated(model) or {}
        own: dict[str, Tensor] = {}
        if other:
            state = model.state_dict()
            own = {name: state[name].detach().clone() for name in other}
            model.load_state_dict(other, strict=False)
        if self.setup.group.world > 1:
            for buffer in model.buffers():  # each process has running statistics of its own images
                self.setup.group.share(buffer)
        try:
            yield
        finally:
            if own:
                model.load_state_dict(own, strict=False)

    def _stepper(self) -> Stepper:
        setup = self.setup
        return Stepper(
            model=setup.model,
            forward=self.forward,
            loss=setup.loss,
            optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.0),  # makes no step
            regularizers=(),
            device=setup.device,
            group=Group(),
            bfloat16=setup.bfloat16,
            micro_batch=self.progress.micro_batch,
        )
