"""``fashionbatch backbones``."""

from __future__ import annotations

import collections
import fnmatch
from typing import Annotated, Any

import typer

from fashionbatch.cli.console import show_json, show_table, warn_of_plugins
from fashionbatch.cli.options import Json
from fashionbatch.cli.values import preparation
from fashionbatch.specs import HeadSpec

app = typer.Typer(invoke_without_command=True)

#: a package with more networks than that is one line, unless names are asked for
_MANY = 200
#: weight sets that a row has room for
_SETS = 3


@app.callback()
def backbones(
    context: typer.Context,
    match: Annotated[
        str | None, typer.Option(help="Those with such a name only; * stands for any letters.")
    ] = None,
    json: Json = False,
) -> None:
    """List the networks there are, or show one.

    Example: fashionbatch backbones --match "*resnet50*"

    Example: fashionbatch backbones show resnet50
    """
    if context.invoked_subcommand is not None:
        return
    from fashionbatch import registry

    warn_of_plugins()
    rows = [
        _row(c)
        for c in registry.components("backbone")
        if match is None or fnmatch.fnmatchcase(c.spec.name, match)
    ]
    if json:
        show_json(rows)
        return
    counts = collections.Counter((r["provider"], r["version"]) for r in rows)
    many = {which for which, count in counts.items() if count > _MANY and match is None}
    shown = [r for r in rows if (r["provider"], r["version"]) not in many]
    show_table(
        f"{len(shown)} backbones",
        ["name", "input", "parameters", "weights", "provider"],
        [
            [
                r["name"],
                f"{r['size']} px",
                f"{r['parameters']} M" if r["parameters"] else "",
                _few([*r["weights"], "none"]),
                f"{r['provider']} {r['version']}",
            ]
            for r in shown
        ],
    )
    for provider, version in sorted(many):
        names = sorted(r["name"] for r in rows if r["provider"] == provider)
        print(
            f"and {len(names):,} of {provider} {version}, {names[0]} to {names[-1]}: "
            f'--match "*part of a name*" lists them'
        )


@app.command("show")
def show(name: str, json: Json = False) -> None:
    """Show a network's blocks (for --unfreeze blocks:N), sizes and input.

    Example: fashionbatch backbones show resnet50
    """
    from fashionbatch import registry
    from fashionbatch.models import freeze
    from fashionbatch.models.build import find_backbone

    component, spec = find_backbone(name)
    backbone = registry.create(component)
    blocks = freeze.block_names(backbone, spec.blocks)
    counts = freeze.parameters_behind(backbone, blocks)
    statistics = sum(
        b.numel()
        for n, b in backbone.named_buffers()
        if n.endswith(("running_mean", "running_var"))
    )
    about: dict[str, Any] = {
        **_row(component),
        "summary": spec.summary,
        "preprocessing": spec.preprocessing.to_json(),
        "inputs": {weights: given.to_json() for weights, given in spec.inputs.items()},
        "batch_norm_statistics": statistics,
        "backbone_parameters": sum(p.numel() for p in backbone.parameters()),
        "blocks": blocks,
        "trained_by_unfreeze": counts,
    }
    if json:
        show_json(about)
        return
    about_it: list[list[object]] = [
        ["provider", f"{about['provider']} {about['version']}"],
        ["weights", ", ".join([*about["weights"], "none"])],
        ["input", preparation(about["preprocessing"])],
        ["head", _words(spec.head)],
        ["parameters, without head", f"{about['backbone_parameters']:,}"],
        ["batch-norm statistics", f"{statistics:,}"],
        ["blocks", f"{len(blocks)}, {blocks[0]} to {blocks[-1]}"],
    ]
    about_it += [[f"input of {each}", preparation(i)] for each, i in about["inputs"].items()]
    show_table(f"{name}: {spec.summary}", ["what", "value"], about_it)
    print()
    every = about["backbone_parameters"]
    choices = [("none", "the head only", 0)]
    for number, (block, count) in enumerate(zip(reversed(blocks), counts, strict=True), 1):
        choices.append((f"blocks:{number}", f"{block} to the end", count))
    choices.append(("all", "the whole base", every))
    show_table(
        "What --unfreeze trains, beside the head",
        ["choice", "trains", "parameters", "share"],
        [[choice, what, f"{n:>11,}", f"{100 * n // every:>3} %"] for choice, what, n in choices],
    )


def _words(head: HeadSpec) -> str:
    layers = [f"dense {width} with ReLU" for width in head.hidden]
    if head.dropout:
        layers.append(f"dropout {head.dropout:g}")
    return ", ".join([*layers, "one output per class"])


def _few(names: list[str]) -> str:
    """All names, or some and how many there are beside them; the last one in any case."""
    *sets, last = names
    if len(sets) <= _SETS + 1:
        return ", ".join(names)
    return ", ".join([*sets[:_SETS], f"{len(sets) - _SETS} more", last])


def _row(component: Any) -> dict[str, Any]:
    spec = component.spec
    return {
        **component.provenance,
        "size": spec.preprocessing.size,
        "parameters": spec.parameters,
        "weights": list(spec.weights),
    }
