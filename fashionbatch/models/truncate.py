"""Cuts off what lies behind a layer of a backbone."""

from __future__ import annotations

from torch import Tensor, fx, nn

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.models.tracing import Untraceable, first_line, traced


def truncate(backbone: nn.Module, name: str, layer: str, pool: str) -> nn.Module:
    """A backbone that ends with a layer; what lies behind it is not in the module any more.

    Modules that stay have the names they had, and are the same objects.

    Args:
        backbone: as the spec's factory made it.
        name: for messages.
        layer: name of a module.
        pool: ``avg`` or ``flatten``; see :class:`Pooling`.

    Raises:
        UnknownNameError: the backbone has no such module.
        UsageError: it is not a step of the network's code, or that code cannot be followed.
    """
    modules = dict(backbone.named_modules())
    if not layer or layer not in modules:
        raise UnknownNameError(f"layer of {name!r}", layer, filter(None, modules))
    try:
        graph = traced(backbone, lambda _, path: not layer.startswith(path + "."))
        steps = [n for n in graph.nodes if n.op == "call_module" and n.target == layer]
        if not steps:
            raise Untraceable("the layer is never run as a whole")
        last = steps[-1]
        ended = fx.GraphModule(backbone, graph)
        pooling = "pooling"
        while pooling in modules:
            pooling += "_"
        ended.add_submodule(pooling, Pooling(pool))
        output = ended.graph.output_node()
        with ended.graph.inserting_after(last):
            output.args = (ended.graph.call_module(pooling, (last,)),)
        for node in reversed(list(ended.graph.nodes)):
            if node is last:
                break
            if not node.users and node.op != "output":
                ended.graph.erase_node(node)  # an assertion would keep what it looks at
        ended.graph.eliminate_dead_code()
        # made anew with what is still used, and no more
        kept = fx.GraphModule(ended, ended.graph, type(backbone).__name__)
    except Exception as error:  # whatever tracing raises on code it was not made for
        raise UsageError(
            f"--bottleneck {layer}: backbone {name!r} cannot be cut off there "
            f"({first_line(error)}); choose another layer, or leave --bottleneck out"
        ) from error
    return kept.train(backbone.training)


class Pooling(nn.Module):
    """A layer's output → a bottleneck ``[N, D]``.

    Args:
        how: ``avg`` is the mean over the positions of maps ``[N, C, h, w]`` (of ``[N, h, w, C]``,
            as Swin has them, too) or of tokens ``[N, S, C]``; ``flatten`` keeps them all.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, values: Tensor) -> Tensor:
        """What is no such maps or tokens is left as it is."""
        if self.how == "flatten":
            return values.flatten(1)
        if values.ndim == 3:
            return values.mean(dim=1)
        if values.ndim == 4:
            # inputs are square, and so is every map of them
            _, first, second, third = values.shape
            return values.mean(dim=(1, 2) if first == second != third else (2, 3))
        return values

    def extra_repr(self) -> str:
        """In what is printed of the module."""
        return self.how
