"""PyTorch's own engines: as it is, and compiled."""

from __future__ import annotations

import copy
import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch.errors import FashionbatchError
from fashionbatch.models.device import is_memory_error
from fashionbatch.models.engine import Engine, EngineJob
from fashionbatch.models.threads import limited

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


class Eager(Engine):
    """PyTorch as it is, channels last.

    Args:
        job: what to run.
    """

    def __init__(self, job: EngineJob) -> None:
        self._job = job
        self._size = job.shape[0]
        self._notes: list[str] = []
        # the caller's module stays where it is, and as it is
        module: nn.Module = copy.deepcopy(job.module).eval().to(job.device)
        self._module: Callable[[Tensor], tuple[Tensor, ...]] = module.to(
            memory_format=torch.channels_last
        )

    @property
    def details(self) -> Mapping[str, Any]:
        """torch's version."""
        return {"torch": torch.__version__}

    @property
    def notes(self) -> tuple[str, ...]:
        """That memory is short, where it is."""
        return tuple(self._notes)

    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :class:`Engine`; in smaller pieces where a batch is too large for the memory."""
        while True:
            try:
                pieces = [self._answers(piece) for piece in torch.split(images, self._size)]
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_memory_error(error) or self._size == 1:
                    raise
            self._size = -(-self._size // 2)
            self._notes.append(f"out of memory: going on with {self._size} images at a time")
            if self._job.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(pieces) == 1:
            return pieces[0]
        return tuple(torch.cat(column) for column in zip(*pieces, strict=True))

    def _answers(self, images: Tensor) -> tuple[Tensor, ...]:
        job = self._job
        with (
            torch.inference_mode(),
            torch.autocast(
                job.device.type, _DTYPES[job.precision], enabled=job.precision != "float32"
            ),
            limited(job.threads),
        ):
            answers = self._module(images.to(job.device, non_blocking=True))
            return tuple(answer.float() for answer in answers)

    def close(self) -> None:
        """Frees the copy of the module."""
        self.__dict__.pop("_module", None)


class Compiled(Eager):
    """``torch.compile`` with the weights frozen into the code: inductor folds batch normalization.

    What inductor compiles is kept in the job's cache, unless ``TORCHINDUCTOR_CACHE_DIR`` is set: a
    second run need not call the compiler.

    Args:
        job: what to run.
        max_autotune: let inductor try several kernels for each step; minutes of preparation.

    Raises:
        ValueError: the module cannot be compiled; one line.
    """

    def __init__(self, job: EngineJob, *, max_autotune: bool = False) -> None:
        super().__init__(job)
        self._max_autotune = max_autotune
        # in memory as the real ones are: the code is made for these strides
        images = torch.zeros(job.shape, dtype=torch.uint8).to(memory_format=torch.channels_last)
        try:
            with _cache(job.cache):
                self._module = torch.compile(_alone(self._module), dynamic=False)
                self.run(images)
        except (FashionbatchError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # dynamo and inductor wrap whatever they meet
            raise ValueError(f"torch.compile cannot compile it ({_reason(error)})") from error

    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :class:`Engine`."""
        from torch._inductor import config

        # read when code is made: in the first call, and again if a global setting changes.
        # torch.compile's own `options` come too late for dynamo, which then does not freeze
        with config.patch(freezing=True, max_autotune=self._max_autotune), _unpacked():
            return super().run(images)


def compiler_missing(device: str) -> str | None:
    """Why nothing can be compiled here, or ``None``; looks for what inductor and triton call."""
    if device == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed"
        compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
        language = "C"
    else:
        default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        compilers = [os.environ.get("CXX") or default]
        language = "C++"
    if not any(shutil.which(shlex.split(compiler)[0]) for compiler in compilers):
        return f"there is no {language} compiler ({' or '.join(compilers)})"
    headers = Path(sysconfig.get_path("include"))
    if sys.platform != "darwin" and not (headers / "Python.h").is_file():
        return "Python's C headers are not installed (Python.h)"
    return None


def _alone(module: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[..., Any]:
    """The module as a function with a code object of its own.

    Dynamo keeps what it compiled with the code object, at most eight times: modules of one class
    share theirs, and the ninth would run uncompiled without a word. This one goes with its engine.
    """

    def forward(images: Tensor) -> tuple[Tensor, ...]:
        return module(images)

    return types.FunctionType(
        forward.__code__.replace(), forward.__globals__, closure=forward.__closure__
    )


@contextmanager
def _unpacked() -> Iterator[None]:
    """Keeps inductor from packing the weights of linear layers for MKL.

    MKL's kernel for packed weights rounds an image's row by its place in the batch (up to 2e-5, in
    a quarter of the shapes tried, from 3 x 128 to 128 x 25088); the one that eager uses does not.
    There is no setting for linear layers alone, and convolutions gain by being packed.
    """
    before = torch._C.has_mkl
    torch._C.has_mkl = False
    try:
        yield
    finally:
        torch._C.has_mkl = before


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Inductor's files below a folder; the environment is its only setting for that."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    before = os.environ.get(_CACHE)
    if before not in (None, default_cache_dir()):  # which inductor itself sets, once it is used
        yield
        return
    os.environ[_CACHE] = str(folder / "inductor")
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CACHE]
        else:
            os.environ[_CACHE] = before


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
