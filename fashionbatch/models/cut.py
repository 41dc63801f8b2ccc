"""Cuts a backbone in two where the trained part begins.

A module is looked into only where frozen and trained weights meet in it, so that dropout, batch
normalization and the like stay the modules they are, and nearly every network can be followed.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fashionbatch.errors import UsageError
from fashionbatch.models.tracing import Untraceable, first_line, in_mode, traced

#: part of an answer's length that a GPU may round away
_ROUNDING = 1e-2


class Crossing(NamedTuple):
    """A tensor that the trained part gets from the frozen one.

    Attributes:
        name: of the step that makes it.
        shape: of one image's, such as ``(1024, 14, 14)``.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A backbone in two parts that share its modules; ``tail(prefix(x))`` is ``backbone(x)``.

    Training and evaluation mode are those of the backbone's modules: set them there.

    Attributes:
        prefix: float32 ``[N, 3, H, W]``, normalized → a tuple of float ``[N, *shape]``.
        tail: that tuple → float ``[N, D]``.
        crossing: what the tuple holds.
    """

    prefix: nn.Module
    tail: nn.Module
    crossing: tuple[Crossing, ...]


def cut(backbone: nn.Module, name: str, side: int) -> Cut:
    """Splits a backbone in front of the first step that uses a trained weight.

    Whatever depends on such a step is in the tail, all else in the prefix: tensors that skip the
    border cross it, too. With everything frozen the tail hands on the bottleneck.

    Args:
        backbone: its parameters' ``requires_grad`` says what is trained.
        name: for messages.
        side: height and width of the input.

    Raises:
        UsageError: nothing is frozen, or the network's code cannot be followed.
    """
    flags = {parameter.requires_grad for parameter in backbone.parameters()}
    if flags == {True}:
        raise UsageError(
            f"--prefix-cache: nothing of backbone {name!r} is frozen, so there is nothing to "
            "compute once: choose an --unfreeze such as blocks:3, or leave --prefix-cache out"
        )
    with in_mode(backbone, training=False), torch.no_grad():
        if True not in flags:
            whole = _Whole(backbone)
            width = whole(_sample(backbone, 1, side))[0].shape[1]
            return Cut(prefix=whole, tail=_First(), crossing=(Crossing("bottleneck", (width,)),))
        try:
            graph = traced(backbone, lambda module, _: len(_flags(module)) < 2)
            made = _split(backbone, graph, side)
            _check_answers(backbone, made, _sample(backbone, 2, side))
        except Exception as error:  # whatever tracing raises on code it was not made for
            raise UsageError(
                f"--prefix-cache: backbone {name!r} cannot be cut where its trained part begins "
                f"({first_line(error)}); leave --prefix-cache out"
            ) from error
    return made


class _Whole(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.backbone(images),)


class _First(nn.Module):
    def forward(self, crossing: tuple[Tensor, ...]) -> Tensor:
        return crossing[0]


def _split(backbone: nn.Module, graph: fx.Graph, side: int) -> Cut:
    modules = dict(backbone.named_modules())
    of_images: set[fx.Node] = set()
    trained: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or of_images.intersection(node.all_input_nodes):
            of_images.add(node)
        if _uses_trained(node, backbone, modules) or trained.intersection(node.all_input_nodes):
            trained.add(node)
    seen = [_Seen(backbone, graph), _Seen(backbone, graph)]
    for count, each in zip((2, 3), seen, strict=True):
        each.run(_sample(backbone, count, side))
    tail, crossing = _tail(graph, trained, of_images, seen)
    front = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in trained and node.op != "output":
            copies[node] = front.node_copy(node, copies.__getitem__)
    front.output(tuple(copies[node] for node in crossing))
    prefix = fx.GraphModule(backbone, front, "Prefix")
    prefix.graph.eliminate_dead_code()
    prefix.recompile()
    return Cut(
        prefix=prefix,
        tail=fx.GraphModule(backbone, tail, "Tail"),
        crossing=tuple(Crossing(n.name, tuple(seen[0].values[n].shape[1:])) for n in crossing),
    )


def _tail(
    graph: fx.Graph, trained: set[fx.Node], of_images: set[fx.Node], seen: list[_Seen]
) -> tuple[fx.Graph, list[fx.Node]]:
    """The steps behind the border, and those before it whose tensors they need."""
    tail = fx.Graph()
    given = tail.placeholder("crossing")
    copies: dict[fx.Node, Any] = {}

    def resolved(node: fx.Node) -> Any:
        if node not in copies:
            if node not in of_images:  # the same for all images: made where it is used
                copies[node] = tail.node_copy(node, resolved)
            else:
                two, three = (each.values[node] for each in seen)
                if isinstance(two, _Kept):
                    _check_rows(node, two, three)
                    crossing.append(node)
                    place = len(crossing) - 1
                    copies[node] = tail.call_function(operator.getitem, (given, place))
                else:
                    copies[node] = _number(tail, images(), node, two, three)
        return copies[node]

    def images() -> Any:
        if not count:
            first = tail.call_function(operator.getitem, (given, 0))
            count.append(tail.call_method("size", (first, 0)))
        return count[0]

    crossing: list[fx.Node] = []
    count: list[fx.Node] = []
    for node in graph.nodes:
        if node in trained and node.op != "output":
            copies[node] = tail.node_copy(node, resolved)
    (result,) = graph.output_node().args
    if not isinstance(result, fx.Node):
        raise Untraceable("it gives more than one tensor")
    tail.output(resolved(result))
    if not crossing:
        raise Untraceable("no tensor leads from the frozen part into the trained one")
    return tail, crossing


class _Kept(NamedTuple):
    """What is remembered of a tensor."""

    shape: tuple[int, ...]
    floating: bool


class _Seen(fx.Interpreter):
    """Runs the steps and remembers what each gives: of a tensor its shape, else the value."""

    def __init__(self, backbone: nn.Module, graph: fx.Graph) -> None:
        super().__init__(backbone, graph=graph)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        is_tensor = isinstance(value, Tensor)
        kept = _Kept(tuple(value.shape), value.is_floating_point()) if is_tensor else value
        self.values[n] = kept
        return value


def _check_rows(node: fx.Node, two: _Kept, three: _Kept) -> None:
    if (2, *two.shape[1:]) != two.shape or (3, *two.shape[1:]) != three.shape:
        raise Untraceable(f"{node.name} crosses the border and has no row for each image")
    if not two.floating:
        raise Untraceable(f"{node.name} crosses the border and holds no floating-point numbers")


def _number(tail: fx.Graph, images: fx.Node, node: fx.Node, two: Any, three: Any) -> Any:
    """A value that is no tensor, as a constant or as a multiple of the number of images."""
    if isinstance(two, tuple) and isinstance(three, tuple) and len(two) == len(three):
        pairs = zip(two, three, strict=True)
        return tuple(_number(tail, images, node, a, b) for a, b in pairs)
    if isinstance(two, int | float | str | torch.dtype | torch.device | None) and two == three:
        return two
    if isinstance(two, int) and two % 2 == 0 and two // 2 * 3 == three:
        return tail.call_function(operator.mul, (images, two // 2))
    raise Untraceable(f"{node.name} crosses the border and is no tensor")


def _check_answers(backbone: nn.Module, made: Cut, images: Tensor) -> None:
    # steps that change a tensor in place may stand in another order now
    whole = backbone(images)
    if (made.tail(made.prefix(images)) - whole).norm() > _ROUNDING * whole.norm():
        raise Untraceable("its parts give other answers than the whole")


def _uses_trained(node: fx.Node, backbone: nn.Module, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return True in _flags(modules[str(node.target)])
    if node.op == "get_attr":
        return bool(getattr(operator.attrgetter(str(node.target))(backbone), "requires_grad", 0))
    return False


def _flags(module: nn.Module) -> set[bool]:
    return {parameter.requires_grad for parameter in module.parameters()}


def _sample(backbone: nn.Module, count: int, side: int) -> Tensor:
    """Noise from a generator of its own: the global one must not notice."""
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return noise.to(device)
