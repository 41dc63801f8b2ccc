"""Where the blocks of a timm network are, and its last map.

All is found by building the network on torch's ``meta`` device, which has shapes and no numbers,
and by sending a batch through it: no weights, and next to no memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import timm.models
import torch
from fashionbatch.specs import MapLayout
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: modules that hand on what they get (in evaluation), and are no name for a layer
_IDLE = ("Identity", "Dropout", "Dropout2d", "DropPath", "Flatten")
#: the most tokens in front of those of the map: class, distillation and register tokens
_PREFIX = 16
#: the smallest side of a map, in positions, and the smallest stride of a last one, in pixels
_SIDE, _STRIDE = 2, 4
#: children that hold a row of blocks, whatever the module around them is
_ROWS = ("blocks", "layers", "stages")
#: what pools tokens by attention, and blocks in which only class tokens change
_POOLING = ("attn_pool", "head", "global_pool")
_CLASS_ATTENTION = ("cls_attn_blocks", "blocks_token_only", "post_network")
#: the normalization in front of a block's attention
_IN_FRONT = re.compile(r"\.(norm1|norm_out|in_norm|attns\.\d+\.norm)$")
#: the numbered module that a parameter lies in, or a numbered one within that
_NUMBERED = re.compile(r"(?:\w+\.)*?\d+(?:\.(?:blocks\.|layers\.)?\d+)?(?=\.)|\w+")


class Unfit(Exception):
    """Why a network cannot be a backbone, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What is read off a network.

    Attributes:
        features: D of its output ``[N, D]``.
        blocks: names of modules, from input to output.
        patterns: of the blocks, as :class:`fashionbatch.BackboneSpec` takes them.
        cam_layer: the module with the last map.
        cam_layout: how that lies.
        parameters: how many, without a classifier.
    """

    features: int
    blocks: tuple[str, ...]
    patterns: tuple[str, ...]
    cam_layer: str
    cam_layout: MapLayout
    parameters: int


@dataclass
class _Seen:
    """What a forward pass showed.

    Attributes:
        begun: each module's place in the order of their first calls.
        ended: name and shape of each module's output, in the order in which they ended.
    """

    begun: dict[str, int] = field(default_factory=dict)
    ended: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)


def read(name: str, side: int) -> Structure:
    """Builds a network of that name without numbers, and looks at it.

    Args:
        name: of timm's, without tag.
        side: height and width of the input, in pixels.

    Raises:
        Unfit: it cannot be a backbone.
    """
    try:
        with torch.device("meta"), _Unfilled():
            network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    except Exception as error:  # whatever a network's code does without numbers
        raise Unfit(f"cannot be built without numbers: {_line(error)}") from error
    seen = _Seen()
    try:
        with torch.no_grad(), _watched(network.eval(), seen):
            output = network(torch.zeros(2, 3, side, side, device="meta"))
    except Exception as error:  # likewise
        raise Unfit(f"takes no {side} x {side} images: {_line(error)}") from error
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2:
        shape = list(getattr(output, "shape", ())) or type(output).__name__
        raise Unfit(f"gives {shape}, not [N, D]")
    blocks = _blocks(network, seen)
    cam_layer, cam_layout = _last_map(network, seen, side)
    return Structure(
        features=output.shape[1],
        blocks=tuple(blocks),
        patterns=tuple(patterns(blocks, list(_with_parameters(network)))),
        cam_layer=cam_layer,
        cam_layout=cam_layout,
        parameters=sum(p.numel() for p in network.parameters()),
    )


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills weights: there are none, and the motions take longest of all."""

    _FILLING = frozenset(
        ("add_", "clamp_", "copy_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_")
    )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in self._FILLING:
            return [*args, *(kwargs or {}).values()][0]
        return func(*args, **(kwargs or {}))


