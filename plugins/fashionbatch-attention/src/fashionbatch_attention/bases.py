"""The backbones whose pooling is replaced, and what is known of them without importing them.

A backbone that is made of another has its input, blocks and head. Hooks are called before it is
known who is installed, so they are written down here; a test compares them with the installed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fashionbatch import HeadSpec, Preprocessing

#: name of the attention within a network
LAYER = "attention"

_RESNET = ("layer1.*", "layer2.*", "layer3.*", "layer4.*")
_LITE = ("_blocks.*", "_conv_head")
_PAPER_HEAD = HeadSpec(hidden=(1024,))


@dataclass(frozen=True, kw_only=True)
class Base:
    """A backbone that averages its last map.

    Attributes:
        channels: of that map.
        preprocessing: of its weights.
        blocks: as of its spec, and likewise ``cam_layer``, ``cam_layout``, ``head`` and
            ``parameters``.
        weights: whether it has a set ``imagenet``.
        requires: what to install, where its package is not fashionbatch itself.
    """

    channels: int
    preprocessing: Preprocessing
    blocks: tuple[str, ...]
    cam_layer: str
    parameters: float
    cam_layout: Literal["NCHW", "NHWC"] = "NCHW"
    head: HeadSpec = field(default_factory=HeadSpec)
    weights: bool = True
    requires: str = ""


def _resnet(channels: int, resize: int, parameters: float) -> Base:
    return Base(
        channels=channels,
        preprocessing=Preprocessing(resize=resize),
        blocks=_RESNET,
        cam_layer="layer4",
        parameters=parameters,
        head=_PAPER_HEAD,
    )


def _features(
    channels: int,
    preprocessing: Preprocessing,
    parameters: float,
    blocks: str = "features.*",
    cam_layout: Literal["NCHW", "NHWC"] = "NCHW",
) -> Base:
    return Base(
        channels=channels,
        preprocessing=preprocessing,
        blocks=(blocks,),
        cam_layer="features",
        parameters=parameters,
        cam_layout=cam_layout,
    )


def _lite(size: int, resize: int, parameters: float) -> Base:
    mean, std = 127 / 255, 128 / 255
    return Base(
        channels=1280,
        preprocessing=Preprocessing(
            size=size,
            resize=resize,
            interpolation="bicubic",
            mean=(mean, mean, mean),
            std=(std, std, std),
        ),
        blocks=_LITE,
        cam_layer="_last_map",
        parameters=parameters,
        requires="pip install fashionbatch-efficientnet-lite",
    )


#: from a backbone's name to what is known of it
BASES: Mapping[str, Base] = {
    "small-resnet": Base(
        channels=128,
        preprocessing=Preprocessing(size=28, resize=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        blocks=("blocks.*",),
        cam_layer="blocks",
        parameters=0.3,
        weights=False,
    ),
    "efficientnet-lite0": _lite(224, 256, 4.7),
    "efficientnet-lite1": _lite(240, 272, 5.4),
    "efficientnet-lite2": _lite(260, 292, 6.1),
    "resnet18": _resnet(512, 256, 11.7),
    "resnet34": _resnet(512, 256, 21.8),
    "resnet50": _resnet(2048, 232, 25.6),
    "resnet101": _resnet(2048, 232, 44.5),
    "mobilenet_v3_small": _features(576, Preprocessing(resize=256), 2.5),
    "mobilenet_v3_large": _features(960, Preprocessing(resize=232), 5.5),
    "efficientnet_b0": _features(1280, Preprocessing(resize=256, interpolation="bicubic"), 5.3),
    "efficientnet_v2_s": _features(1280, Preprocessing(size=384, resize=384), 21.5),
    "densenet121": _features(1024, Preprocessing(resize=256), 8.0),
    "convnext_tiny": _features(768, Preprocessing(resize=236), 28.6, blocks="features.*.*"),
    "swin_t": _features(
        768,
        Preprocessing(resize=232, interpolation="bicubic"),
        28.3,
        blocks="features.*.*",
        cam_layout="NHWC",
    ),
    "regnet_y_800mf": Base(
        channels=784,
        preprocessing=Preprocessing(resize=232),
        blocks=("stem", "trunk_output.*.*"),
        cam_layer="trunk_output",
        parameters=6.4,
    ),
}
