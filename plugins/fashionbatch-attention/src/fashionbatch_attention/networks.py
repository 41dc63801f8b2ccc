"""Networks of other packages with attention in place of their last pooling.

``network.NAME()`` builds the backbone ``NAME`` so, with random weights; ``imagenet.NAME()`` gives
its ImageNet weights together with those that its attention begins with.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fashionbatch import registry
from fashionbatch.errors import PluginError, UnknownNameError
from torch import Tensor, fx, nn
from torch.nn import functional

from fashionbatch_attention.bases import BASES, LAYER
from fashionbatch_attention.pooling import AttentionPooling


class _ByName:
    """``by_name.resnet50()`` calls the function with ``"resnet50"``."""

    def __init__(self, function: Callable[[str], object]) -> None:
        self._function = function

    def __getattr__(self, name: str) -> Callable[[], object]:
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(self._function, name)


def attended(network: nn.Module, channels: int, heads: int = 4) -> nn.Module:
    """A network with attention in place of its average pooling.

    Modules that are run keep their names and stay the same objects; the attention is called
    :data:`fashionbatch_attention.bases.LAYER`. What follows the pooling follows the attention.

    Args:
        network: whose ``forward`` averages a map ``[N, C, h, w]`` over its places, once, by
            ``nn.AdaptiveAvgPool2d(1)``, the function of that name, or ``mean``.
        channels: ``C``.
        heads: of the attention, a divisor of ``C``.

    Raises:
        ValueError: it does not pool so, or more than once.
    """
    graph = _Steps().trace(network)
    places = [node for node in graph.nodes if _pools(node, network) is not None]
    if len(places) != 1 or hasattr(network, LAYER):
        raise ValueError(f"{type(network).__name__} has {len(places)} average poolings, not one")
    [pooling] = places
    network.add_module(LAYER, AttentionPooling(channels, heads))
    with graph.inserting_after(pooling):
        pooled = graph.call_module(LAYER, (pooling.all_input_nodes[0],))
    if not _pools(pooling, network):
        with graph.inserting_after(pooled):
            result = graph.call_method("flatten", (pooled, 1))
    else:
        result = pooled
    pooling.replace_all_uses_with(result)
    graph.erase_node(pooling)
    made = fx.GraphModule(network, graph, type(network).__name__)
    return made.train(network.training)


class _Steps(fx.Tracer):
    """Follows the network's own ``forward``, and looks into none of its modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _pools(node: fx.Node, network: nn.Module) -> bool | None:
    """Whether a step that averages a map keeps its dimensions; ``None`` for any other step."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            return True
    elif node.op == "call_function" and node.target is functional.adaptive_avg_pool2d:
        if _argument(node, 1, "output_size") in (1, (1, 1)):
            return True
    elif (node.op == "call_method" and node.target == "mean") or (
        node.op == "call_function" and node.target is torch.mean
    ):
        dims = _argument(node, 1, "dim")
        if isinstance(dims, tuple | list) and sorted(operator.mod(d, 4) for d in dims) == [2, 3]:
            return bool(_argument(node, 2, "keepdim"))
    return None


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _base(name: str) -> registry.Component:
    try:
        return registry.find("backbone", name)
    except UnknownNameError as error:
        raise PluginError(
            f"backbone attention-{name} is made of {name}, which is not installed: "
            f"{BASES[name].requires}"
        ) from error


def _network(name: str) -> nn.Module:
    network: nn.Module = registry.create(_base(name))
    return attended(network, BASES[name].channels)


def _imagenet(name: str) -> Mapping[str, Tensor]:
    spec: Any = _base(name).spec
    state: Mapping[str, Tensor] = registry.resolve(
        spec.weights["imagenet"], requires=spec.requires
    )()
    fresh = AttentionPooling(BASES[name].channels).state_dict()
    return {**state, **{f"{LAYER}.{key}": value for key, value in fresh.items()}}


network = _ByName(_network)
imagenet = _ByName(_imagenet)
