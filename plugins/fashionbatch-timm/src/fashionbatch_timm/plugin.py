"""What this package offers to fashionbatch: the networks of timm (Wightman 2019).

``table.json`` says what there is; :mod:`.generate` makes it. Nothing here imports torch or timm:
the table is read and handed over in about 20 ms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fashionbatch

_TABLE = Path(__file__).with_name("table.json")
_NETWORKS = "fashionbatch_timm.networks"


@fashionbatch.hookimpl
def fashionbatch_backbones() -> Iterator[fashionbatch.BackboneSpec]:
    """One backbone for each network, and a weight set for each of its tags, timm's default first.

    A set that was trained with another input than the default one brings its own
    (:attr:`fashionbatch.BackboneSpec.inputs`).
    """
    table = json.loads(_TABLE.read_bytes())
    inputs = [_preprocessing(*each) for each in table["inputs"]]
    for name, (module, features, millions, blocks, cam_layer, layout, own, tags) in table[
        "networks"
    ].items():
        yield fashionbatch.BackboneSpec(
            name=f"timm-{name}",
            factory=f"{_NETWORKS}:network.{name}",
            summary=f"{name} of timm's {module}, {features} features",
            requires="pip install fashionbatch-timm",
            preprocessing=inputs[own],
            blocks=tuple(blocks),
            cam_layer=cam_layer,
            cam_layout=layout,
            weights={tag: f"{_NETWORKS}:weights.{name}.{tag}" for tag in tags},
            inputs={tag: inputs[number] for tag, number in tags.items() if number != own},
            parameters=millions,
        )


def _preprocessing(
    size: int,
    resize: int,
    crop_mode: fashionbatch.specs.CropMode,
    interpolation: fashionbatch.specs.Interpolation,
    mean: list[float],
    std: list[float],
) -> fashionbatch.Preprocessing:
    return fashionbatch.Preprocessing(
        size=size,
        resize=resize,
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )
