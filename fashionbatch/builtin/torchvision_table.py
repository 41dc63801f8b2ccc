"""What is known of torchvision's classification networks without importing torchvision.

Sizes, resizes and interpolations are those of each network's best ImageNet weights
(``torchvision.models.get_model_weights(name).DEFAULT``); a test compares the table with the
installed torchvision. Parameters are in millions, ImageNet's classifier included.
"""

from __future__ import annotations

from typing import NamedTuple

from fashionbatch.specs import IMAGENET_MEAN, IMAGENET_STD, HeadSpec, Interpolation, MapLayout

#: the paper's head for ResNet-50 (``fc-1``), and its head for VGG-16 on spatial features
PAPER_RESNET = HeadSpec(hidden=(1024,))
PAPER_VGG = HeadSpec(hidden=(256,), dropout=0.5)
LINEAR = HeadSpec()
#: the paper's figure 9, VGG-16: #1 max-pool, #3 and #5 convolution (behind their ReLU, as Keras
#: counts it in), #5 max-pool
PAPER_LAYERS = ("features.4", "features.6", "features.11", "features.30")
#: mean and std of networks trained on -1..1
HALF = (0.5, 0.5, 0.5)


class Network(NamedTuple):
    """One network and the input of its weights."""

    name: str
    size: int
    resize: int
    interpolation: Interpolation
    parameters: float
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    shown_layers: tuple[str, ...] = ()


class Family(NamedTuple):
    """Networks of one structure."""

    blocks: tuple[str, ...]
    cam_layer: str
    head: HeadSpec
    networks: tuple[Network, ...]
    cam_layout: MapLayout = "NCHW"


