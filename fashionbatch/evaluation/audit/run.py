"""Audits the labels of a prediction file: tables of what to look at, and pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.config import AuditConfig
from fashionbatch.drawing import catalogue as catalogues
from fashionbatch.drawing import png
from fashionbatch.drawing.shown import Shown, sheet
from fashionbatch.errors import UsageError, counted
from fashionbatch.evaluation import truth
from fashionbatch.evaluation.audit import neighbourhood, probe, suspects
from fashionbatch.store.answers import names_of
from fashionbatch.store.csv_table import cell
from fashionbatch.store.reader import Predictions, open_predictions

#: items of which all pairs are compared; beyond, it takes hours
_MOST_PAIRS = 50_000
#: twins and outliers that are listed
_MOST_LISTED = 1000

Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an audit found.

    Attributes:
        items: that were judged.
        agreement: share of them that the cross-validated classifier takes for their label.
        listed: ``suspects``, ``twins`` and ``outliers``, the worst first; each with the ``row`` of
            the file (twins with ``twin_row`` too) and what :func:`audit` says of them.
        scarce: classes with fewer items than folds.
        no_pairs: why twins and outliers were not looked for.
    """

    items: int
    agreement: float
    listed: dict[str, list[dict[str, Any]]]
    scarce: list[dict[str, Any]]
    no_pairs: str | None


def look(
    predictions: Predictions, labels: npt.NDArray[np.int32], config: AuditConfig, tell: Tell
) -> Findings:
    """Ranks the items whose label is doubtful, and writes nothing.

    Args:
        predictions: with features.
        labels: int32 ``[N]``, of every row; -1 unknown.
        config: of the job.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.

    Raises:
        UsageError: too few items have a known class, or there are no features.
    """
    rows = np.flatnonzero(labels >= 0)
    mine = labels[rows]
    if len(rows) < 2 * config.folds:
        raise UsageError(
            f"{predictions.path}: of {counted(len(rows), 'item')} the class is known, which is too "
            "few to audit; give a table of classes with --labels"
        )
    if len(np.unique(mine)) < 2:
        raise UsageError(
            f"{predictions.path}: all {len(rows):,} labels are {predictions.classes[mine[0]]!r}: "
            "there is nothing to tell apart"
        )
    features = predictions.features(config.features)
    few = len(rows) <= _MOST_PAIRS
    tell("start", {"items": len(rows) * (2 + few)})  # all items are judged twice

    def advance(count: int) -> None:
        tell("progress", {"items": count})

    classes = len(predictions.classes)
    judge = probe.CrossValidated(
        features, rows, mine, classes, folds=config.folds, seed=config.seed
    )
    doubted = suspects.find(lambda: judge.blocks(advance), mine, classes)
    found = _Audit(predictions, rows, mine)
    listed: dict[str, list[dict[str, Any]]] = {
        "suspects": found.suspects(doubted),
        "twins": [],
        "outliers": [],
    }
    if few:
        around = neighbourhood.look(
            probe.read(features, rows), mine, similar=config.similar, advance=advance
        )
        listed["twins"] = found.twins(around)
        lonely = neighbourhood.outliers(around.nearness, config.deviations)
        listed["outliers"] = found.outliers(around, lonely)
    return Findings(
        items=len(rows),
        agreement=round(doubted.agreement, 6),
        listed={kind: found.named(entries) for kind, entries in listed.items()},
        scarce=_scarce(predictions, mine, config.folds),
        no_pairs=None
        if few
        else f"twins and outliers were not looked for: over {_MOST_PAIRS:,} items",
    )


def audit(path: Path, config: AuditConfig, output: Path, tell: Tell) -> dict[str, Any]:
    """Ranks the items whose label is doubtful.

    Args:
        path: of the prediction file, with features.
        config: of the job.
        output: folder for the tables and pictures.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.

    Returns:
        ``{"predictions", "output", "items", "agreement", "suspects", "twins", "outliers",
        "files", "scarce", "no_pairs", "no_sheets", "failed"}``. ``agreement`` is the share of the
        items that the cross-validated classifier takes for their label. A suspect has ``name``,
        ``label``, ``suggested``, ``label_probability``, ``suggested_probability`` and ``margin``;
        twins have ``name``, ``label``, ``twin``, ``twin_label``, ``similarity``; an outlier
        ``name``, ``label``, ``similarity``. ``scarce`` are classes with fewer items than folds, of
        which little can be learnt; ``no_pairs`` and ``no_sheets`` say why something was not done,
        ``failed`` what could not be drawn.

    Raises:
        UsageError: too few items have a known class, or there are no features.
    """
    with open_predictions(path) as predictions:
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file: name a folder for tables and sheets with -o")
        found = look(predictions, _labels(predictions, config), config, tell)
        written = _write(output, found.listed)
        no_sheets: str | None = None
        failed: list[dict[str, str]] = []
        if config.sheets:
            drawn, no_sheets, failed = _draw(predictions, found.listed, config, output)
            written += drawn
        public = {
            kind: [{k: v for k, v in entry.items() if not k.endswith("row")} for entry in entries]
            for kind, entries in found.listed.items()
        }
        return {
            "predictions": str(path),
            "output": str(output),
            "items": found.items,
            "agreement": found.agreement,
            **public,
            "files": written,
            "scarce": found.scarce,
            "no_pairs": found.no_pairs,
            "no_sheets": no_sheets,
            "failed": failed,
        }


def _labels(predictions: Predictions, config: AuditConfig) -> npt.NDArray[np.int32]:
    if not predictions.classes:
        raise UsageError(f"{predictions.path} is of a model that learnt no category: no labels")
    return truth.of(predictions, truth.named(config), config).labels


