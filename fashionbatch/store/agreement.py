"""Whether prediction files belong together: one model, configuration, engine and layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fashionbatch.errors import UsageError
from fashionbatch.store.reader import Predictions

#: in a fingerprint: what files differ in that belong together; all else must be the same
OWN = ("input", "items", "rows", "batch_size", "device", "code")
INPUTS = "inputs"
#: with a row per item, and with a row per failure
GROUPS = {"items": ("items", "predictions", "features"), "failures": ("failures",)}


def refuse_twice(opened: Sequence[Predictions]) -> None:
    """Raises UsageError where a file is named twice."""
    for number, one in enumerate(opened):
        for other in opened[:number]:
            if one.path.samefile(other.path):
                raise UsageError(f"{one.path} is named twice: leave one of them out")


def refuse_others(one: Predictions, other: Predictions) -> None:
    """Names the first thing by which a file is not of the same kind as another.

    Raises:
        UsageError: they are of another model, configuration or engine.
    """
    mine, its = (
        # another model has other classes, too: it is named first
        {"model": p.fingerprint.get("model")}
        | {k: v for k, v in p.fingerprint.items() if k not in (*OWN, INPUTS)}
        for p in (one, other)
    )
    difference = _difference(mine, its)
    if difference is None and one.classes != other.classes:
        difference = "classes", f"{len(one.classes)}", f"{len(other.classes)}"
    if difference is None and one.attributes != other.attributes:
        difference = "attributes", f"{len(one.attributes)}", f"{len(other.attributes)}"
    if difference is None:
        # a file without rows may know no shape of its features
        known = bool(len(one) and len(other))
        difference = _difference(_layout(one, shaped=known), _layout(other, shaped=known))
    if difference is not None:
        what, had, has = difference
        raise UsageError(
            f"{other.path} cannot be merged with {one.path}: other {what} ({has} instead of {had})"
        )


def _difference(mine: Any, its: Any, name: str = "") -> tuple[str, str, str] | None:
    """The name of the first difference, and both values."""
    if mine == its:
        return None
    if isinstance(mine, dict) and isinstance(its, dict):
        for key in (*mine, *(k for k in its if k not in mine)):
            found = _difference(mine.get(key), its.get(key), key)
            if found is not None:
                return found
    return name, _short(mine), _short(its)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _layout(predictions: Predictions, *, shaped: bool) -> dict[str, str]:
    """Type and shape of each column."""
    layout = {}
    for group in (g for groups in GROUPS.values() for g in groups):
        for name in predictions.columns(group):
            column = predictions.column(name)
            shape = f" {list(column.shape[1:])}" if shaped else ""
            layout[name] = f"{column.dtype}{shape}"
    return layout
