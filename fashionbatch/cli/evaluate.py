"""``fashionbatch evaluate``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import safe, say, show_json, show_table, warn
from fashionbatch.cli.evaluated import figure, interval, show_attributes, show_types
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import EvaluateConfig
from fashionbatch.errors import counted

_NAMES = {
    "top1": "top-1",
    "top3": "top-3",
    "top5": "top-5",
    "macro_recall": "macro recall",
    "macro_precision": "macro precision",
}
_UNKNOWN = "–"
#: of a long list that many are shown; --json has all
_CLASSES, _MISTAKES, _SLICES, _LABELS = 60, 10, 40, 3


def evaluate(
    predictions: Annotated[
        str, typer.Argument(metavar="PREDICTIONS", help="Prediction file (HDF5).")
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Count what is right in a prediction file.

    Figures are over the items whose class is known and that have a prediction, with intervals that
    hold the true figure in 95 of 100 cases. Which attributes the items have says the data set that
    was predicted, if it still lies there, or --labels: a packed data set, or a table with a column
    for each attribute.
    """
    result = api.evaluate(predictions, **options)
    if json:
        show_json(result)
    else:
        _show(result)
    if result["trained_on"]:
        warn(
            f"{counted(result['trained_on'], 'item')} of the split train: a model knows best what "
            "it was trained on (predict with --split val or test)"
        )
    stored = result["calibration"]["stored"]
    if stored:
        say(f"temperature {stored['temperature']:.4f} stored with {stored['model']}")
    for foreign in result["foreign"][:_LABELS]:
        name, items = foreign["label"], counted(foreign["items"], "item")
        warn(f"{items} of class {name!r}, which the model does not know, counted nowhere")
    if result["no_attributes"]:
        say(f"attributes are not evaluated: {result['no_attributes']}")
    elif result["attributes"] and result["attributes"]["foreign"]:
        foreign = counted(result["attributes"]["foreign"], "attribute")
        warn(f"{foreign} that the model does not know, counted nowhere")


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch evaluate predictions/photos-val.h5 --labels catalog.csv --by brand"
    app.command("evaluate")(with_options(EvaluateConfig, evaluate, example))


def _show(result: dict[str, Any]) -> None:
    if result["items"]:
        _show_categories(result)
    else:
        print(f"{safe(result['predictions'])}: of no item is the class known")
    if result["attributes"]:
        print()
        show_attributes(result["attributes"])


def _show_categories(result: dict[str, Any]) -> None:
    more = [
        counted(result[key], "item") + words
        for key, words in (("unlabelled", " of unknown class"), ("failed", " without a prediction"))
        if result[key]
    ]
    beside = f" ({', '.join(more)} beside them)" if more else ""
    show_table(
        f"{result['predictions']}: {counted(result['items'], 'item')}{beside}",
        ["figure", "value", "95 % interval"],
        [
            [name, figure(result[key]), interval(result["intervals"][key])]
            for key, name in _NAMES.items()
        ],
    )
    print()
    shown = sorted(result["per_class"], key=lambda c: -c["support"])[:_CLASSES]
    left = len(result["per_class"]) - len(shown)
    show_table(
        "Classes, the largest first" + (f" ({left:,} more: --json)" if left else ""),
        ["class", "items", "recall", "precision", "F1"],
        [
            [c["name"], f"{c['support']:,}", *map(figure, (c["recall"], c["precision"], c["f1"]))]
            for c in shown
        ],
    )
    if result["category_types"]:
        print()
        show_types(result["category_types"], result["type_accuracy"])
    if result["confused"]:
        print()
        show_table(
            "Most frequent mistakes",
            ["class", "taken for", "items", "share of the class"],
            [
                [m["label"], m["predicted"], f"{m['count']:,}", f"{m['share']:.1%}"]
                for m in result["confused"][:_MISTAKES]
            ],
        )
    print()
    show_table("Confidence", ["", ""], _confidence(result))
    if result["slices"]:
        print()
        _show_slices(result["slices"])
    if result["against"]:
        print()
        _show_against(result["against"])


def _confidence(result: dict[str, Any]) -> list[list[object]]:
    fitted = result["calibration"]["temperature"]
    rows: list[list[object]] = [["expected calibration error", figure(result["ece"])]]
    if fitted and fitted["edge"]:
        items = counted(fitted["items"], "item")
        rows.append(["temperature that fits", f"none from 0.05 to 20, of {items}"])
    elif fitted:
        losses = f"log loss {fitted['loss']:.4f} -> {fitted['scaled_loss']:.4f}"
        rows.append(["temperature that fits", f"{fitted['value']:.3f}: {losses}"])
        rows.append(["calibration error with it", figure(fitted["ece"])])
    else:
        rows.append(["temperature that fits", "unknown: predict with --probabilities"])
    trusted = result["threshold"]
    name = f"{trusted['precision']:.0%} right"
    if trusted["threshold"] is None:
        rows.append([name, "at no confidence"])
    else:
        rows.append(
            [
                name,
                f"from confidence {trusted['threshold']:.4f} on: {trusted['coverage']:.1%} of the "
                "items",
            ]
        )
    for point in result["coverage"][9::5]:
        rows.append(
            [f"the most confident {point['coverage']:.0%}", f"{point['accuracy']:.4f} right"]
        )
    return rows


def _show_slices(slices: list[dict[str, Any]]) -> None:
    left = len(slices) - _SLICES
    show_table(
        "Slices, the largest first" + (f" ({left:,} more: --json)" if left > 0 else ""),
        ["value", "items", "top-1", "95 % interval", "macro recall"],
        [
            [
                s["value"] or _UNKNOWN,
                f"{s['items']:,}",
                figure(s["top1"]),
                interval(s["intervals"]["top1"]),
                figure(s["macro_recall"]),
            ]
            for s in slices[:_SLICES]
        ],
    )


def _show_against(against: dict[str, Any]) -> None:
    show_table(
        f"Against {against['predictions']}: {counted(against['items'], 'item')} of the same name",
        ["", "items"],
        [
            ["right in both", f"{against['both']:,}"],
            ["won: right here only", f"{against['won']:,}"],
            ["lost: right there only", f"{against['lost']:,}"],
            ["right in neither", f"{against['neither']:,}"],
        ],
    )
    sure = "not " if against["p"] >= 0.05 else ""
    say(f"McNemar's exact test: p = {against['p']:.2g}; {sure}more than chance at the 5 % level")
