"""What is known of torchvision's classification networks without importing torchvision.

Sizes, resizes and interpolations are those of each network's best ImageNet weights
(``torchvision.models.get_model_weights(name).DEFAULT``); a test compares the table with the
installed torchvision. Parameters are in millions, without the classifier.
"""

from __future__ import annotations

from typing import NamedTuple

from fashionbatch.specs import HeadSpec, Interpolation

#: the paper's head for ResNet-50 (``fc-1``), and its head for VGG-16 on spatial features
PAPER_RESNET = HeadSpec(hidden=(1024,))
PAPER_VGG = HeadSpec(hidden=(256,), dropout=0.5)
LINEAR = HeadSpec()


class Network(NamedTuple):
    """One network and the input of its weights."""

    name: str
    size: int
    resize: int
    interpolation: Interpolation
    parameters: float


class Family(NamedTuple):
    """Networks of one structure."""

    blocks: tuple[str, ...]
    cam_layer: str
    head: HeadSpec
    networks: tuple[Network, ...]


FAMILIES: tuple[Family, ...] = (
    Family(
        blocks=("layer1.*", "layer2.*", "layer3.*", "layer4.*"),
        cam_layer="layer4",
        head=PAPER_RESNET,
        networks=(
            Network("resnet101", 224, 232, "bilinear", 42.5),
            Network("resnet152", 224, 232, "bilinear", 58.1),
            Network("resnet18", 224, 256, "bilinear", 11.2),
            Network("resnet34", 224, 256, "bilinear", 21.3),
            Network("resnet50", 224, 232, "bilinear", 23.5),
            Network("resnext101_32x8d", 224, 232, "bilinear", 86.7),
            Network("resnext101_64x4d", 224, 232, "bilinear", 81.4),
            Network("resnext50_32x4d", 224, 232, "bilinear", 23.0),
            Network("wide_resnet101_2", 224, 232, "bilinear", 124.8),
            Network("wide_resnet50_2", 224, 232, "bilinear", 66.8),
        ),
    ),
    Family(
        blocks=("features.*",),
        cam_layer="features",
        head=PAPER_VGG,
        networks=(
            Network("vgg11", 224, 256, "bilinear", 9.2),
            Network("vgg11_bn", 224, 256, "bilinear", 9.2),
            Network("vgg13", 224, 256, "bilinear", 9.4),
            Network("vgg13_bn", 224, 256, "bilinear", 9.4),
            Network("vgg16", 224, 256, "bilinear", 14.7),
            Network("vgg16_bn", 224, 256, "bilinear", 14.7),
            Network("vgg19", 224, 256, "bilinear", 20.0),
            Network("vgg19_bn", 224, 256, "bilinear", 20.0),
        ),
    ),
    Family(
        blocks=("features.*",),
        cam_layer="features",
        head=PAPER_VGG,
        networks=(
            Network("alexnet", 224, 256, "bilinear", 2.5),
        ),
    ),
    Family(
        blocks=("features.*",),
        cam_layer="features",
        head=LINEAR,
        networks=(
            Network("densenet121", 224, 256, "bilinear", 7.0),
            Network("densenet161", 224, 256, "bilinear", 26.5),
            Network("densenet169", 224, 256, "bilinear", 12.5),
            Network("densenet201", 224, 256, "bilinear", 18.1),
        ),
    ),
    Family(
        blocks=("features.*",),
        cam_layer="features",
        head=LINEAR,
        networks=(
            Network("efficientnet_b0", 224, 256, "bicubic", 4.0),
            Network("efficientnet_b1", 240, 255, "bilinear", 6.5),
            Network("efficientnet_b2", 288, 288, "bicubic", 7.7),
            Network("efficientnet_b3", 300, 320, "bicubic", 10.7),
            Network("efficientnet_b4", 380, 384, "bicubic", 17.5),
            Network("efficientnet_b5", 456, 456, "bicubic", 28.3),
            Network("efficientnet_b6", 528, 528, "bicubic", 40.7),
            Network("efficientnet_b7", 600, 600, "bicubic", 63.8),
            Network("efficientnet_v2_l", 480, 480, "bicubic", 117.2),
            Network("efficientnet_v2_m", 480, 480, "bilinear", 52.9),
            Network("efficientnet_v2_s", 384, 384, "bilinear", 20.2),
            Network("mobilenet_v2", 224, 232, "bilinear", 2.2),
            Network("mobilenet_v3_large", 224, 232, "bilinear", 3.0),
            Network("mobilenet_v3_small", 224, 256, "bilinear", 0.9),
            Network("squeezenet1_0", 224, 256, "bilinear", 0.7),
            Network("squeezenet1_1", 224, 256, "bilinear", 0.7),
        ),
    ),
    Family(
        blocks=("features.*.*",),
        cam_layer="features",
        head=LINEAR,
        networks=(
            Network("convnext_base", 224, 232, "bilinear", 87.6),
            Network("convnext_large", 224, 232, "bilinear", 196.2),
            Network("convnext_small", 224, 230, "bilinear", 49.5),
            Network("convnext_tiny", 224, 236, "bilinear", 27.8),
        ),
    ),
    Family(
        blocks=("layers.*",),
        cam_layer="layers",
        head=LINEAR,
        networks=(
            Network("mnasnet0_5", 224, 256, "bilinear", 0.9),
            Network("mnasnet0_75", 224, 232, "bilinear", 1.9),
            Network("mnasnet1_0", 224, 256, "bilinear", 3.1),
            Network("mnasnet1_3", 224, 232, "bilinear", 5.0),
        ),
    ),
    Family(
        blocks=("stem", "trunk_output.*.*"),
        cam_layer="trunk_output",
        head=LINEAR,
        networks=(
