"""ONNX Runtime as an engine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fashionbatch
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from fashionbatch_onnxruntime import __version__
from fashionbatch_onnxruntime.cache import Cache
from fashionbatch_onnxruntime.export import Exported, export, versions

#: How far an output may be from PyTorch's, as a share of the output's largest value in the batch.
#: Adding in another order made up to 2.4e-6 (seven networks from ResNet-18 to ViT-B/16); the rest
#: is for deeper ones. For a logit of 20 it is 0.002, by which a probability moves at most 0.001:
#: softmax changes half as much as the logit that changes most.
TOLERANCE = 1e-4

#: Images that a thread of a CPU takes at a time, at most. A thread for each piece of a batch is
#: faster than all threads for one step of the whole batch: none waits for another between two
#: steps, nor for one whose core has to decode, and what a step leaves stays in the core's cache.
#: Fewer images would have large layers' weights fetched more often.
_PIECE = 4

_ERRORS_ONLY = 3


class OnnxRuntime(fashionbatch.Engine):
    """ONNX Runtime, in float32.

    The network is exported, its answers to one batch are compared with PyTorch's, and it is kept in
    the job's cache; with the same weights, code and versions it is read from there.

    On a CPU a batch is worked off in pieces of at most four images, as many at a time as there are
    threads. An image's answer does not depend on the others of its piece, nor on the threads.

    Args:
        job: what to run. Without a key nothing is kept.

    Raises:
        ValueError: another precision is asked for, ONNX Runtime cannot use the device, the network
            cannot be exported, or its answers differ from PyTorch's by more than
            :data:`TOLERANCE`.
    """

    def __init__(self, job: fashionbatch.EngineJob) -> None:
        if job.precision != "float32":
            raise ValueError(
                f"the engine onnxruntime computes in float32 only, not {job.precision}: "
                "leave --precision out, or choose another engine"
            )
        self._provider = _provider(job.device)
        self._piece = piece(job)
        cache = Cache(job.cache, self._key(job)) if job.key else None
        exported = cache.read() if cache else None
        if exported is None:
            images = photographs(job.shape)
            expected = _answers(job.module, images)
            shapes = tuple((self._piece, *a.shape[1:]) for a in expected)
            exported = export(job.module, images[: self._piece], shapes)
            self._start(job, exported)
            compared = compare(expected, self.run(images))
            if cache:
                cache.write(exported, compared)
        else:
            self._start(job, exported)

    @staticmethod
    def _key(job: fashionbatch.EngineJob) -> dict[str, Any]:
        return {
            "module": job.key,
            "plugin": __version__,
            "shape": (piece(job), *job.shape[1:]),
            # of the comparison, which is not made again
            "device": job.device.type,
            "machine": platform.machine(),
            "onnxruntime": onnxruntime.__version__,
            **versions(),
        }

    def _start(self, job: fashionbatch.EngineJob, exported: Exported) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        at_once = min(job.threads, job.shape[0] // self._piece)
        options.intra_op_num_threads = max(1, job.threads // at_once)
        options.inter_op_num_threads = 1
        # a thread that spins while it waits takes the core from those that decode
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                exported.data, options, providers=[self._provider]
            )
        except Exception as error:  # pybind hands over C++'s errors under many types
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise ValueError(f"ONNX Runtime cannot load the network ({reason})") from error
        if session.get_providers()[0] != self._provider[0]:  # it takes the CPU, and logs that
            raise ValueError(
                f"ONNX Runtime cannot use {job.device}: its {self._provider[0]} does not load here "
                "(is its version of CUDA the one that is installed?)"
            )
        session.disable_fallback()
        self._session = session
        self._input = session.get_inputs()[0].name
        self._names = [output.name for output in session.get_outputs()]
        self._outputs = exported.outputs
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="onnxruntime")

    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :class:`fashionbatch.Engine`; the answers lie on the CPU."""
        count = len(images)
        # a view, where the images lie channels last
        pixels = images.permute(0, 2, 3, 1).contiguous()
        answers = tuple(torch.empty((count, *shape[1:])) for shape in self._outputs)
        wanted = [answer for answer in answers if answer[:1].numel()]

        def run(start: int) -> None:
            rows = slice(start, start + self._piece)
            bound = self._session.io_binding()
            bound.bind_cpu_input(self._input, pixels[rows].numpy())
            for name, answer in zip(self._names, wanted, strict=True):
                place = answer[rows]  # ONNX Runtime writes there
                bound.bind_output(name, "cpu", 0, np.float32, place.shape, place.data_ptr())
            self._session.run_with_iobinding(bound)

        for _ in self._threads.map(run, range(0, count, self._piece)):
            pass  # raises what a piece raised
        return answers

    @property
    def details(self) -> Mapping[str, Any]:
        """Versions of ONNX Runtime and of what wrote the network."""
        return {"onnxruntime": onnxruntime.__version__, **versions()}

    def close(self) -> None:
        """Frees the network."""
        if "_session" in self.__dict__:
            del self._session
            self._threads.shutdown()


