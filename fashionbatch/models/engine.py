"""What runs a network: the contract of engines.

An engine gets a module that takes pixels and gives a tuple of tensors, and runs it over batches of
one shape. It knows nothing of classes, features or files, so that whatever is computed in bulk can
go through it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fashionbatch import files
from fashionbatch.errors import ModelError
from fashionbatch.models.device import is_memory_error

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class EngineJob:
    """What an engine is made for.

    Attributes:
        module: uint8 ``[B, 3, H, W]`` on the scale 0..255 → a tuple of float tensors ``[B, ...]``;
            in evaluation mode, its weights on the CPU and not to be changed (take a copy).
        shape: ``(B, 3, H, W)`` of every batch.
        device: where to run.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for the layers that bear it.
        threads: of the CPU, that the engine may keep busy.
        cache: folder for what is made once and used again; exists.
        key: stands for the module's code and weights, 64 hexadecimal digits: with the same key,
            what is in the cache may be used. An engine adds what else its files depend on.
    """

    module: nn.Module
    shape: tuple[int, int, int, int]
    device: torch.device
    precision: str = "float32"
    threads: int = 1
    cache: Path = field(default_factory=Path)
    key: str = ""

    @classmethod
    def of_this_machine(cls, **values: Any) -> Self:
        """With all the cores that this process may use, and the user's cache.

        ``OMP_NUM_THREADS`` says how many it may, as it does for torch.
        """
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        threads = min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) else cores
        return cls(**values, threads=threads, cache=_cache())


class Engine:
    """Runs a module over batches; a subclass overrides :meth:`run`.

    The factory of its spec is called ``factory(job, **options)`` with an :class:`EngineJob`, and
    prepares all it can, so that the first batch takes as long as any other. What cannot work with
    this module is a ``ValueError`` of one line.

    The answer for an image must not depend on the other images of the batch or on its place among
    them: a batch always has the same shape, and is filled up with black images.

    Example::

        class Traced(fashionbatch.Engine):
            def __init__(self, job):
                example = torch.zeros(job.shape, dtype=torch.uint8)
                self.module = torch.jit.trace(job.module, example)

            def run(self, images):
                with torch.inference_mode():
                    return self.module(images)
    """

    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """Answers a batch.

        Args:
            images: uint8 of the job's shape, channels last in memory, on the CPU; pinned where the
                device is a GPU. It is overwritten when the answer has been copied to the CPU.

        Returns:
            the module's tensors, in float32, on any device; may still be on their way there.

        Raises:
            MemoryError: the memory is too small for a batch; torch's own error will do.
        """
        raise NotImplementedError  # the one method a subclass must write

    @property
    def notes(self) -> tuple[str, ...]:
        """What people ought to know of how it runs, a line each; told once each."""
        return ()

    @property
    def details(self) -> Mapping[str, Any]:
        """JSON values that the numbers depend on beside the spec's name and package: versions."""
        return {}

    def close(self) -> None:
        """Frees what it holds."""


def answers(engine: Engine, images: Tensor) -> tuple[Tensor, ...]:
    """What an engine gives for a batch.

    Raises:
        ModelError: there is not enough memory for it.
    """
    try:
        return engine.run(images)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise ModelError(
            f"the memory is too small for {len(images)} images at a time: use a smaller "
            "--batch-size; what is finished is kept"
        ) from error


def _cache() -> Path:
    """Where engines keep what they made."""
    try:
        folder = files.cache_folder() / "engines"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home, or a read-only one: made anew by every run then
        folder = Path(tempfile.mkdtemp(prefix="fashionbatch-engines-"))
    return folder
