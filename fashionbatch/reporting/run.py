"""Makes the report of a prediction file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch import files
from fashionbatch.address import Location
from fashionbatch.config import AuditConfig, EvaluateConfig, ReportConfig
from fashionbatch.drawing import catalogue as catalogues
from fashionbatch.drawing.catalogue import Catalogue
from fashionbatch.errors import (
    FashionbatchError,
    OutputExistsError,
    StoreError,
    UsageError,
    counted,
)
from fashionbatch.evaluation import run as evaluation
from fashionbatch.evaluation import truth
from fashionbatch.evaluation.audit import run as auditing
from fashionbatch.evaluation.audit.run import Findings
from fashionbatch.explanation.base import Visualizer
from fashionbatch.explanation.heated import HeatVisualizer
from fashionbatch.explanation.run import load
from fashionbatch.models import card as cards
from fashionbatch.reporting import about, chapters, page, pictures
from fashionbatch.reporting import items as chosen
from fashionbatch.reporting.embedding import embed
from fashionbatch.reporting.items import Rows
from fashionbatch.store.answers import Answers, answers_of, names_of
from fashionbatch.store.reader import Predictions, open_predictions

#: failures that are listed
_FAILURES = 500
_FEWEST_POINTS = 3

Tell = Callable[[str, dict[str, Any]], None]


def report(
    path: Path,
    config: ReportConfig,
    output: Path,
    run: Path | None,
    visualizer: Visualizer,
    tell: Tell,
    *,
    drawn_by: Mapping[str, str],
    called: Location | None = None,
) -> dict[str, Any]:
    """Writes one HTML file that shows what is in a prediction file.

    Args:
        path: of the prediction file.
        config: of the job.
        output: the HTML file; it may replace another report.
        run: folder of the model, for curves and heat maps; ``None`` where it is not known.
        visualizer: draws the heat maps.
        tell: gets ``("stage", {"name", "items"})`` and ``("progress", {"items"})``.
        drawn_by: name, provider and version of the visualizer.
        called: what the run is called: its address, where ``run`` is a copy.

    Returns:
        ``{"output", "bytes", "items", "listed", "thumbnails", "heatmaps", "notes"}``; ``notes`` say
        what the report leaves out, and why.

    Raises:
        UsageError: the visualizer makes no heat maps.
        OutputExistsError: something else than a report is there.
    """
    _check(output)
    if config.heatmaps and not isinstance(visualizer, HeatVisualizer):
        raise UsageError(f"--heatmap {config.heatmap}: it makes no heat maps, as grad-cam does")
    with open_predictions(path) as predictions:
        made = _Report(predictions, config, run, tell, called or run)
        data = made.data(visualizer)
        if data["heatmaps"]:
            data["about"].append(["Heat maps", about.versioned(drawn_by)])
        title = data["title"]
        text = page.render(title, data)
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write(output, text)
    return {
        "output": str(output),
        "bytes": output.stat().st_size,
        "items": len(made.answers) + made.failed,
        "listed": len(data["items"]["name"]),
        "thumbnails": len(data["thumbnails"]),
        "heatmaps": len(data["heatmaps"]),
        "notes": made.notes,
    }


def _check(output: Path) -> None:
    """Lets a report be replaced, and nothing else."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder: name a file such as report.html with -o")
    try:
        with output.open(encoding="utf-8", errors="replace") as file:
            begins = file.read(len(page.MARK))
    except FileNotFoundError:
        return
    if begins != page.MARK:
        raise OutputExistsError(f"{output} exists, and is no report: choose another -o")


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Small pictures by row, and why there is none."""

    thumbnails: dict[int, str]
    heatmaps: dict[int, str]
    failed: dict[int, str]


class _Report:
    def __init__(
        self,
        predictions: Predictions,
        config: ReportConfig,
        run: Path | None,
        tell: Tell,
        called: Location | None,
    ) -> None:
        self.called = called
        self.predictions, self.config, self.run, self.tell = predictions, config, run, tell
        self.notes: list[str] = []
        self.labels = self._labels()
        self.answers: Answers = answers_of(predictions, self.labels)
        self.failed = len(predictions.failures)

    def data(self, visualizer: Visualizer) -> dict[str, Any]:
        """All that the page shows, as JSON values."""
        predictions, config = self.predictions, self.config
        card = cards.load_card(self.run) if self.run is not None else None
        if card is None:
            self.notes.append(
                "The run that made the file was not found, so there are no curves and no heat "
                "maps: name it with --model."
            )
        judged = self._evaluation()
        findings = self._audit()
        suspects = [entry["row"] for entry in findings.listed["suspects"]] if findings else []
        doubted = np.array(suspects, np.int64)
        rows = chosen.choose(self.answers, doubted, config.items, config.seed)
        images = self._images(rows, doubted, visualizer)
        places = {int(row): place for place, row in enumerate(rows)}
        of_classes = judged if judged and judged["items"] else None
        matrix, mistakes = chapters.confusion(of_classes) if of_classes else (None, [])
        counts = {
            "items": len(self.answers) + self.failed,
            "predicted": len(self.answers),
            "failed": self.failed,
        }
        listed = self._listed(rows)
        return {
            "title": f"{predictions.path.stem}: what the model answered",
            "subtitle": f"Made on {datetime.now(UTC):%Y-%m-%d} from {predictions.path.name}",
            "figures": chapters.figures(judged, counts),
            "notes": self.notes,
            "about": about.facts(predictions, card, self.run, self.called),
            "history": about.history(self.run, card),
            "classes": list(predictions.classes),
            "histograms": chapters.histograms(self.answers, len(predictions.classes)),
            "perClass": chapters.per_class(of_classes) if of_classes else None,
            "types": of_classes["category_types"] if of_classes else [],
            "confusion": matrix,
            "confused": mistakes,
            "calibration": chapters.trust(of_classes) if of_classes else None,
            "attributes": chapters.attributes(judged) if judged else None,
            "map": self._map(rows, places),
            "items": listed,
            "listed": self._told(len(rows)),
            "thumbnails": {places[row]: uri for row, uri in images.thumbnails.items()},
            "heatmaps": {places[row]: uri for row, uri in images.heatmaps.items()},
            "unpictured": {places[row]: why for row, why in images.failed.items()},
            "audit": chapters.doubts(findings, places) if findings else None,
            "failed": {
                "total": self.failed,
                "rows": [
                    {name: each[name] for name in ("name", "stage", "reason")}
                    for each in predictions.failures[:_FAILURES]
                ],
            },
        }

    def _labels(self) -> npt.NDArray[np.int32]:
        named = truth.named(self.config)
        return truth.of(self.predictions, named, self.config).labels

    def _evaluation(self) -> dict[str, Any] | None:
        config = self.config
        known = bool((self.labels >= 0).any())
        if not known and self.predictions.classes:
            self.notes.append(
                "The class of no item is known, so nothing can be called right or wrong: give a "
                "table of them with --labels."
            )
        if not known and not self.predictions.attributes:
            return None
        asked = EvaluateConfig(
            labels=config.labels,
            image_column=config.image_column,
            label_column=config.label_column,
            precision=config.precision,
            seed=config.seed,
        )
        try:
            judged = evaluation.judge(self.predictions, asked)
        except UsageError as error:
            if known:
                raise
            self.notes.append(f"Attributes were not evaluated: {self._line(error)}.")
            return None
        if judged["no_attributes"] and self.predictions.attributes:
            self.notes.append(f"Attributes were not evaluated: {judged['no_attributes']}.")
        if judged["trained_on"]:
            self.notes.append(
                f"{counted(judged['trained_on'], 'item')} are of a train split: figures over what "
                "a model has learnt from flatter it."
            )
        for each in judged["foreign"]:
            self.notes.append(
                f"{counted(each['items'], 'item')} labelled {each['label']!r}, which is no class "
                "of the model, count nowhere."
            )
        if judged["items"] and judged["unlabelled"]:
            self.notes.append(
                f"Of {counted(judged['unlabelled'], 'item')} the class is not known; figures are "
                f"over the other {judged['items']:,}."
            )
        return judged

    def _audit(self) -> Findings | None:
        if not self.predictions.layers:
            self.notes.append("The file holds no features: no map, and labels were not audited.")
            return None
        if not self.predictions.classes:
            return None

        def tell(event: str, values: dict[str, Any]) -> None:
            if event == "start":
                self.tell("stage", {"name": "labels", "items": values["items"]})
            else:
                self.tell(event, values)

        asked = AuditConfig(features=self.predictions.layers[0], seed=self.config.seed)
        try:
            return auditing.look(self.predictions, self.labels, asked, tell)
        except (UsageError, StoreError) as error:
            if (self.labels >= 0).any():
                self.notes.append(f"Labels were not audited: {self._line(error)}.")
            return None

    def _images(self, rows: Rows, doubted: Rows, visualizer: Visualizer) -> _Images:
        config = self.config
        catalogue = catalogues.find(self.predictions, config.catalog)
        wanted = chosen.pictured(self.answers, rows, doubted, config.thumbnails)
        if isinstance(catalogue, str):
            self.notes.append(f"No photographs: {catalogue}.")
            return _Images(thumbnails={}, heatmaps={}, failed={})
        try:
            self.tell("stage", {"name": "photographs", "items": len(wanted)})
            made, failed = pictures.thumbnails(catalogue, wanted.tolist(), self._advance)
            warm = self._heatmaps(catalogue, list(made), visualizer)
        finally:
            catalogue.close()
        if failed:
            first = next(iter(failed.values()))
            self.notes.append(f"{counted(len(failed), 'photograph')} cannot be shown ({first}).")
        return _Images(thumbnails=made, heatmaps=warm, failed=failed)

    def _heatmaps(
        self, catalogue: Catalogue, rows: Sequence[int], visualizer: Visualizer
    ) -> dict[int, str]:
        if not self.config.heatmaps:
            return {}
        if self.run is None:
            return {}
        assert isinstance(visualizer, HeatVisualizer)
        rows = rows[: self.config.heatmaps]
        self.tell("stage", {"name": "heat maps", "items": len(rows)})
        explained = load(self.run, self.config.device)
        try:
            return pictures.heatmaps(catalogue, rows, visualizer, explained, self._advance)
        except FashionbatchError as error:  # a network without maps; the rest is worth having
            self.notes.append(f"No heat maps: {self._line(error)}.")
            return {}

    def _line(self, error: Exception) -> str:
        """What an error says, without the folder that the file, or a copy of it, lies in."""
        path = self.predictions.path
        return str(error).replace(str(path), path.name)

    def _advance(self, count: int) -> None:
        self.tell("progress", {"items": count})

    def _map(self, rows: Rows, places: dict[int, int]) -> dict[str, Any] | None:
        if not self.predictions.layers or len(rows) < _FEWEST_POINTS:
            return None
        features = self.predictions.features(self.predictions.layers[0])
        try:
            found = embed(features, rows, self.config.seed)
        except StoreError as error:
            self.notes.append(f"No map: {self._line(error)}.")
            return None
        return {
            "item": [places[int(row)] for row in found.rows],
            "x": [round(float(v), 4) for v in found.places[:, 0]],
            "y": [round(float(v), 4) for v in found.places[:, 1]],
            "method": found.method,
        }

    def _listed(self, rows: Rows) -> dict[str, list[Any]]:
        """The items that can be looked through, column by column; what failed comes last."""
        lost = self.predictions.failures[:_FAILURES]
        return {
            "name": [*names_of(self.predictions, rows), *(each["name"] for each in lost)],
            "label": [*self.answers.labels[rows].tolist(), *([-1] * len(lost))],
            "predicted": [*self.answers.predicted[rows].tolist(), *([-1] * len(lost))],
            "confidence": [
                *(round(float(v), 4) for v in self.answers.confidence[rows]),
                *([0.0] * len(lost)),
            ],
            "reason": [*([None] * len(rows)), *(f"{e['stage']}: {e['reason']}" for e in lost)],
            "attributes": [*chosen.attributes(self.predictions, rows), *([""] * len(lost))],
        }

    def _told(self, listed: int) -> str:
        whole = len(self.answers)
        if not whole:
            return "Nothing could be predicted."
        if listed == whole:
            return f"All {counted(whole, 'item')}."
        return (
            f"{listed:,} of {whole:,} items: half of them those to look at first (doubtful labels, "
            "sure mistakes, unsure answers), half drawn at random."
        )
