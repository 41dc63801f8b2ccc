"""Checks of a visualizer: pictures, the same ones again, and a model left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from fashionbatch.explanation.base import Explained, Photo, Picture, Subject, Visualizer
from fashionbatch.specs import VisualizerSpec
from fashionbatch.testing.parts import SIDE, classifier, create, want


def check_visualizer(
    spec: VisualizerSpec,
    *,
    change: Callable[[nn.Module], nn.Module] | None = None,
    **options: Any,
) -> None:
    """Draws photographs of several shapes, if it does without a prediction file.

    Args:
        spec: of the visualizer.
        change: for one that takes certain networks only: makes one of a small network, which
            averages a map of 4 channels over its places; what was there stays there.
        options: of its factory.

    Raises:
        AssertionError: what it does not do, in one line.
    """
    made = create("visualizer", spec, **options)
    want(
        isinstance(made, Visualizer),
        spec,
        f"the factory gives {type(made).__name__}, not a fashionbatch.Visualizer",
    )
    if spec.needs_predictions:
        return
    model = classifier(attributes=False, change=change).eval()
    explained = Explained(
        model=model,
        classes=("bag", "dress", "hat"),
        preprocessing=_preprocessing(),
        cam_layer=model.backbone.get_submodule("norm"),
        device=torch.device("cpu"),
        shown_layers=("conv",),
    )
    draw = np.random.default_rng(0)
    photos = [
        Photo(
            image=Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)),
            name=f"{label}/ü {number}.jpg",
            label=label,
        )
        for number, (size, label) in enumerate((((20, 30), "bag"), ((40, 16), "hat")))
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = _hooks(model)
    given = explained if spec.needs_model else cast(Explained, Subject())
    first = list(_drawn(spec, made, given, photos))
    want(bool(first), spec, "it draws no picture")
    again = list(_drawn(spec, create("visualizer", spec, **options), given, photos))
    same = [p.image.tobytes() for p in first] == [p.image.tobytes() for p in again]
    want(same, spec, "the same photographs and options give another picture")
    kept = all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    want(kept and not model.training, spec, "it does not leave the model as it was")
    now = _hooks(model)
    want(now == hooks, spec, "it leaves a hook on the model")


def _drawn(
    spec: VisualizerSpec, made: Visualizer, explained: Explained, photos: list[Photo]
) -> Iterator[Picture]:
    for some in [photos] if spec.needs_images else [[], photos]:
        for picture in [*made.draw(explained, some), *made.finish()]:
            want(
                isinstance(picture, Picture),
                spec,
                f"it draws {type(picture).__name__}, not a fashionbatch.Picture",
            )
            fine = all(isinstance(text, str) for text in picture.about.values())
            want(fine, spec, "about holds what is no text")
            yield picture


def _preprocessing() -> Any:
    from fashionbatch.specs import Preprocessing

    return Preprocessing(size=SIDE, resize=SIDE)


def _hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