def piece(job: fashionbatch.EngineJob) -> int:
    """Images that ONNX Runtime gets at a time; batches are that many, or a multiple."""
    batch = job.shape[0]
    if job.device.type != "cpu":
        return batch
    return next(size for size in range(_PIECE, 0, -1) if batch % size == 0)


def photographs(shape: tuple[int, int, int, int]) -> Tensor:
    """Images with a photograph's smooth areas, edges and grain; always the same ones.

    Args:
        shape: ``(B, 3, H, W)``.

    Returns:
        uint8, channels last in memory.
    """
    batch, channels, height, width = shape
    random = torch.Generator().manual_seed(0)
    areas = torch.rand(batch, channels, 5, 5, generator=random) * 255
    smooth = nn.functional.interpolate(areas, (height, width), mode="bilinear")
    edges = nn.functional.interpolate(areas.flip(0, 2), (height, width), mode="nearest")
    grain = torch.randn(shape, generator=random) * 4
    pixels = (0.7 * smooth + 0.3 * edges + grain).clamp(0, 255).to(torch.uint8)
    return pixels.to(memory_format=torch.channels_last)


def compare(expected: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> dict[str, Any]:
    """Holds answers against PyTorch's.

    Args:
        expected: PyTorch's.
        got: of the same shapes.

    Returns:
        ``{"tolerance", "differences"}``: of each output, the largest difference as a share of the
        output's largest value. What is NaN or infinite must be so in both, and is left out.

    Raises:
        ValueError: an output differs by more than :data:`TOLERANCE`.
    """
    differences = [_difference(a, b) for a, b in zip(expected, got, strict=True)]
    worst = max(differences, default=0.0)
    if not worst <= TOLERANCE:
        raise ValueError(
            f"ONNX Runtime's answers differ from PyTorch's by {worst:.1e} of the largest value "
            f"(at most {TOLERANCE:.0e} is accepted): choose another engine for this network"
        )
    return {"tolerance": TOLERANCE, "differences": differences}


def _difference(expected: Tensor, got: Tensor) -> float:
    finite = expected.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = expected[finite].abs().max().item()
    apart = (expected[finite] - got[finite]).abs().max().item()
    return apart / largest if largest else apart


def _answers(module: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return tuple(answer.float() for answer in module(images))


def _provider(device: torch.device) -> tuple[str, dict[str, str]]:
    """The execution provider of a device, and its settings."""
    providers: dict[str, tuple[str, dict[str, str]]] = {
        "cpu": ("CPUExecutionProvider", {}),
        "cuda": (
            "CUDAExecutionProvider",
            {
                "device_id": str(device.index or 0),
                # kernels that are chosen by a measurement could be others in the next run
                "cudnn_conv_algo_search": "HEURISTIC",
                "use_tf32": "0",  # its 10 bits are not float32
            },
        ),
    }
    name, settings = providers.get(device.type, ("", {}))
    if name not in onnxruntime.get_available_providers():
        raise ValueError(
            f"the installed onnxruntime does not run on {device}: choose another engine"
        )
    return name, settings
