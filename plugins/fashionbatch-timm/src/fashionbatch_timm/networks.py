"""timm's networks without their classifier, and their published weights.

``network.NAME()`` builds one with random weights; ``weights.NAME.TAG()`` gives a weight set of one.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import timm
import timm.models
from fashionbatch.errors import ModelError, PluginError
from safetensors import SafetensorError
from torch import Tensor, nn

#: where timm tells, and only there, which weights a file had nothing for
_BUILDER = logging.getLogger("timm.models._builder")


class _ByName:
    """``by_name.resnet50()`` calls the function with ``"resnet50"``."""

    def __init__(self, function: Callable[[str], object]) -> None:
        self._function = function

    def __getattr__(self, name: str) -> Callable[[], object]:
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(self._function, name)


class _ByTag:
    """``by_tag.resnet50.a1_in1k()`` calls the function with ``"resnet50", "a1_in1k"``."""

    def __init__(self, function: Callable[[str, str], object]) -> None:
        self._function = function

    def __getattr__(self, name: str) -> _ByName:
        if name.startswith("_"):
            raise AttributeError(name)
        return _ByName(functools.partial(self._function, name))


def _network(name: str) -> nn.Module:
    """Up to its pooled features: float32 ``[N, 3, H, W]`` (normalized) → float32 ``[N, D]``.

    Raises:
        PluginError: the installed timm has no such network.
    """
    if not timm.is_model(name):
        raise PluginError(
            f"timm {timm.__version__} has no network {name!r}: install another timm, such as "
            "1.0.31, or choose another network"
        )
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    return _of_images(network)


def _of_images(network: nn.Module) -> nn.Module:
    """The same, whose ``forward`` takes images and nothing else.

    Some take masks as well. Whoever follows a network's code to cut it in two (``--prefix-cache``)
    must not take those for inputs.
    """
    kind = type(network)
    if len(inspect.signature(kind.forward).parameters) > 2:

        def forward(self: nn.Module, images: Tensor) -> Tensor:
            features: Tensor = kind.forward(self, images)
            return features

        network.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return network


def _weights(name: str, tag: str) -> Mapping[str, Tensor]:
    """From the cache of Hugging Face or torch, or from the network, into the cache.

    timm reads safetensors, or torch's files without running what is in them (``weights_only``), and
    fits the positions of transformers to the network's.

    Returns:
        of each of the network's tensors; none of the classifier's.

    Raises:
        ModelError: the file cannot be fetched, is damaged, or does not fill the network.
        PluginError: the installed timm has no such network or tag.
    """
    try:
        config = timm.get_pretrained_cfg(f"{name}.{tag}", allow_unregistered=False)
    except RuntimeError as error:
        raise PluginError(
            f"timm {timm.__version__} has no weights {tag!r} of {name!r}: install another timm, "
            "such as 1.0.31, or choose other weights"
        ) from error
    assert config is not None
    if config.hf_hub_id:
        file = "model.safetensors"
        origin = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{file}"
    else:
        origin = str(config.url)
        file = origin.rpartition("/")[2]
    advice = (
        f"fetch {origin} elsewhere and pass --weights {file}, or start from random weights with "
        "--weights none"
    )
    timm.models.set_pretrained_check_hash(True)
    try:
        with _missing() as missing:
            network = timm.create_model(f"{name}.{tag}", pretrained=True, num_classes=0)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"the file of the weights {tag} of timm-{name} is damaged, or of another network "
            f"({_line(error)}): remove it from the cache and try again, or {advice}"
        ) from error
    except Exception as error:  # whatever the libraries raise without a network
        raise ModelError(
            f"the weights {tag} of timm-{name} are not in the cache and cannot be downloaded "
            f"({_line(error)}): {advice}"
        ) from error
    if missing:
        raise ModelError(
            f"the file of the weights {tag} of timm-{name} does not fill the network "
            f"({missing[0]}): remove it from the cache and try again, or {advice}"
        )
    state: Mapping[str, Tensor] = network.state_dict()
    return state


@contextmanager
def _missing() -> Iterator[list[str]]:
    """What timm says of weights that a file has nothing for."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Missing keys"):
                said.append(record.getMessage().split(") discovered")[0][:120])

    handler, level = Handler(), _BUILDER.level
    _BUILDER.addHandler(handler)
    _BUILDER.setLevel(logging.INFO)
    try:
        yield said
    finally:
        _BUILDER.removeHandler(handler)
        _BUILDER.setLevel(level)


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


network = _ByName(_network)
weights = _ByTag(_weights)