def _scarce(
    predictions: Predictions, labels: npt.NDArray[np.int32], folds: int
) -> list[dict[str, Any]]:
    counts = np.bincount(labels, minlength=len(predictions.classes)).tolist()
    named = zip(predictions.classes, counts, strict=True)
    return [{"class": name, "items": count} for name, count in named if 0 < count < folds]


class _Audit:
    """From positions among the labelled items to what people read."""

    def __init__(
        self,
        predictions: Predictions,
        rows: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int32],
    ) -> None:
        self.predictions, self.rows, self.labels = predictions, rows, labels

    def suspects(self, found: suspects.Suspects) -> list[dict[str, Any]]:
        return [
            {
                **self._item(place),
                "suggested": self.predictions.classes[suggested],
                "label_probability": round(float(own), 6),
                "suggested_probability": round(float(other), 6),
                "margin": round(float(own - other), 6),
            }
            for place, suggested, own, other in zip(
                found.places, found.suggested, found.own, found.other, strict=True
            )
        ]

    def named(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """With the names of the rows: those of all items would not fit into memory."""
        pairs = [(e, f"{kind}row", kind.rstrip("_") or "name")
                 for e in entries for kind in ("", "twin_") if f"{kind}row" in e]  # fmt: skip
        rows = np.unique(np.array([e[row] for e, row, _ in pairs], np.int64))
        names = dict(zip(rows.tolist(), names_of(self.predictions, rows), strict=True))
        for entry, row, name in pairs:
            entry[name] = names[entry[row]]
        return entries

    def twins(self, around: neighbourhood.Neighbourhood) -> list[dict[str, Any]]:
        pairs = zip(around.twins[:_MOST_LISTED], around.similarities, strict=False)
        listed = []
        for (one, other), similarity in pairs:
            second = {f"twin_{k}" if k != "name" else "twin": v
                      for k, v in self._item(other).items()}  # fmt: skip
            listed.append({**self._item(one), **second, "similarity": round(float(similarity), 6)})
        return listed

    def outliers(self, around: neighbourhood.Neighbourhood, count: int) -> list[dict[str, Any]]:
        pairs = zip(around.lonely[: min(count, _MOST_LISTED)], around.nearness, strict=False)
        return [
            {**self._item(place), "similarity": round(float(value), 6)} for place, value in pairs
        ]

    def _item(self, place: int) -> dict[str, Any]:
        row = int(self.rows[place])
        return {
            "row": row,
            "name": "",  # see named()
            "label": self.predictions.classes[int(self.labels[place])],
        }


def _write(output: Path, listed: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One CSV of each kind; safe to open with a spreadsheet."""
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, entries in listed.items():
        path = output / f"{kind}.csv"
        if not entries:
            path.unlink(missing_ok=True)  # of an earlier audit
            continue
        columns = [name for name in entries[0] if not name.endswith("row")]
        with (
            files.atomic(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            table = csv.writer(file)
            table.writerow(["rank", *columns])
            for rank, entry in enumerate(entries, 1):
                values = (entry[name] for name in columns)
                table.writerow([rank, *(cell(v) if isinstance(v, str) else v for v in values)])
        written.append(str(path))
    return written


def _draw(
    predictions: Predictions,
    listed: dict[str, list[dict[str, Any]]],
    config: AuditConfig,
    output: Path,
) -> tuple[list[str], str | None, list[dict[str, str]]]:
    """Sheets of the first of each kind: paths, why there are none, what could not be drawn."""
    catalogue = catalogues.find(predictions, config.catalog)
    if isinstance(catalogue, str):
        return [], catalogue, []
    failed: dict[str, str] = {}
    written = []

    def shown(name: str, row: int, *lines: str) -> Shown:
        data = catalogue.read(row)
        if isinstance(data, str):
            failed[name] = data
        return Shown(data=data, lines=(*lines, name))

    def cells(kind: str, entries: Sequence[dict[str, Any]]) -> Iterable[Shown]:
        for rank, e in enumerate(entries, 1):
            if kind == "suspects":
                seems = f"seems {e['suggested']} {e['suggested_probability']:.2f}"
                yield shown(e["name"], e["row"], f"{rank}. {e['label']}", seems)
            elif kind == "outliers":
                yield shown(e["name"], e["row"], f"{rank}. {e['label']}", f"{e['similarity']:.3f}")
            else:
                like = f"{e['similarity']:.4f}"
                yield shown(e["name"], e["row"], f"{rank}. {e['label']}", like)
                yield shown(e["twin"], e["twin_row"], f"{rank}. {e['twin_label']}", like)

    titles = {
        "suspects": ("Labels that the images contradict", "the most doubtful first"),
        "twins": ("Twins with different labels", "pairs side by side, the most similar first"),
        "outliers": ("Items that nothing is like", "similarity to the tenth nearest, lowest first"),
    }
    try:
        for kind, entries in listed.items():
            path = output / f"{kind}.png"
            if not entries:
                path.unlink(missing_ok=True)
                continue
            title, about = titles[kind]
            first = entries[: config.most]
            rows = (e[name] for e in first for name in ("row", "twin_row") if name in e)
            catalogue.expect(rows)
            of = f"{about}; {len(first):,} of {len(entries):,}, {predictions.path.name}"
            png.save(path, sheet(list(cells(kind, first)), title, of), title)
            written.append(str(path))
    finally:
        catalogue.close()
    return written, None, [{"name": name, "reason": reason} for name, reason in failed.items()]