class _watched:
    """Notes each module's call in a :class:`_Seen`, as long as the context lasts."""

    def __init__(self, network: nn.Module, seen: _Seen) -> None:
        self._network, self._seen = network, seen
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        for name, module in self._network.named_modules():
            if name:
                self._hooks.append(module.register_forward_pre_hook(self._before(name)))
                self._hooks.append(module.register_forward_hook(self._behind(name)))

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, name: str) -> Callable[[nn.Module, object], None]:
        def hook(module: nn.Module, inputs: object) -> None:
            self._seen.begun.setdefault(name, len(self._seen.begun))

        return hook

    def _behind(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and type(module).__name__ not in _IDLE:
                self._seen.ended.append((name, tuple(output.shape)))

        return hook


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def _with_parameters(network: nn.Module) -> Iterator[str]:
    for name, module in network.named_modules():
        if name and any(True for _ in module.parameters()):
            yield name


def _blocks(network: nn.Module, seen: _Seen) -> list[str]:
    """Modules that begin a step of the network's depth, in the order in which they are registered.

    timm's groups of layers (``group_matcher``) say what belongs together. A module is looked into
    until all of its parameters are of one group, and further where it only holds a row of others.
    A single convolution or normalization is trained with what stands in front of it, unless it is
    the first of its group.
    """
    group_of = _groups(network)
    found: list[str] = []
    taken: set[object] = set()

    def look(module: nn.Module, name: str) -> None:
        inner = f"{name}." if name else ""
        groups = {group_of.get(inner + each) for each, _ in module.named_parameters()} - {None}
        if not groups:
            return
        if name and len(groups) == 1 and not _is_row(module):
            if not _only_norms(module) and not (_is_leaf(module) and groups <= taken):
                found.append(name)
                taken.update(groups)
            return
        for each, child in module.named_children():
            look(child, inner + each)

    look(network, "")
    blocks = _in_order(found, seen.begun)
    if len(blocks) < 3:
        raise Unfit(f"has {len(blocks)} blocks")
    return blocks


def _is_leaf(module: nn.Module) -> bool:
    return not any(any(True for _ in child.parameters()) for child in module.children())


def _only_norms(module: nn.Module) -> bool:
    holders = (each for each in module.modules() if any(True for _ in each.parameters(False)))
    return all("Norm" in type(each).__name__ for each in holders)


def _is_row(module: nn.Module) -> bool:
    """Whether a module is there to hold others, which are looked at on their own."""
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return any(not _is_leaf(child) for child in module.children())
    return any(
        name in _ROWS and isinstance(child, nn.Sequential | nn.ModuleList) and not _is_leaf(child)
        for name, child in module.named_children()
    )


def _in_order(names: Sequence[str], begun: Mapping[str, int]) -> list[str]:
    """The most of the modules that run in the order of their registration.

    One that never runs is left out, and so is one that runs before its predecessor: what is
    registered behind the first trained block is trained with it.
    """
    first: dict[str, int] = {}
    for name, place in begun.items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            first.setdefault(".".join(parts[:depth]), place)
    runs = [name for name in names if name in first]
    best: list[list[str]] = []  # of each module, the longest row that ends with it
    for place, name in enumerate(runs):
        rows = [best[i] for i in range(place) if first[runs[i]] < first[name]]
        best.append([*max(rows, key=len, default=[]), name])
    return max(best, key=len, default=[])


def _groups(network: nn.Module) -> dict[str, object]:
    """Of each parameter the group of layers that it is of; one that modules share counts once."""
    try:
        matcher = network.group_matcher(coarse=False)  # type: ignore[operator]  # a method of timm's
        return dict(timm.models.group_parameters(network, matcher, reverse=True))
    except Exception:  # some networks have none, or one that fails: numbered modules will do
        names = [name for name, _ in network.named_parameters()]
        return {name: found.group() for name in names if (found := _NUMBERED.match(name))}


def patterns(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Patterns that match exactly these of the known names; ``*`` stands within one segment.

    Args:
        names: to be matched.
        known: all names of modules with parameters.

    Returns:
        in the order of the names; a name stands for itself where no pattern would do.
    """
    wanted, fit = set(names), {}

    def fits(pattern: str) -> bool:
        if pattern not in fit:
            fit[pattern] = {each for each in known if matches(each, pattern)} <= wanted
        return fit[pattern]

    found: dict[str, None] = {}
    for name in names:
        wide = re.sub(r"\d+(?=\.|$)", "*", name)
        narrow = re.sub(r"\d+(?=\.|$)", lambda digits: "?" * len(digits.group()), name)
        found[next((each for each in (wide, narrow) if fits(each)), name)] = None
    return list(found)


def matches(name: str, pattern: str) -> bool:
    """Whether a name of a module fits; ``*`` and ``?`` stand within one dotted segment."""
    within = re.escape(pattern).replace(r"\*", r"[^.]*").replace(r"\?", r"[^.]")
    return re.fullmatch(within, name) is not None


def _last_map(network: nn.Module, seen: _Seen, side: int) -> tuple[str, MapLayout]:
    """The last map that all of the answer depends on, and how it lies.

    Where the answer is a class token's, what happens to the map behind the last attention counts
    for nothing: it is taken in front of that, behind the first normalization of the last block.
    """
    maps = [
        (name, layout)
        for name, shape in seen.ended
        if (layout := _layout(shape, side)) is not None
        # the keys of a pooling attention are no map of the network's
        and not (layout == "tokens" and name.split(".")[0] in _POOLING)
    ]
    if not maps:
        raise Unfit("has no square map")
    if maps[-1][1] != "tokens" or not _by_token(network):
        return maps[-1]
    later = [name for name, _ in seen.ended if name.split(".")[0] in _CLASS_ATTENTION]
    if later:
        names = [name for name, _ in seen.ended]
        before = names[: names.index(later[0])]
        maps = [(name, layout) for name, layout in maps if name in before]
        return maps[-1]
    norms = [each for each in maps if _IN_FRONT.search(each[0])]
    if not norms:
        raise Unfit("has no normalization in front of its last attention")
    return norms[-1]


def _by_token(network: nn.Module) -> bool:
    """Whether the answer is what became of class tokens."""
    pool = getattr(network, "global_pool", None)
    if isinstance(pool, str):
        return pool == "token"
    return getattr(network, "cls_token", None) is not None


def _layout(shape: tuple[int, ...], side: int) -> MapLayout | None:
    """How an output is a map of a square image, if it is one."""
    if shape[0] != 2:
        return None
    most = side // _STRIDE
    if len(shape) == 4:
        if shape[2] == shape[3] and _SIDE <= shape[2] <= most:
            return "NCHW"
        if shape[1] == shape[2] and _SIDE <= shape[1] <= most:
            return "NHWC"
    if len(shape) == 3:
        along = int(shape[1] ** 0.5)
        if _SIDE <= along <= most and shape[1] - along * along <= _PREFIX:
            return "tokens"
    return None
