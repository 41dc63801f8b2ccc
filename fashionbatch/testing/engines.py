"""Checks of an engine: it gives the module's answers, whatever else is in the batch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch import registry
from fashionbatch.models.engine import Engine, EngineJob
from fashionbatch.specs import EngineSpec
from fashionbatch.testing.parts import SIDE, classifier, create, want

_COUNT = 4
#: of the largest answer: what another order of additions changes, with room
TOLERANCE = 1e-3


class _Module(nn.Module):
    """Logits and features of the small model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = classifier(attributes=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(images)
        return outputs.logits, outputs.bottleneck


def check_engine(spec: EngineSpec, *, tolerance: float = TOLERANCE, **options: Any) -> None:
    """On the CPU, if it runs there: answers, places in the batch, a second engine on its cache.

    Args:
        spec: of the engine.
        tolerance: share of the largest answer that an answer may be off.
        options: of its factory.

    Raises:
        AssertionError: what it does not do, in one line.
    """
    want(bool(spec.devices), spec, "its spec names no devices")
    if "cpu" not in spec.devices:
        return
    if spec.missing is not None:
        reason = registry.resolve(spec.missing, requires=spec.requires)("cpu")
        fine = reason is None or (isinstance(reason, str) and "\n" not in reason)
        want(fine, spec, f"missing('cpu') gives {reason!r}, not None or a line of text")
        if reason is not None:
            return
    module = _Module().eval()
    images = torch.randint(
        0,
        256,
        (_COUNT, 3, SIDE, SIDE),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(3),
    ).contiguous(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.inference_mode():
        expected = module(images)
    with tempfile.TemporaryDirectory() as cache:
        job = EngineJob(
            module=module, shape=(_COUNT, 3, SIDE, SIDE), device=torch.device("cpu"),
            cache=Path(cache), key="5" * 64,
        )  # fmt: skip
        for place in ("", "made again on its cache, "):
            made = create("engine", spec, job, **options)
            want(
                isinstance(made, Engine),
                spec,
                f"the factory gives {type(made).__name__}, not a fashionbatch.Engine",
            )
            try:
                _check_answers(spec, made, images, expected, tolerance, place)
            finally:
                made.close()
    same = all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    want(same, spec, "it changes the weights of the module that it is given")


def _check_answers(
    spec: EngineSpec,
    made: Engine,
    images: Tensor,
    expected: tuple[Tensor, ...],
    tolerance: float,
    place: str,
) -> None:
    given = [a.cpu().clone() for a in made.run(images)]
    shapes = [list(a.shape) for a in given]
    wanted = [list(a.shape) for a in expected]
    want(shapes == wanted, spec, f"{place}it gives {shapes}, and the module {wanted}")
    for answer, right in zip(given, expected, strict=True):
        want(answer.dtype == torch.float32, spec, f"{place}it gives {answer.dtype}, not float32")
        off = float((answer - right).abs().max() / right.abs().max().clamp_min(1e-12))
        want(off <= tolerance, spec, f"{place}it is off by {off:.2g} of the largest answer")
    turned = [a.cpu().clone().flip(0) for a in made.run(images.flip(0))]
    black = images.clone()
    black[1:] = 0
    first = [a.cpu().clone() for a in made.run(black)]
    for answer, other, alone in zip(given, turned, first, strict=True):
        want(
            torch.equal(answer, other), spec, "an image's answer depends on its place in the batch"
        )
        want(
            torch.equal(answer[0], alone[0]), spec, "an image's answer depends on the other images"
        )
