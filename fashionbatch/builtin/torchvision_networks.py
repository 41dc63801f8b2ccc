"""torchvision's classification networks without their classifier.

``network.NAME()`` builds one with random weights; ``imagenet.NAME()`` gives the weights of one.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from fashionbatch.errors import ModelError


class _ByName:
    """``by_name.resnet50()`` calls the function with ``"resnet50"``."""

    def __init__(self, function: Callable[[str], object]) -> None:
        self._function = function

    def __getattr__(self, name: str) -> Callable[[], object]:
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(self._function, name)


def _network(name: str) -> nn.Module:
    options: dict[str, Any] = {}
    if name == "vit_h_14":
        # its weights are of 518 pixels, and have as many positions; torchvision's default is 224
        options = {"image_size": 518}
    if name in ("googlenet", "inception_v3"):
        # their ImageNet weights expect Google's normalization, which transform_input makes of
        # everyone's; torchvision's own initialization of these two takes most of a minute
        options = {"aux_logits": False, "init_weights": False, "transform_input": True}
    net: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    _take_off_classifier(name, net)
    return net


def _take_off_classifier(name: str, net: nn.Module) -> None:
    if name.startswith(("vgg", "alexnet")):
        # the paper's VGG-16: spatial features, flattened, no pooling to 7 x 7
        net.avgpool, net.classifier = nn.Identity(), nn.Identity()
    elif name.startswith("squeezenet"):
        net.classifier = nn.AdaptiveAvgPool2d(1)
    else:
        attribute = next(a for a in ("fc", "classifier", "head", "heads") if hasattr(net, a))
        classifier = getattr(net, attribute)
        if isinstance(classifier, nn.Linear):
            setattr(net, attribute, nn.Identity())
        else:  # what stands before the last dense layer (normalization, pooling) stays
            last = [n for n, m in classifier.named_children() if isinstance(m, nn.Linear)][-1]
            setattr(classifier, last, nn.Identity())


def _imagenet(name: str) -> Mapping[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub says there that it downloads
            state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        raise ModelError(
            f"the ImageNet weights of {name} cannot be downloaded "
            f"({getattr(error, 'reason', None) or error}): fetch {weights.url} elsewhere and pass "
            f"--weights {file.name} (or put it into {file.parent}), or start from random weights "
            "with --weights none"
        ) from error
    except RuntimeError as error:
        raise ModelError(f"{file} is damaged ({error}): remove it and try again") from error
    return state


network = _ByName(_network)
imagenet = _ByName(_imagenet)
