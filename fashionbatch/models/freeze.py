"""What of a network is trained. Frozen means frozen: weights, and running statistics too."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from fashionbatch.errors import PluginError, UsageError
from fashionbatch.models.build import Classifier


def block_names(
    backbone: nn.Module, patterns: Sequence[str], *, truncated: bool = False
) -> list[str]:
    """The blocks of a backbone, from input to output.

    Args:
        backbone: as built.
        patterns: of the spec; ``*`` and ``?`` match within one dotted segment.
        truncated: blocks may be missing, because they lie behind the bottleneck's layer.

    Returns:
        the names of the matching modules that have parameters, in the network's order.

    Raises:
        PluginError: no module matches a pattern.
    """
    modules = dict(backbone.named_modules())
    names: list[str] = []
    for pattern in patterns:
        matching = [n for n in modules if n and _matches(n, pattern)]
        if not matching and not truncated:
            raise PluginError(f"no module of the backbone matches its block pattern {pattern!r}")
        names += [
            n for n in matching if n not in names and any(True for _ in modules[n].parameters())
        ]
    order = list(modules)
    return sorted(names, key=order.index)


def _matches(name: str, pattern: str) -> bool:
    segments, wanted = name.split("."), pattern.split(".")
    return len(segments) == len(wanted) and all(
        fnmatch.fnmatchcase(s, w) for s, w in zip(segments, wanted, strict=True)
    )


def unfreeze(model: Classifier, blocks: Sequence[str], count: int | None) -> None:
    """Makes the head and the last ``count`` blocks trainable, and freezes the rest.

    Whatever stands behind the first trained block (a last normalization, say) is trained too.

    Args:
        model: the classifier; its ``requires_grad`` flags are set.
        blocks: of :func:`block_names`.
        count: how many, from the output; ``None`` for the whole base.

    Raises:
        UsageError: there are not so many blocks.
    """
    trained = _trained(model, blocks, count)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def never_trained(model: Classifier, blocks: Sequence[str], count: int | None) -> frozenset[str]:
    """Entries of the model's state that stay as they are with the last ``count`` blocks trained.

    Args:
        model: the classifier.
        blocks: of :func:`block_names`.
        count: as of :func:`unfreeze`.

    Returns:
        names of weights, and of running statistics and other buffers of modules without a trained
        weight.
    """
    trained = _trained(model, blocks, count)
    known = {name for name, _ in model.named_parameters()}
    holders = {name.rpartition(".")[0] for name in known}

    def holder(name: str) -> str:
        """The nearest module around a buffer that has weights: they share their mode."""
        module = name.rpartition(".")[0]
        while module and not any((h + ".").startswith(module + ".") for h in holders):
            module = module.rpartition(".")[0]
        return module + "." if module else ""

    frozen = set()
    for name in model.state_dict():
        if name in known:
            changes = name in trained
        else:
            changes = any(each.startswith(holder(name)) for each in trained)
        if not changes:
            frozen.add(name)
    return frozenset(frozen)


def _trained(model: Classifier, blocks: Sequence[str], count: int | None) -> set[str]:
    """Names of the parameters that :func:`unfreeze` makes trainable."""
    names = {name for name, _ in model.named_parameters()}
    if count is None:
        return names
    if count > len(blocks):
        if not blocks:
            raise UsageError(
                f"--unfreeze blocks:{count}: no block ends before --bottleneck; write all or none"
            )
        raise UsageError(
            f"--unfreeze blocks:{count}: the backbone has {len(blocks)} blocks "
            f"({blocks[0]} to {blocks[-1]}); write at most blocks:{len(blocks)}, or all"
        )
    first = blocks[-count] + "." if count else None
    trained = False
    for name, _ in model.backbone.named_parameters():
        trained = trained or (first is not None and (name + ".").startswith(first))
        if not trained:
            names.discard(f"backbone.{name}")
    return names


def parameter_groups(
    model: Classifier, blocks: Sequence[str], decay: float
) -> list[dict[str, Any]]:
    """What is trained, as an optimizer takes it: ``params``, and ``scale`` of the learning rate.

    The head has scale 1, the last block ``decay``, the one before it ``decay²``, and so on; what
    follows a block goes with it (discriminative fine-tuning, Howard & Ruder
    2018).

    Args:
        model: with its ``requires_grad`` flags set.
        blocks: of :func:`block_names`.
        decay: 1 for one rate throughout, which gives one group.
    """
    if decay == 1:
        return [{"params": [p for p in model.parameters() if p.requires_grad], "scale": 1.0}]
    depths: dict[int, list[nn.Parameter]] = {}
    seen = -1  # the last block that has begun
    for name, parameter in model.backbone.named_parameters():
        for place in range(seen + 1, len(blocks)):
            if (name + ".").startswith(blocks[place] + "."):
                seen = place
        if parameter.requires_grad:
            depths.setdefault(len(blocks) - seen, []).append(parameter)
    head = [p for p in model.head.parameters() if p.requires_grad]
    groups = [{"params": head, "scale": 1.0}] if head else []
    return groups + [
        {"params": behind, "scale": decay**depth} for depth, behind in sorted(depths.items())
    ]


def train_mode(model: nn.Module) -> None:
    """Training mode for what is trained, evaluation mode for what is frozen.

    See :func:`trained_modules`.
    """
    for module, trained in _modes(model, trained=True):
        module.training = trained


def trained_modules(model: nn.Module) -> set[nn.Module]:
    """The modules that training puts into training mode, by the ``requires_grad`` flags.

    A module without parameters (dropout, an activation) goes with the module that holds it.
    """
    return {module for module, trained in _modes(model, trained=True) if trained}


def _modes(model: nn.Module, *, trained: bool) -> Iterator[tuple[nn.Module, bool]]:
    has: dict[nn.Module, bool | None] = {}  # whether something within is trained, if it can be

    def look(module: nn.Module) -> bool | None:
        flags = [p.requires_grad for p in module.parameters(recurse=False)]
        flags += [flag for child in module.children() if (flag := look(child)) is not None]
        has[module] = any(flags) if flags else None
        return has[module]

    def walk(module: nn.Module, inherited: bool) -> Iterator[tuple[nn.Module, bool]]:
        own = has[module]
        mode = inherited if own is None else own
        yield module, mode
        for child in module.children():
            yield from walk(child, mode)

    look(model)
    return walk(model, trained)


def trainable_parameters(model: nn.Module) -> int:
    """How many single weights are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def parameters_behind(backbone: nn.Module, blocks: Sequence[str]) -> list[int]:
    """How many weights of the base ``blocks:1``, ``blocks:2``, ... train."""
    names = [name + "." for name, _ in backbone.named_parameters()]
    sizes = [p.numel() for p in backbone.parameters()]
    firsts = [next(i for i, n in enumerate(names) if n.startswith(b + ".")) for b in blocks]
    return [sum(sizes[first:]) for first in reversed(firsts)]
