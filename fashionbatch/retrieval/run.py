"""Finds the neighbours of images in a prediction file, and draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fashionbatch.config import SearchConfig
from fashionbatch.drawing import catalogue as catalogues
from fashionbatch.drawing import png
from fashionbatch.drawing.catalogue import Catalogue
from fashionbatch.drawing.shown import Shown
from fashionbatch.errors import SourceError
from fashionbatch.retrieval import query as queries
from fashionbatch.retrieval import sheet
from fashionbatch.retrieval.neighbours import Nearest, nearest
from fashionbatch.retrieval.query import Query
from fashionbatch.store.reader import Predictions

Tell = Callable[[str, dict[str, Any]], None]


def search(
    predictions: Predictions,
    images: Sequence[str],
    find_model: Callable[[], Path],
    config: SearchConfig,
    output: Path,
    tell: Tell,
) -> dict[str, Any]:
    """Finds the rows that are most like each of some images.

    Args:
        predictions: the file.
        images: image files, or names of rows.
        find_model: gives the run whose model made the file; asked if there is an image file.
        config: of the job.
        output: folder for the contact sheets.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.

    Returns:
        ``{"predictions", "layer", "queries", "no_sheet", "failed"}``. A query has ``name``, ``row``
        (or ``None``), ``sheet`` (or ``None``) and ``neighbours``: each with ``rank``, ``row``,
        ``similarity``, ``name``, ``label``, ``class`` and ``probability``. ``no_sheet`` says why
        none was drawn; ``failed`` lists ``name`` and ``reason`` of images that could not be used
        or drawn.

    Raises:
        UsageError: there is no such image or row, or there are no features.
        SourceError: none of the images can be used.
    """
    layer = predictions.features(config.features).name.removeprefix("features/")
    asked, failed = _queries(predictions, images, find_model, config, layer)
    tell("start", {"items": len(predictions)})
    found = nearest(
        predictions.features(layer),
        np.stack([query.features for query in asked]),
        config.k,
        without=[query.row for query in asked],
        advance=lambda rows: tell("progress", {"items": rows}),
    )
    told = [_told(predictions, query, best) for query, best in zip(asked, found, strict=True)]
    no_sheet = None
    if config.sheet:
        catalogue = catalogues.find(predictions, config.catalog)
        if isinstance(catalogue, str):
            no_sheet = catalogue
        else:
            about = f"{layer} features, {len(predictions):,} rows of {predictions.path.name}"
            failed += _draw(catalogue, asked, told, about, output)
    return {
        "predictions": str(predictions.path),
        "layer": layer,
        "queries": told,
        "no_sheet": no_sheet,
        "failed": failed,
    }


def _queries(
    predictions: Predictions,
    images: Sequence[str],
    find_model: Callable[[], Path],
    config: SearchConfig,
    layer: str,
) -> tuple[list[Query], list[dict[str, str]]]:
    paths = [image for image in images if queries.is_file(image, predictions)]
    rows = {i: queries.of_row(predictions, i, layer) for i in images if i not in paths}
    computed = iter(queries.of_files(paths, find_model(), layer, config.device) if paths else ())
    made = [rows[image] if image in rows else next(computed) for image in images]
    asked = [query for query in made if isinstance(query, Query)]
    failed = [query for query in made if not isinstance(query, Query)]
    if not asked:
        raise SourceError(f"{failed[0]['name']} cannot be used ({failed[0]['reason']})")
    return asked, failed


def _told(predictions: Predictions, query: Query, best: Nearest) -> dict[str, Any]:
    neighbours = []
    pairs = zip(best.rows.tolist(), best.similarities.tolist(), strict=True)
    for rank, (number, similarity) in enumerate(pairs, 1):
        row = predictions[number]
        neighbours.append(
            {
                "rank": rank,
                "row": number,
                "similarity": round(similarity, 6),
                "name": row.name,
                "label": row.label,
                "class": row.classes[0] if row.classes else None,
                "probability": round(float(row.probabilities[0]), 6) if row.classes else None,
            }
        )
    return {"name": query.name, "row": query.row, "sheet": None, "neighbours": neighbours}


def _draw(
    catalogue: Catalogue,
    asked: Sequence[Query],
    told: Sequence[dict[str, Any]],
    about: str,
    output: Path,
) -> list[dict[str, str]]:
    """Draws a sheet of each query; returns what could not be drawn."""
    undrawn: dict[str, str] = {}
    taken: set[str] = set()
    output.mkdir(parents=True, exist_ok=True)

    def shown(name: str, row: int, lines: tuple[str, ...]) -> Shown:
        data = catalogue.read(row)
        if isinstance(data, str):
            undrawn[name] = data
        return Shown(data=data, lines=lines)

    try:
        for query, entry in zip(asked, told, strict=True):
            own = ("looked for", query.name)
            rows = [n["row"] for n in entry["neighbours"][: sheet.MOST]]
            catalogue.expect(rows if query.row is None else [query.row, *rows])
            if query.row is not None:
                first = shown(query.name, query.row, own)
            else:
                first = Shown(data=query.data, lines=own)
            found = entry["neighbours"][: sheet.MOST]
            drawn = [
                shown(n["name"], n["row"], (f"{n['rank']}.  {n['similarity']:.3f}", *_words(n)))
                for n in found
            ]
            count = f"the {len(drawn)} nearest" if len(drawn) != 1 else "the nearest"
            page = sheet.draw(first, drawn, query.name, f"{count} by cosine similarity of {about}")
            path = png.free_path(output, query.name, taken)
            png.save(path, page, query.name)
            entry["sheet"] = str(path)
    finally:
        catalogue.close()
    return [{"name": name, "reason": reason} for name, reason in undrawn.items()]


def _words(neighbour: dict[str, Any]) -> tuple[str, ...]:
    if neighbour["class"] is None:
        return (neighbour["name"],)
    return neighbour["name"], f"{neighbour['class']} {neighbour['probability']:.2f}"
