"""From a torch module to the bytes of an ONNX file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor, nn

#: of ONNX: the one that torch's exporter writes without a conversion
OPSET = 18

#: one ONNX file is one protobuf message, which cannot be larger
_LARGEST = 2**31 - 2**20


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A network as an ONNX file.

    Attributes:
        data: the file: uint8 ``[B, H, W, 3]`` → those outputs in float32 that have values.
        outputs: shape of each of the module's outputs, those without values too.
    """

    data: bytes
    outputs: tuple[tuple[int, ...], ...]


class _ChannelsLast(nn.Module):
    """The module as ONNX Runtime gets it: pixels as they lie in memory, and nothing empty.

    Images come channels last; a graph that takes them so and transposes inside spares a copy. A
    tensor without values (a network of no attributes) is nothing that ONNX Runtime could give.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(images.permute(0, 3, 1, 2))
        return tuple(output.float() for output in outputs if output.numel())


def versions() -> dict[str, str | int]:
    """What an export depends on beside the module: torch, ONNX's packages and the opset."""
    return {
        "torch": torch.__version__,
        "onnx": version("onnx"),
        "onnxscript": version("onnxscript"),
        "opset": OPSET,
    }


def export(module: nn.Module, images: Tensor, outputs: tuple[tuple[int, ...], ...]) -> Exported:
    """Exports a module for batches of one shape.

    Torch's exporter with ``dynamo=True`` follows forward hooks and folds batch normalization into
    convolutions; the one by TorchScript is deprecated. A fixed shape lets it compute paddings
    beforehand. The same module and versions give the same bytes.

    Args:
        module: uint8 ``[B, 3, H, W]`` → a tuple of float tensors; in evaluation mode.
        images: an example, uint8 ``[B, 3, H, W]``.
        outputs: shape of each answer to it.

    Raises:
        ValueError: the module cannot be written as ONNX; one line.
    """
    size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    if size > _LARGEST:
        raise ValueError(
            f"the network takes {size / 2**30:.1f} GiB, and an ONNX file at most 2: "
            "choose another engine"
        )
    example = images.permute(0, 2, 3, 1).contiguous()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, to those who write exporters
            program = torch.onnx.export(
                _ChannelsLast(module).eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
    except MemoryError:
        raise
    except Exception as error:  # the exporter raises whatever it meets
        raise ValueError(f"the network cannot be written as ONNX ({_reason(error)})") from error
    # each step's place in the source, which names this machine's folders
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.graph.value_info[:]
    return Exported(data=model.SerializeToString(deterministic=True), outputs=outputs)


def _reason(error: BaseException) -> str:
    """The first line of the first cause: what wraps it only says that the export failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
