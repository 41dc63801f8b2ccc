"""Follows tensors through a network's code with :mod:`torch.fx`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import fx, nn


class Untraceable(Exception):
    """Why a network cannot be cut, in a few words."""


class _Tracer(fx.Tracer):
    def __init__(self, leaf: Callable[[nn.Module, str], bool]) -> None:
        super().__init__()
        self._leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._leaf(m, module_qualified_name)


def traced(backbone: nn.Module, leaf: Callable[[nn.Module, str], bool]) -> fx.Graph:
    """The steps of the network's code, modules for which ``leaf`` holds as one step each."""
    graphs = []
    for training in (True, False):
        with in_mode(backbone, training=training):
            graphs.append(_Tracer(leaf).trace(backbone))
    if str(graphs[0]) != str(graphs[1]):
        raise Untraceable("its code takes other steps in training than in evaluation")
    if sum(node.op == "placeholder" for node in graphs[1].nodes) != 1:
        raise Untraceable("it takes more than images")
    graph = fx.GraphModule(backbone, graphs[1]).graph
    graph.eliminate_dead_code()
    return graph


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode for all of a module; as it was at the end."""
    before = {each: each.training for each in module.modules()}
    for each in before:
        each.training = training
    try:
        yield
    finally:
        for each, flag in before.items():
            each.training = flag


def first_line(error: Exception) -> str:
    """Of its message, for one of ours."""
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
