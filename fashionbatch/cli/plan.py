"""A training's options and plan, by what they are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fashionbatch.cli.console import safe, show_table
from fashionbatch.cli.values import preparation, provider, readable, size

#: every option of train stands in one group, and every figure of the plan
GROUPS: dict[str, tuple[str, ...]] = {
    "Data": (
        "data", "items", "class_count", "classes", "category_type", "fraction", "per_class",
        "limit_per_split", "limit", "task", "attributes", "attribute_weight", "seed",
    ),
    "Model": (
        "backbone", "weights", "bottleneck", "input", "img_size", "crop_mode", "head_hidden",
        "head_dropout", "mode", "unfreeze", "blocks", "parameters", "trainable_parameters",
    ),
    "Optimization": (
        "recipe", "epochs", "freeze_epochs", "freeze_opt", "steps_per_epoch", "batch_size",
        "sampling", "class_weights", "opt", "lr", "momentum", "weight_decay", "opt_kwargs", "sched",
        "warmup_epochs", "layer_decay",
    ),
    "Regularization": ("augment", "regularizer", "clip_grad", "patience"),
    "Machine": (
        "device", "processes", "workers", "precision", "compile", "micro_batch", "prefix_cache",
        "augment_copies", "activation_bytes", "engine", "checkpoint_minutes", "logger", "output",
        "name", "exist_ok",
        "resume",
    ),
}  # fmt: skip


def show_plan(result: Mapping[str, Any]) -> None:
    """Prints what ``api.train(dry_run=True)`` gives, one table for each group."""
    config, plan = dict(result["config"]), dict(result["plan"])
    # the plan knows the device that "auto" is, and the package of the backbone
    values = {**config, **plan, "class_count": plan["classes"], "classes": config["classes"]}
    words = {name: _word(name, value) for name, value in values.items()}
    print(safe(f"Nothing was run: {result['run']} would be made so."))
    width = max(map(len, words))
    for group, names in GROUPS.items():
        # figures that only some trainings have are left out of the others
        known = [name for name in names if name in words]
        rows: list[list[object]] = [[f"{name:<{width}}", words[name]] for name in known]
        print()
        show_table(group, ["option", "value"], rows)


def _word(name: str, value: Any) -> str:
    if name == "backbone" and isinstance(value, Mapping):
        return provider(value)
    if name == "input":
        return preparation(value)
    if name == "seed":
        return str(value)  # a name rather than an amount
    if name == "activation_bytes":
        return size(value)
    return readable(value)
