"""Several processes that train one model, as torch's launcher starts them.

``torchrun --nproc-per-node 2 -m fashionbatch train ...`` tells each process its rank in the
environment. Every process has the same plan; of each step and of each split it takes its share.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fashionbatch.errors import TrainingError, UsageError

T = TypeVar("T")
#: how long a process waits for the others: the first one may be computing activations for long,
#: and one that is gone is noticed at once, by its connection
_PATIENCE = timedelta(hours=12)

#: torchrun gives it to every process that it starts
_LAUNCHED = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class Group:
    """The processes of a training.

    Attributes:
        rank: of this one, from 0.
        world: how many.
        local_rank: among those of this machine; the number of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes, and speaks."""
        return self.rank == 0

    def summed(self, values: Tensor) -> Tensor:
        """The sum over the processes of a small CPU tensor; the same in each."""
        if self.world == 1:
            return values
        with _named():
            moved = values.to(self._device())
            dist.all_reduce(moved)
            return moved.to(values.device)

    def share(self, values: Tensor) -> None:
        """Puts the first process's values into everyone's tensor."""
        if self.world > 1:
            with _named():
                moved = values.to(self._device())
                dist.broadcast(moved, src=0)
                values.copy_(moved)

    def gathered(self, value: T) -> list[T]:
        """Everyone's value, by rank; of few bytes."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        with _named():
            dist.all_gather_object(found, value)
        return found

    def told(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the first process; where it fails, all fail.

        Raises:
            Exception: what ``make`` raised, in the first process; TrainingError in the others.
        """
        if self.world == 1:
            return make()
        answer: list[Any] = [None, None]
        failure: Exception | None = None
        if self.leads:
            try:
                answer[0] = make()
            except Exception as error:
                failure, answer[1] = error, str(error) or type(error).__name__
        with _named():
            dist.broadcast_object_list(answer, src=0)
        if failure is not None:
            raise failure
        if answer[1] is not None:
            raise TrainingError(f"the first process gave up: {answer[1]}")
        made: T = answer[0]
        return made

    def wait(self) -> None:
        """Until all have come so far."""
        self.summed(torch.zeros(1))

    def _device(self) -> str:
        return f"cuda:{self.local_rank}" if dist.get_backend() == "nccl" else "cpu"


@contextmanager
def group(device: str) -> Iterator[Group]:
    """Joins the processes that the launcher started; alone without a launcher.

    Args:
        device: as the user gave it; with ``auto`` or ``cuda`` each process takes a GPU of its own.

    Raises:
        UsageError: there are a launcher's variables and no launcher, what it says cannot be, or
            there are fewer GPUs than processes.
        TrainingError: the processes do not find each other.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1":
        yield Group()
        return
    if _LAUNCHED not in os.environ:
        # left over in a shell: whoever waits for the others would wait for hours
        raise UsageError(
            f"WORLD_SIZE={world} is set, and torchrun did not start this process: start it with "
            "torchrun, or unset RANK and WORLD_SIZE"
        )
    mine = Group(
        int(os.environ["RANK"]), int(world), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    )
    if ":" in device:
        raise UsageError(
            f"--device {device}: {world} processes take a GPU each: write --device "
            f"{device.split(':')[0]}"
        )
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        if mine.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"this machine has {torch.cuda.device_count()} GPUs and at least "
                f"{mine.local_rank + 1} processes: lower --nproc-per-node, or write --device cpu"
            )
        torch.cuda.set_device(mine.local_rank)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the {world} processes of this training do not find each other ({_line(error)}): "
            "check torchrun's --master-addr and --master-port"
        ) from error
    try:
        yield mine
    finally:
        # what still holds the group (a wrapped model in a cycle) would be freed when Python is
        # half gone, and gloo's threads, which need it to free tensors, would abort the process
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def _named() -> Iterator[None]:
    """Turns what a lost connection raises into one line."""
    try:
        yield
    except RuntimeError as error:
        raise lost(error) from error


class LostError(TrainingError):
    """Another process of the training is gone."""


def lost(error: BaseException) -> LostError:
    """The error of a training of which a process is gone."""
    return LostError(
        f"another process of this training was lost ({_line(error)}): start them all again with "
        "--resume"
    )


def is_lost(error: BaseException) -> bool:
    """Whether an error is that of a connection to another process."""
    if not dist.is_initialized():
        return False
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        word in text for word in ("connection", "gloo", "nccl", "timed out", "peer")
    )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
