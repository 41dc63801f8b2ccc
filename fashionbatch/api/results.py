"""What to do with prediction files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fashionbatch import folders
from fashionbatch.address import Address, Location, located
from fashionbatch.api.telling import Tell, silent
from fashionbatch.config import AuditConfig, EvaluateConfig, ExportConfig, MergeConfig, SearchConfig
from fashionbatch.errors import UsageError
from fashionbatch.fields import make


def export(predictions: str | Location, *, tell: Tell = silent, **options: Any) -> dict[str, Any]:
    """Writes a prediction file as CSV, Parquet or NPZ.

    Args:
        predictions: the prediction file, or its address.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.
        options: the fields of :class:`fashionbatch.config.ExportConfig`, such as ``to``.

    Returns:
        ``{"output", "format", "predicted", "failed"}``.

    Raises:
        FashionbatchError: one line that says what cannot be exported and what to do.

    Example:
        >>> fashionbatch.export("predictions/catalog.h5", to="parquet")  # doctest: +SKIP
    """
    config = make(ExportConfig, options)
    from fashionbatch.store import export as exporting
    from fashionbatch.store.copy import copied

    where = located(predictions)
    if isinstance(where, Address) and config.output is None:
        raise UsageError(f"{where} lies elsewhere: name a file of this disk to make with -o")
    with copied(where) as path:
        return exporting.export(path, config, tell)


def merge(
    predictions: Sequence[str | Location], *, tell: Tell = silent, **options: Any
) -> dict[str, Any]:
    """Makes one prediction file of several, of one model and configuration.

    Args:
        predictions: the files; their rows follow each other in this order.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.
        options: the fields of :class:`fashionbatch.config.MergeConfig`, such as ``output``.

    Returns:
        ``{"output", "files", "items", "predicted", "failed", "duplicates"}``.

    Raises:
        FashionbatchError: one line that says what does not fit together and what to do.

    Example:
        >>> fashionbatch.merge(["a.h5", "b.h5"], output="all.h5")  # doctest: +SKIP
    """
    config = make(MergeConfig, options)
    from fashionbatch.store import combine
    from fashionbatch.store.copy import here

    return combine.combine([here(p) for p in predictions], config, tell)


def search(
    predictions: str | Location,
    images: str | Path | Sequence[str | Path],
    *,
    tell: Tell = silent,
    **options: Any,
) -> dict[str, Any]:
    """Finds the images of a prediction file that are most like some images.

    Args:
        predictions: the prediction file, or its address, with features.
        images: image files, or names of rows; a file goes before a row of that name.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.
        options: the fields of :class:`fashionbatch.config.SearchConfig`, such as ``k``.

    Returns:
        see :func:`fashionbatch.retrieval.run.search`.

    Raises:
        FashionbatchError: one line that says what cannot be found and what to do.

    Example:
        >>> found = fashionbatch.search("predictions/catalog.h5", "dress/1.jpg")  # doctest: +SKIP
        >>> found["queries"][0]["neighbours"][0]["name"]  # doctest: +SKIP
        'dress/7.jpg'
    """
    config = make(SearchConfig, options)
    from fashionbatch.retrieval import run as retrieval
    from fashionbatch.store.copy import copied
    from fashionbatch.store.reader import open_predictions

    asked = [images] if isinstance(images, str | Path) else images
    with copied(predictions) as path, open_predictions(path) as opened:
        found = retrieval.search(
            opened,
            [os.fspath(image) for image in asked],
            lambda: folders.find_run_of(opened.model["sha256"], config.model),
            config,
            config.output or folders.SEARCH / path.stem,
            tell,
        )
    return {**found, "predictions": str(located(predictions))}


def evaluate(predictions: str | Location, **options: Any) -> dict[str, Any]:
    """Counts what is right in a prediction file.

    Args:
        predictions: the prediction file, or its address.
        options: the fields of :class:`fashionbatch.config.EvaluateConfig`, such as ``labels``.

    Returns:
        see :func:`fashionbatch.evaluation.run.evaluate`.

    Raises:
        FashionbatchError: one line that says what cannot be evaluated and what to do.

    Example:
        >>> fashionbatch.evaluate("predictions/photos-val.h5")["top1"]  # doctest: +SKIP
        0.906
    """
    config = make(EvaluateConfig, options)
    from fashionbatch.evaluation import run as evaluation
    from fashionbatch.store.copy import copied

    with copied(predictions) as path:
        found = evaluation.evaluate(
            path, config, lambda sha256: folders.find_run_of(sha256, config.model)
        )
    return {**found, "predictions": str(located(predictions))}


def audit(predictions: str | Location, *, tell: Tell = silent, **options: Any) -> dict[str, Any]:
    """Ranks the items of a prediction file whose label is doubtful.

    Args:
        predictions: the prediction file, or its address, with features.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.
        options: the fields of :class:`fashionbatch.config.AuditConfig`, such as ``labels``.

    Returns:
        see :func:`fashionbatch.evaluation.audit.run.audit`.

    Raises:
        FashionbatchError: one line that says what cannot be audited and what to do.

    Example:
        >>> found = fashionbatch.audit("predictions/photos.h5")  # doctest: +SKIP
        >>> found["suspects"][0]["name"], found["suspects"][0]["suggested"]  # doctest: +SKIP
        ('dress/7.jpg', 'skirt')
    """
    config = make(AuditConfig, options)
    from fashionbatch.evaluation.audit import run as auditing
    from fashionbatch.store.copy import copied

    with copied(predictions) as path:
        found = auditing.audit(path, config, config.output or folders.AUDIT / path.stem, tell)
    return {**found, "predictions": str(located(predictions))}
