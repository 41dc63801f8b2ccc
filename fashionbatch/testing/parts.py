"""What the checks have in common: components from specs, and small things to use them on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch import registry
from fashionbatch.models.build import Classifier, Head
from fashionbatch.registry import Component
from fashionbatch.specs import HeadSpec, Preprocessing, Spec
from fashionbatch.training.targets import Targets

CLASSES, ATTRIBUTES, SIDE = 3, 2, 16


def create(kind: str, spec: Spec, *args: Any, **options: Any) -> Any:
    """The component, made as fashionbatch makes it.

    Raises:
        FashionbatchError: it cannot be imported, or takes no such option.
    """
    component = Component(kind=kind, spec=spec, provider="under-test", version="0")
    return registry.create(component, *args, **options)


def want(true: bool, spec: Spec, what: str) -> None:
    """Raises an ``AssertionError`` that names the component, unless it is true."""
    if not true:
        raise AssertionError(f"{spec.name}: {what}")


class _Backbone(nn.Module):
    """One convolution with batch normalization, averaged: ``[N, 3, H, W]`` → ``[N, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.conv(images)).relu()
        return maps.mean(dim=(2, 3))


def classifier(
    seed: int = 0,
    *,
    attributes: bool = True,
    change: Callable[[nn.Module], nn.Module] | None = None,
) -> Classifier:
    """A small model of three classes and two attributes, the same for each seed.

    Args:
        seed: of its weights.
        attributes: whether it has any.
        change: from the small backbone to another one, of 4 features too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(4, CLASSES, HeadSpec(hidden=(5,)), ATTRIBUTES if attributes else 0)
        backbone = _Backbone() if change is None else change(_Backbone())
        return Classifier(backbone, head, Preprocessing(size=SIDE, resize=SIDE))


def batch(count: int = 6, seed: int = 0, *, landmarks: bool = False) -> tuple[Tensor, Targets]:
    """Images uint8 ``[N, 3, 16, 16]``, and targets of which one knows no class.

    Args:
        count: ``N``.
        seed: of both.
        landmarks: three of each image, some of them hidden; of the last one none.
    """
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    category = torch.arange(count) % CLASSES
    category[-1] = -1
    attributes = (torch.rand(count, ATTRIBUTES, generator=draw) < 0.5).float()
    known = torch.rand(count, ATTRIBUTES, generator=draw) < 0.8
    points = None
    if landmarks:
        visibility = torch.randint(0, 3, (count, 3, 1), generator=draw).float()
        points = torch.cat([visibility, torch.rand(count, 3, 2, generator=draw)], dim=2)
        points[-1, :, 0] = 2
    return images, Targets(category=category, attributes=attributes, known=known, landmarks=points)


def check_state(spec: Spec, state: Mapping[str, Any], *, tensors: bool) -> None:
    """What goes into a checkpoint is JSON values, and tensors where they are allowed."""
    for name, value in state.items():
        want(isinstance(name, str), spec, f"state_dict() has the key {name!r}, which is no text")
        if tensors and isinstance(value, Tensor):
            continue
        try:
            same = json.loads(json.dumps(value, allow_nan=False)) == (
                list(value) if isinstance(value, tuple) else value
            )
        except (TypeError, ValueError):
            same = False
        allowed = "a JSON value or a tensor" if tensors else "a JSON value"
        want(same, spec, f"state_dict()[{name!r}] is {type(value).__name__}, not {allowed}")