FAMILIES: tuple[Family, ...] = (
    Family(
        blocks=("layer1.*", "layer2.*", "layer3.*", "layer4.*"),
        cam_layer="layer4",
        head=PAPER_RESNET,
        networks=(
            Network("resnet101", 224, 232, "bilinear", 44.5),
            Network("resnet152", 224, 232, "bilinear", 60.2),
            Network("resnet18", 224, 256, "bilinear", 11.7),
            Network("resnet34", 224, 256, "bilinear", 21.8),
            Network("resnet50", 224, 232, "bilinear", 25.6),
            Network("resnext101_32x8d", 224, 232, "bilinear", 88.8),
            Network("resnext101_64x4d", 224, 232, "bilinear", 83.5),
            Network("resnext50_32x4d", 224, 232, "bilinear", 25.0),
            Network("wide_resnet101_2", 224, 232, "bilinear", 126.9),
            Network("wide_resnet50_2", 224, 232, "bilinear", 68.9),
        ),
    ),
    Family(
        blocks=("features.*",),
        cam_layer="features",
        head=PAPER_VGG,
        networks=(
            Network("alexnet", 224, 256, "bilinear", 61.1),
            Network("vgg11", 224, 256, "bilinear", 132.9),
            Network("vgg11_bn", 224, 256, "bilinear", 132.9),
            Network("vgg13", 224, 256, "bilinear", 133.0),
            Network("vgg13_bn", 224, 256, "bilinear", 133.1),
            Network("vgg16", 224, 256, "bilinear", 138.4, shown_layers=PAPER_LAYERS),
            Network("vgg16_bn", 224, 256, "bilinear", 138.4),
            Network("vgg19", 224, 256, "bilinear", 143.7),
            Network("vgg19_bn", 224, 256, "bilinear", 143.7),
        ),
    ),
    Family(
        blocks=("features.*",),
        cam_layer="features",
        head=LINEAR,
        networks=(
            Network("densenet121", 224, 256, "bilinear", 8.0),
            Network("densenet161", 224, 256, "bilinear", 28.7),
            Network("densenet169", 224, 256, "bilinear", 14.1),
            Network("densenet201", 224, 256, "bilinear", 20.0),
            Network("efficientnet_b0", 224, 256, "bicubic", 5.3),
            Network("efficientnet_b1", 240, 255, "bilinear", 7.8),
            Network("efficientnet_b2", 288, 288, "bicubic", 9.1),
            Network("efficientnet_b3", 300, 320, "bicubic", 12.2),
            Network("efficientnet_b4", 380, 384, "bicubic", 19.3),
            Network("efficientnet_b5", 456, 456, "bicubic", 30.4),
            Network("efficientnet_b6", 528, 528, "bicubic", 43.0),
            Network("efficientnet_b7", 600, 600, "bicubic", 66.3),
            Network("efficientnet_v2_l", 480, 480, "bicubic", 118.5, HALF, HALF),
            Network("efficientnet_v2_m", 480, 480, "bilinear", 54.1),
            Network("efficientnet_v2_s", 384, 384, "bilinear", 21.5),
            Network("mobilenet_v2", 224, 232, "bilinear", 3.5),
            Network("mobilenet_v3_large", 224, 232, "bilinear", 5.5),
            Network("mobilenet_v3_small", 224, 256, "bilinear", 2.5),
            Network("squeezenet1_0", 224, 256, "bilinear", 1.2),
            Network("squeezenet1_1", 224, 256, "bilinear", 1.2),
        ),
    ),
    Family(
        blocks=("features.*.*",),
        cam_layer="features",
        head=LINEAR,
        networks=(
            Network("convnext_base", 224, 232, "bilinear", 88.6),
            Network("convnext_large", 224, 232, "bilinear", 197.8),
            Network("convnext_small", 224, 230, "bilinear", 50.2),
            Network("convnext_tiny", 224, 236, "bilinear", 28.6),
        ),
    ),
    Family(
        blocks=("layers.*",),
        cam_layer="layers",
        head=LINEAR,
        networks=(
            Network("mnasnet0_5", 224, 256, "bilinear", 2.2),
            Network("mnasnet0_75", 224, 232, "bilinear", 3.2),
            Network("mnasnet1_0", 224, 256, "bilinear", 4.4),
            Network("mnasnet1_3", 224, 232, "bilinear", 6.3),
        ),
    ),
    Family(
        blocks=("stem", "trunk_output.*.*"),
        cam_layer="trunk_output",
        head=LINEAR,
        networks=(
            Network("regnet_x_16gf", 224, 232, "bilinear", 54.3),
            Network("regnet_x_1_6gf", 224, 232, "bilinear", 9.2),
            Network("regnet_x_32gf", 224, 232, "bilinear", 107.8),
            Network("regnet_x_3_2gf", 224, 232, "bilinear", 15.3),
            Network("regnet_x_400mf", 224, 232, "bilinear", 5.5),
            Network("regnet_x_800mf", 224, 232, "bilinear", 7.3),
            Network("regnet_x_8gf", 224, 232, "bilinear", 39.6),
            Network("regnet_y_128gf", 384, 384, "bicubic", 644.8),
            Network("regnet_y_16gf", 224, 232, "bilinear", 83.6),
            Network("regnet_y_1_6gf", 224, 232, "bilinear", 11.2),
            Network("regnet_y_32gf", 224, 232, "bilinear", 145.0),
            Network("regnet_y_3_2gf", 224, 232, "bilinear", 19.4),
            Network("regnet_y_400mf", 224, 232, "bilinear", 4.3),
            Network("regnet_y_800mf", 224, 232, "bilinear", 6.4),
            Network("regnet_y_8gf", 224, 232, "bilinear", 39.4),
        ),
    ),
    Family(
        blocks=("conv1", "stage?.*", "conv5"),
        cam_layer="conv5",
        head=LINEAR,
        networks=(
            Network("shufflenet_v2_x0_5", 224, 256, "bilinear", 1.4),
            Network("shufflenet_v2_x1_0", 224, 256, "bilinear", 2.3),
            Network("shufflenet_v2_x1_5", 224, 232, "bilinear", 3.5),
            Network("shufflenet_v2_x2_0", 224, 232, "bilinear", 7.4),
        ),
    ),
    Family(
        blocks=("conv?", "inception??"),
        cam_layer="inception5b",
        head=LINEAR,
        networks=(Network("googlenet", 224, 256, "bilinear", 6.6),),
    ),
    Family(
        blocks=("Conv2d_*", "Mixed_*"),
        cam_layer="Mixed_7c",
        head=LINEAR,
        networks=(Network("inception_v3", 299, 342, "bilinear", 27.2),),
    ),
    Family(
        blocks=("stem", "blocks.*"),
        cam_layer="blocks.3",
        head=LINEAR,
        networks=(Network("maxvit_t", 224, 224, "bicubic", 30.9),),
    ),
    Family(
        blocks=("features.*.*",),
        cam_layer="features",
        head=LINEAR,
        networks=(
            Network("swin_b", 224, 238, "bicubic", 87.8),
            Network("swin_s", 224, 246, "bicubic", 49.6),
            Network("swin_t", 224, 232, "bicubic", 28.3),
            Network("swin_v2_b", 256, 272, "bicubic", 87.9),
            Network("swin_v2_s", 256, 260, "bicubic", 49.7),
            Network("swin_v2_t", 256, 260, "bicubic", 28.4),
        ),
        cam_layout="NHWC",
    ),
    # behind a ViT's last attention the answer depends on the class token alone: no gradient
    # reaches the map there, so it is taken in front of it
    Family(
        blocks=("encoder.layers.*",),
        cam_layer="encoder.layers.encoder_layer_11.ln_1",
        head=LINEAR,
        networks=(
            Network("vit_b_16", 224, 256, "bilinear", 86.6),
            Network("vit_b_32", 224, 256, "bilinear", 88.2),
        ),
        cam_layout="tokens",
    ),
    Family(
        blocks=("encoder.layers.*",),
        cam_layer="encoder.layers.encoder_layer_23.ln_1",
        head=LINEAR,
        networks=(
            Network("vit_l_16", 224, 242, "bilinear", 304.3),
            Network("vit_l_32", 224, 256, "bilinear", 306.5),
        ),
        cam_layout="tokens",
    ),
    Family(
        blocks=("encoder.layers.*",),
        cam_layer="encoder.layers.encoder_layer_31.ln_1",
        head=LINEAR,
        networks=(Network("vit_h_14", 518, 518, "bicubic", 633.5),),
        cam_layout="tokens",
    ),
)
