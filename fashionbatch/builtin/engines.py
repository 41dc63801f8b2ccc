"""PyTorch's own engines: as it is, and compiled."""

from __future__ import annotations

import copy
import importlib.util
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch.models.engine import Engine, EngineJob

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Eager(Engine):
    """PyTorch as it is, channels last.

    Args:
        job: what to run.
    """

    def __init__(self, job: EngineJob) -> None:
        self.job = job
        # the caller's module stays where it is, and as it is
        self.module: nn.Module = copy.deepcopy(job.module).eval().to(job.device)
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    @property
    def details(self) -> Mapping[str, Any]:
        """torch's version."""
        return {"torch": torch.__version__}

    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :class:`Engine`."""
        job = self.job
        with (
            torch.inference_mode(),
            torch.autocast(
                job.device.type, _DTYPES[job.precision], enabled=job.precision != "float32"
            ),
        ):
            answers = self.module(images.to(job.device, non_blocking=True))
            return tuple(answer.float() for answer in answers)


class Compiled(Eager):
    """``torch.compile`` with the weights frozen into the code: inductor folds batch normalization.

    Args:
        job: what to run.
        max_autotune: let inductor try several kernels for each step; minutes of preparation.
    """

    def __init__(self, job: EngineJob, *, max_autotune: bool = False) -> None:
        super().__init__(job)
        from torch._inductor import config

        # freezing is read when the code is made: in the first call, which happens here
        with config.patch(freezing=True, max_autotune=max_autotune):
            self.module = torch.compile(self.module, dynamic=False)
            self.run(torch.zeros(job.shape, dtype=torch.uint8, device="cpu"))


def compiler_missing(device: str) -> str | None:
    """Why nothing can be compiled here."""
    if device == "cuda":
        return None if importlib.util.find_spec("triton") else "the package triton is not installed"
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "there is no C++ compiler"
    return None
