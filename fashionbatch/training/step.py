"""One optimizer step over a batch of any size: in pieces where memory is short."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fashionbatch.errors import TrainingError, UsageError
from fashionbatch.models.build import Classifier, Outputs
from fashionbatch.models.device import is_memory_error
from fashionbatch.training.distributed import Group
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.targets import Loss, Targets
from fashionbatch.training.task import Task, TrainingBatch


class NotFiniteError(TrainingError):
    """The loss of a batch, or a gradient of it, is NaN or infinite; the text says which."""


class Forward(nn.Module):
    """What a task runs, as a module: for torch's wrappers, which want one.

    Args:
        model: whose parameters are used.
        task: says what of it runs.
    """

    def __init__(self, model: Classifier, task: Task) -> None:
        super().__init__()
        self.model = model
        self._run = task.forward

    def forward(self, *inputs: Tensor) -> Outputs:
        """See :class:`fashionbatch.training.task.Task`."""
        return self._run(inputs)


@dataclass(kw_only=True)
class Stepper:
    """Makes steps of one optimizer; a new one is made when other parameters are trained.

    Attributes:
        model: on its device.
        forward: runs it on the inputs of a task, perhaps compiled.
        loss: of outputs and targets.
        optimizer: over the parameters that are trained.
        regularizers: in the order given.
        device: of the model.
        group: the processes that share a step.
        bfloat16: run the network in mixed precision.
        micro_batch: most items worked off at a time; halved when memory runs out.
        on_memory: told the new size then.
    """

    model: Classifier
    forward: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    regularizers: Sequence[Regularizer]
    device: torch.device
    group: Group
    bfloat16: bool
    micro_batch: int | None = None
    on_memory: Callable[[int], None] = field(default=lambda size: None)

    def __post_init__(self) -> None:
        self._fits = False  # a step of this size has gone through the memory
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self._wrapped: nn.Module = self.forward
        if self.group.world > 1:
            self._wrapped = DistributedDataParallel(
                self.forward,
                device_ids=[self.device] if self.device.type == "cuda" else None,
            )

    def step(self, batch: TrainingBatch, flags: Tensor) -> tuple[Outputs, float, Tensor]:
        """Makes one step.

        Args:
            batch: this process's share, on the device; it may be empty.
            flags: float32 ``[F]``, to be added up over the processes with the rest.

        Returns:
            the outputs of the share in float32, without gradients; the loss of the whole step
            without penalties; and the flags' sums.

        Raises:
            NotFiniteError: the loss or a gradient is not finite; no weight was changed.
            TrainingError: a single image is too large for the memory, or a process was lost.
        """
        inputs, targets, _ = batch
        for regularizer in self.regularizers:
            try:
                first, targets = regularizer.on_batch(inputs[0], targets)
            except ValueError as error:  # what it cannot change, such as vectors that have no area
                raise UsageError(f"{type(regularizer).__name__}: {error}") from error
            if first is not inputs[0] and len(inputs) > 1:
                # several tensors of one image: what mixes or erases the first would tear them apart
                raise UsageError(
                    f"{type(regularizer).__name__} changes the images, and this network has "
                    f"{len(inputs)} activations of each at the cut: leave --prefix-cache out"
                )
            inputs = (first, *inputs[1:])
        counts = torch.zeros(self.group.world)  # of every process's share
        counts[self.group.rank] = len(targets)
        shared = self.group.summed(torch.cat([self.loss.norms(targets), counts, flags]))
        norms, counts, flags = shared.tensor_split([2, 2 + self.group.world])
        outputs, loss = self._gradients(inputs, targets, norms, counts)

        def again(before: int) -> None:
            """The gradients anew, as so many of the regularizers leave them."""
            with torch.enable_grad(), self._same_buffers():
                self._gradients(inputs, targets, norms, counts)
            regularize(before)

        def regularize(before: int) -> None:
            for number, regularizer in enumerate(self.regularizers[:before]):
                regularizer.after_backward(self.trained, functools.partial(again, number))

        regularize(len(self.regularizers))
        for regularizer in self.regularizers:
            regularizer.on_gradients(self.trained)
        self.optimizer.step()
        for regularizer in self.regularizers:
            regularizer.after_step(self.model)
        return outputs, loss, flags

    def _gradients(
        self, inputs: tuple[Tensor, ...], targets: Targets, norms: Tensor, counts: Tensor
    ) -> tuple[Outputs, float]:
        """Those of the whole step; the outputs of this process's share, and the step's loss.

        Raises:
            NotFiniteError: the loss or a gradient is not finite.
        """
        while True:
            # a failed attempt counts in no running statistics; one that has fitted fits again
            kept = None if self._fits else self._buffers()
            try:
                outputs, loss, penalized = self._backward(inputs, targets, norms, counts)
                self._fits = True
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_memory_error(error):
                    raise
                self._halve(len(targets), error)
                self._fits = False
            if kept is not None:
                self._restore(kept)
            self._empty_cache()
        both = self.group.summed(torch.tensor([loss, penalized], dtype=torch.float64))
        if not math.isfinite(float(both[1])):
            raise NotFiniteError(f"the loss is {float(both[1])}")
        found = [p.grad for p in self.trained if p.grad is not None]
        # of a finite loss, too: 0 * inf in a backward pass
        if found and not torch.stack(torch._foreach_norm(found, float("inf"))).isfinite().all():
            raise NotFiniteError("a gradient is not finite")
        return outputs, float(both[0])

    def _buffers(self) -> list[tuple[Tensor, Tensor]]:
        """What a forward pass in training mode changes beside weights, and what it is now."""
        modules = (m for m in self.model.modules() if m.training)
        return [(b, b.clone()) for m in modules for b in m.buffers(recurse=False)]

    @staticmethod
    def _restore(kept: list[tuple[Tensor, Tensor]]) -> None:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)

    @contextmanager
    def _same_buffers(self) -> Iterator[None]:
        """What a forward pass in training mode changes beside weights is put back.

        A batch is to count once in running statistics, and with the weights that it was seen with.
        """
        kept = self._buffers()
        try:
            yield
        finally:
            self._restore(kept)

    def _backward(
        self, inputs: tuple[Tensor, ...], targets: Targets, norms: Tensor, counts: Tensor
    ) -> tuple[Outputs, float, float]:
        """Adds up the gradients of all pieces; the loss's share, without and with penalties."""
        self.optimizer.zero_grad(set_to_none=True)
        total = float(counts.sum())
        # as many as in the process with the largest share: batch normalization over the images of
        # all processes waits in each piece for all of them
        pieces = self._pieces(len(targets), int(counts.max()))
        found: list[Outputs] = []
        losses: list[Tensor] = []
        for number, rows in enumerate(pieces):
            last = number == len(pieces) - 1
            with self._unsynced(last):
                outputs = self._run(self._wrapped, tuple(i[rows] for i in inputs))
                aims = targets[rows]
                loss = self.loss(outputs, aims, norms)
                whole = loss
                share = (rows.stop - rows.start) / total
                for regularizer in self.regularizers if rows.stop > rows.start else ():
                    try:
                        penalty = regularizer.penalty(self.model.head, outputs, aims)
                    except ValueError as error:  # targets without what it needs
                        raise UsageError(f"{type(regularizer).__name__}: {error}") from error
                    if penalty is not None:
                        whole = whole + penalty * share
                # torch's wrapper takes the mean over the processes; ours is a sum of shares
                (whole * self.group.world).backward()  # type: ignore[no-untyped-call]  # torch's is not annotated
            losses.append(torch.stack([loss.detach(), whole.detach()]))
            found.append(_detached(outputs))
        # read once: a GPU works on while it is not asked for numbers
        plain, penalized = map(sum, zip(*torch.stack(losses).tolist(), strict=True))
        return _joined(found), plain, penalized

    def evaluate(self, inputs: tuple[Tensor, ...]) -> Outputs:
        """The outputs for inputs on the device, in float32; the model is in evaluation mode."""
        count = len(inputs[0])
        while True:
            pieces = self._pieces(count, count)
            try:
                with torch.inference_mode():
                    return _joined(
                        [self._run(self.forward, tuple(i[rows] for i in inputs)) for rows in pieces]
                    )
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_memory_error(error):
                    raise
                self._halve(count, error)
            self._empty_cache()

    def _run(self, forward: nn.Module, inputs: tuple[Tensor, ...]) -> Outputs:
        # an empty share in float32: of one, torch's batch normalization over several processes
        # sends sums of the images' type, and the others send float32
        lower = self.bfloat16 and len(inputs[0]) > 0
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            outputs: Outputs = forward(*inputs)
        # all of it: penalties are sums over many values, which bfloat16 has no digits for
        return Outputs(
            logits=outputs.logits.float(),
            attributes=outputs.attributes.float(),
            bottleneck=outputs.bottleneck.float(),
            dense=tuple(d.float() for d in outputs.dense),
        )

    def _pieces(self, count: int, largest: int) -> list[slice]:
        """Nearly equal ones, because batch normalization cannot train on a single image.

        Args:
            count: how many are to be divided.
            largest: no fewer; decides how many pieces there are.
        """
        most = self.micro_batch or max(largest, 1)
        number = max(1, -(-largest // most))
        borders = [count * i // number for i in range(number + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(borders)]

    def _unsynced(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged with the last piece only."""
        if isinstance(self._wrapped, DistributedDataParallel) and not last:
            waiting: AbstractContextManager[None] = self._wrapped.no_sync()
            return waiting
        return nullcontext()

    def _halve(self, count: int, error: BaseException) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        now = min(self.micro_batch or count, count)
        if now <= 1:
            raise TrainingError(
                "a single image is too large for the memory: choose a smaller --img-size or network"
            ) from error
        if self.group.world > 1:
            # the other processes wait for this one's gradients, and cannot begin anew
            raise TrainingError(
                f"out of memory with {now} images at a time: give --micro-batch {-(-now // 2)}"
            ) from error
        self.micro_batch = -(-now // 2)
        self.on_memory(self.micro_batch)

    def _empty_cache(self) -> None:
        """Makes one piece of what a failed attempt had taken.

        Only when its error is gone: as long as that lives, so do the tensors of its frames.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _detached(outputs: Outputs) -> Outputs:
    return Outputs(
        logits=outputs.logits.detach(),
        attributes=outputs.attributes.detach(),
        bottleneck=outputs.bottleneck.detach(),
        dense=tuple(d.detach() for d in outputs.dense),
    )


def _joined(pieces: list[Outputs]) -> Outputs:
    if len(pieces) == 1:
        return pieces[0]
    return Outputs(
        logits=torch.cat([p.logits for p in pieces]),
        attributes=torch.cat([p.attributes for p in pieces]),
        bottleneck=torch.cat([p.bottleneck for p in pieces]),
        dense=tuple(torch.cat(d) for d in zip(*(p.dense for p in pieces), strict=True)),
    )
