"""What was run on what, in words for people."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fashionbatch.address import Location
from fashionbatch.models.card import ModelCard
from fashionbatch.recipe import CONFIG
from fashionbatch.store.reader import Predictions
from fashionbatch.training import curves

#: columns of a history that are shown
_SHOWN = ("loss", "top1", "top3", "attr_recall3", "attr_map")


def facts(
    predictions: Predictions, card: ModelCard | None, run: Path | None, called: Location | None
) -> list[list[str]]:
    """Names and values, in the order in which people ask; of a run, what it is ``called``."""
    known = predictions.fingerprint
    model = predictions.model
    lineage = model.get("lineage", {})
    backbone, preprocessing = model.get("backbone", {}), model.get("preprocessing", {})
    engine = known.get("engine") or {}
    found: list[tuple[str, Any]] = [
        ("Prediction file", predictions.path.name),
        ("Catalogue", predictions.source or "not said"),
        ("Shards", f"{len(predictions.shard_names):,}"),
        ("Network", versioned(backbone)),
        ("Weights it began with", lineage.get("weights")),
        ("Trained on", lineage.get("data")),
        ("Data fingerprint", lineage.get("data_fingerprint")),
        ("Run", called),
        ("How it was trained", _training(run)),
        ("Model (SHA-256)", model.get("sha256")),
        ("Temperature", model.get("temperature") if model.get("temperature", 1.0) != 1 else None),
        ("Input", _input(preprocessing)),
        ("Engine", versioned(engine)),
        ("Precision", " on ".join(filter(None, (known.get("precision"), known.get("device"))))),
        ("Components", ", ".join(versioned(c) for c in lineage.get("components", ()))),
        ("Code", ", ".join(f"{k} {v}" for k, v in (known.get("code") or {}).items())),
    ]
    if card is not None and card.temperature != model.get("temperature", 1.0):
        found.append(("Temperature fitted since", f"{card.temperature:.4f}"))
    return [[name, str(value)] for name, value in found if value not in (None, "")]


#: of a run's options, those that people ask for
_OPTIONS = (
    "recipe", "mode", "unfreeze", "freeze_epochs", "epochs", "batch_size", "opt", "lr", "sched",
    "weight_decay", "augment", "regularizer", "clip_grad", "patience", "seed",
)  # fmt: skip


def _training(run: Path | None) -> str:
    """The options of a run in a line; empty where they are not there."""
    if run is None:
        return ""
    try:
        values = tomllib.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    shown = {name: values[name] for name in _OPTIONS if values.get(name) not in (None, "", [])}
    return ", ".join(
        f"{name} {' '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in shown.items()
    )


def history(run: Path | None, card: ModelCard | None) -> dict[str, Any] | None:
    """``{"rows", "best"}``: the epochs of a run, and which of them was the best."""
    lines = curves.load_history(run / curves.HISTORY) if run is not None else []
    wanted = {"epoch", "lr", *(f"{s}_{m}" for s in ("train", "val") for m in _SHOWN)}
    rows = [
        {k: v if math.isfinite(v) else None for k, v in line.items() if k in wanted}
        for line in lines
    ]
    best = card.metrics.get("best_epoch") if card is not None else None
    return {"rows": rows, "best": best} if rows else None


def versioned(component: Mapping[str, Any]) -> str:
    """Such as ``resnet50 of fashionbatch 0.1.0``; what is not known is left out."""
    package = " ".join(str(component[k]) for k in ("provider", "version") if component.get(k))
    return " of ".join(filter(None, (component.get("name"), package)))


def _input(preprocessing: dict[str, Any]) -> str:
    if not preprocessing:
        return ""
    size = preprocessing.get("size")
    return f"{size} × {size} pixels, {preprocessing.get('crop_mode')}"
