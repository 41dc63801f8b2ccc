"""``fashionbatch inspect``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import say, show_json, show_table, warn
from fashionbatch.cli.options import Json, with_options
from fashionbatch.cli.values import size
from fashionbatch.config import InspectConfig

#: of a long list the first and the last are shown
_LARGEST, _SMALLEST = 15, 5


def inspect(
    data: Annotated[
        str, typer.Argument(metavar="SHARDS", help="Data set, or tar files; path or address.")
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Show what a data set holds: numbers, leakage between splits, pictures."""
    result = api.inspect(data, **options)
    if json:
        show_json(result)
    else:
        _show(result)
    for shard in result["damaged"]:
        warn(shard["reason"])
    for image in result["undrawn"]:
        warn(f"{image['name']}: {image['reason']}")
    for picture in result["pictures"]:
        say(picture)
    if result["damaged"] or result["undrawn"]:
        raise typer.Exit(3)


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch inspect shards/photos"
    app.command("inspect")(with_options(InspectConfig, inspect, example))


def _show(result: dict[str, Any]) -> None:
    title = (
        f"{result['name']}: {_number(result['items'])} images, "
        f"{_number(len(result['classes']))} classes, {size(result['bytes'])}"
    )
    show_table(
        title,
        ["split", "images", "labelled", "unlabelled", "classes", "size"],
        [
            [
                s["split"],
                *(_number(s[c]) for c in ("items", "labelled", "unlabelled", "classes")),
                size(s["bytes"]),
            ]
            for s in result["splits"]
        ],
    )
    _show_classes(result)
    _show_images(result)
    _show_attributes(result)
    _show_leakage(result["leakage"])
    _show_failures(result)
    for note in result["notes"]:
        print()
        show_table("Note", [""], [[note]])


def _show_classes(result: dict[str, Any]) -> None:
    classes = result["classes"]
    if not classes:
        return
    splits = list(classes[0]["splits"])
    typed = bool(result["category_types"])
    rows: list[list[object]] = [
        [
            c["name"],
            *([c["type"] or "-"] if typed else []),
            *(_number(c["splits"][s]) for s in splits),
            *([_number(c["items"])] if len(splits) > 1 else []),
        ]
        for c in classes
    ]
    uneven = result["imbalance"]
    ratio = f", the largest {uneven['ratio']:,.4g} times the smallest" if uneven else ""
    empty = f", {_number(uneven['empty'])} without images" if uneven and uneven["empty"] else ""
    _table(
        f"Images per class{ratio}{empty}",
        [
            "class",
            *(["type"] if typed else []),
            *splits,
            *(["all"] if len(splits) > 1 else []),
        ],
        rows,
    )
    if typed:
        _table(
            "Images per category type",
            ["type", "classes", "images"],
            [
                [t["type"] or "-", _number(t["classes"]), _number(t["items"])]
                for t in result["category_types"]
            ],
        )


def _show_images(result: dict[str, Any]) -> None:
    images, boxes = result["images"], result["boxes"]
    rows: list[list[object]] = []
    if images["width"]:
        for side in ("width", "height"):
            rows.append([f"{side}, pixels", *_spread(images[side], _number)])
        rows.append(["megapixels", *_spread(images["megapixels"], "{:.3g}".format)])
    rows.append(["file size", *_spread(images["bytes"], size)])
    if boxes["area_share"]:
        rows.append(["box, share of the image", *_spread(boxes["area_share"], "{:.1%}".format)])
    told = [f"{_number(count)} {kind}" for kind, count in images["formats"].items()]
    if images["width"]:
        shapes = ("portrait", "landscape", "square")
        told += [f"{images[s]:.1%} {s}" for s in shapes if images[s]]
    if images["sizes_unknown"]:
        told.append(f"{_number(images['sizes_unknown'])} of unknown width and height")
    if boxes["images"]:
        told.append(f"{_number(boxes['images'])} with a box")
    _table(f"Images: {', '.join(told)}", ["", "smallest", "median", "largest"], rows)


def _show_attributes(result: dict[str, Any]) -> None:
    attributes, types = result["attributes"], result["attribute_types"]
    columns = ["positive", "unknown"]
    if types:
        _table(
            "Attributes by type",
            ["type", "attributes", *columns],
            [
                [t["type"] or "-", _number(t["attributes"]), *(_number(t[c]) for c in columns)]
                for t in types
            ],
        )
    if attributes:
        _table(
            f"{_number(len(attributes))} attributes",
            ["attribute", "type", *columns],
            [[a["name"], a["type"] or "-", *(_number(a[c]) for c in columns)] for a in attributes],
        )


def _show_leakage(leakage: dict[str, Any]) -> None:
    products, same = leakage["products"], leakage["same_bytes"]
    rows: list[list[object]] = [["products", "not known"]]
    if products["products"]:
        rows = [
            ["products", _number(products["products"])],
            ["products in several splits", _number(products["in_several_splits"])],
            ["their images", _number(products["images"])],
            *_trained("whose product is in train too", products),
        ]
    rows += [
        ["images with the same bytes as another one", _number(same["copies"])],
        ["  of these within a split", _number(same["within"])],
        ["  of these across splits", _number(same["across"])],
        ["  of these with different classes", _number(same["conflict"])],
        *_trained("whose bytes are in train too", same),
    ]
    _table("Leakage between splits", ["", "images"], rows)
    examples = [*products["examples"], *same["examples"]]
    kinds = [*("product" for _ in products["examples"]), *("bytes" for _ in same["examples"])]
    if examples:
        _table(
            "Examples",
            ["same", "images"],
            [
                [
                    kind,
                    ", ".join(
                        f"{e['name']} ({'/'.join(filter(None, (e['split'], e['class'])))})"
                        if e["split"] or e["class"]
                        else e["name"]
                        for e in example
                    ),
                ]
                for kind, example in zip(kinds, examples, strict=True)
            ],
        )
    if products["in_several_splits"]:
        warn(
            "near-identical photographs leak between splits: `fashionbatch shard --split "
            "train=0.8,val=0.1,test=0.1 --group-by product` keeps them together"
        )


def _trained(what: str, shared: dict[str, Any]) -> list[list[object]]:
    return [
        [f"{split} images {what}", f"{_number(told['images'])} ({told['share']:.1%})"]
        for split, told in shared["also_in_train"].items()
    ]


def _show_failures(result: dict[str, Any]) -> None:
    failures = result["failures"]
    if failures["count"]:
        _table(
            f"{_number(failures['count'])} failures when the data set was made",
            ["stage", "reason", "times"],
            [[r["stage"], r["reason"], _number(r["count"])] for r in failures["reasons"]],
        )
    if result["damaged"]:
        _table(
            "Damaged shards",
            ["shard", "images"],
            [[d["shard"], _number(d["items"])] for d in result["damaged"]],
        )


def _table(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Prints a table below others; of many rows the first and the last."""
    print()
    if len(rows) > _LARGEST + _SMALLEST + 1:
        hidden = len(rows) - _LARGEST - _SMALLEST
        gap: list[object] = [f"… {hidden:,} more (all with --json)", *[""] * (len(columns) - 1)]
        rows = [*rows[:_LARGEST], gap, *rows[-_SMALLEST:]]
    show_table(title, columns, rows)


def _spread(measures: dict[str, float], form: Any) -> list[object]:
    return [form(measures[m]) for m in ("min", "median", "max")]


def _number(value: float) -> str:
    return f"{value:,.10g}"
