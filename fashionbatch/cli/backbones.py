"""``fashionbatch backbones``."""

from __future__ import annotations

from typing import Any

import typer

from fashionbatch.cli.console import show_json, show_table, warn_of_plugins
from fashionbatch.cli.options import Json
from fashionbatch.cli.values import preparation
from fashionbatch.specs import HeadSpec

app = typer.Typer(invoke_without_command=True)


@app.callback()
def backbones(context: typer.Context, json: Json = False) -> None:
    """List the networks there are, or show one.

    Example: fashionbatch backbones show resnet50
    """
    if context.invoked_subcommand is not None:
        return
    from fashionbatch import registry

    warn_of_plugins()
    rows = [_row(c) for c in registry.components("backbone")]
    if json:
        show_json(rows)
        return
    show_table(
        f"{len(rows)} backbones",
        ["name", "input", "parameters", "weights", "provider"],
        [
            [
                r["name"],
                f"{r['size']} px",
                f"{r['parameters']} M" if r["parameters"] else "",
                ", ".join([*r["weights"], "none"]),
                f"{r['provider']} {r['version']}",
            ]
            for r in rows
        ],
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


def _row(component: Any) -> dict[str, Any]:
    spec = component.spec
    return {
        **component.provenance,
        "size": spec.preprocessing.size,
        "parameters": spec.parameters,
        "weights": list(spec.weights),
    }
