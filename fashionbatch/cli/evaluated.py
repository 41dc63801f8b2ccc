"""What ``fashionbatch evaluate`` shows of attributes and of types of categories."""

from __future__ import annotations

from typing import Any

from fashionbatch.cli.console import show_table
from fashionbatch.errors import counted

_NAMES = {
    "attr_recall3": "recall@3",
    "attr_recall5": "recall@5",
    "attr_map": "mean average precision",
}
_UNKNOWN = "–"
#: attributes that are shown; --json has all
_ATTRIBUTES = 20


def figure(value: float | None) -> str:
    """With four digits."""
    return _UNKNOWN if value is None else f"{value:.4f}"


def interval(ends: list[float] | tuple[float, float] | None) -> str:
    """Both ends."""
    return _UNKNOWN if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def show_types(types: list[dict[str, Any]], accuracy: float | None) -> None:
    """A row for each type of categories."""
    show_table(
        f"Types of classes; the type is right of {figure(accuracy)}",
        ["type", "classes", "items", "top-1", "95 % interval", "top-3", "type right"],
        [
            [
                t["type"],
                t["classes"],
                f"{t['items']:,}",
                figure(t["top1"]),
                interval(t["intervals"]["top1"]),
                figure(t["top3"]),
                figure(t["type_accuracy"]),
            ]
            for t in types
        ],
    )


def show_attributes(result: dict[str, Any]) -> None:
    """The figures of all attributes, of their types, and of the most frequent ones."""
    beside = result["unlabelled"]
    more = f" ({counted(beside, 'item')} without known ones beside them)" if beside else ""
    show_table(
        f"Attributes of {counted(result['items'], 'item')}{more}",
        ["figure", "value", "95 % interval"],
        [
            [name, figure(result[key]), interval(result["intervals"][key])]
            for key, name in _NAMES.items()
        ],
    )
    if result["per_type"]:
        print()
        show_table(
            "Types of attributes, each ranked on its own",
            ["type", "attributes", "positive", "recall@3", "recall@5", "mAP"],
            [
                [
                    t["type"],
                    t["attributes"],
                    f"{t['support']:,}",
                    *map(figure, (t["recall3"], t["recall5"], t["map"])),
                ]
                for t in result["per_type"]
            ],
        )
    print()
    attributes = sorted(result["per_attribute"], key=lambda a: -a["support"])
    left = len(attributes) - _ATTRIBUTES
    show_table(
        "Attributes, the most frequent first" + (f" ({left:,} more: --json)" if left > 0 else ""),
        ["attribute", "type", "positive", "in first 3", "in first 5", "AP"],
        [
            [
                a["name"],
                a["type"] or _UNKNOWN,
                f"{a['support']:,}",
                f"{a['hits3']:,}",
                f"{a['hits5']:,}",
                figure(a["average_precision"]),
            ]
            for a in attributes[:_ATTRIBUTES]
        ],
    )
