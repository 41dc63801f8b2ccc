"""timm's networks without their classifier, and their published weights.

``network.NAME()`` builds one with random weights; ``weights.NAME.TAG()`` gives a weight set of one.
"""

from __future__ import annotations

import functools
import inspect
import logging
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pickle import UnpicklingError
from urllib.error import HTTPError, URLError

import huggingface_hub.constants
import timm
import timm.models
from fashionbatch.errors import ModelError, PluginError
from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn

#: files of timm's repositories: one or the other
_SAFE, _TORCH = "model.safetensors", "pytorch_model.bin"
#: seconds until nobody is taken to be there
_PATIENCE = 20
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
    hub = config.hf_hub_id
    origin = hf_hub_url(hub, _SAFE) if hub else str(config.url)
    advice = (
        f"fetch {origin} elsewhere and pass --weights {origin.rpartition('/')[2]}, or start from "
        "random weights with --weights none"
    )
    try:
        # timm's own formats are for files of others, not for those that its repositories hold
        found = {"file": _from_hub(hub, origin), "custom_load": False} if hub else {}
        timm.models.set_pretrained_check_hash(True)
        with _missing() as missing:
            network = timm.create_model(
                f"{name}.{tag}", pretrained=True, num_classes=0, pretrained_cfg_overlay=found
            )
    except (SafetensorError, UnpicklingError, RuntimeError, KeyError) as error:
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


def _from_hub(repository: str, origin: str) -> str:
    """The path of a repository's file of weights: what is in the cache is not asked for again.

    Raises:
        OSError: it is not there, and cannot be downloaded.
    """
    for name in (_SAFE, _TORCH):
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return cached
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        try:  # the library itself tries for over a minute where there is no network
            request = urllib.request.Request(origin, method="HEAD")
            urllib.request.urlopen(request, timeout=_PATIENCE).close()
        except HTTPError:
            pass  # somebody answers
        except URLError as error:
            raise OSError(str(error.reason)) from error
    try:
        return hf_hub_download(repository, _SAFE)
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return hf_hub_download(repository, _TORCH)


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
    return lines[0][:120].strip() if lines else type(error).__name__


network = _ByName(_network)
weights = _ByTag(_weights)
