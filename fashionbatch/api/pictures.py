"""Pictures of why, and the page that shows all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fashionbatch import folders
from fashionbatch.address import Address, Location, located
from fashionbatch.api.inference import predict
from fashionbatch.api.telling import Tell, silent
from fashionbatch.config import ExplainConfig, ReportConfig
from fashionbatch.errors import OutputExistsError, UsageError
from fashionbatch.fields import make
from fashionbatch.parse import parse_choice
from fashionbatch.specs import VisualizerSpec


def explain(
    visualizer: str, images: Sequence[str | Location] = (), *, tell: Tell = silent, **options: Any
) -> dict[str, Any]:
    """Draws why a model answers as it does.

    Args:
        visualizer: ``NAME[:k=v,...]``, such as ``grad-cam`` or ``grad-cam:target=dress``.
        images: images, folders, data sets, or addresses of images or data sets; with
            ``predictions`` names of its rows, or none for those that ``rows`` says. Some
            visualizers need none.
        tell: gets ``("start", {"of"})`` with the path of the model, or else of the predictions,
            and ``("picture", {"name", "about"})`` of each.
        options: the fields of :class:`fashionbatch.config.ExplainConfig`.

    Returns:
        see :func:`fashionbatch.explanation.run.explain`.

    Raises:
        FashionbatchError: one line that says what cannot be drawn and what to do.
    """
    config = make(ExplainConfig, options)
    name, settings = parse_choice(visualizer)
    from fashionbatch import registry

    component = registry.find("visualizer", name)
    assert isinstance(component.spec, VisualizerSpec)
    if component.spec.needs_predictions and config.predictions is None:
        raise UsageError(f"{name} needs a prediction file: name it with --predictions")
    if component.spec.needs_images and not images and config.predictions is None:
        raise UsageError(f"{name} needs images: name some, or folders or data sets of them")
    from fashionbatch.explanation import run as explaining

    run = _run_of(config, needed=component.spec.needs_model)
    tell("start", {"of": str(run or config.predictions)})
    made = registry.create(component, **settings)
    return explaining.explain(
        made,
        visualizer,
        [image.url if isinstance(image, Address) else str(image) for image in images],
        run,
        config,
        tell,
        provider=f"{component.provider} {component.version}",
        all_rows=component.spec.needs_images,
        needs_model=component.spec.needs_model,
    )


def _run_of(config: ExplainConfig, *, needed: bool) -> Path | None:
    """The run to explain: the one that made the predictions, or as named, or the newest; ``None``
    where predictions are named that will do without it."""
    if config.predictions is None:
        return folders.find_run(config.model)
    if config.model is None and not needed:
        return None
    from fashionbatch.store.copy import copied
    from fashionbatch.store.reader import open_predictions

    with copied(config.predictions) as path, open_predictions(path) as opened:
        return folders.find_run_of(str(opened.model.get("sha256")), config.model)


def report(source: str | Location, *, tell: Tell = silent, **options: Any) -> dict[str, Any]:
    """Writes one HTML file that shows what a model answered, for people who do not know the code.

    Args:
        source: a prediction file, or a run, or the address of either: of a run, its validation
            images are predicted first, into ``.report-val.h5`` in its folder (in the cache, of one
            at an address).
        tell: gets ``("stage", {"name", "items"})`` and ``("progress", {"items"})``, and what
            :func:`predict` tells.
        options: the fields of :class:`fashionbatch.config.ReportConfig`, such as ``output``.

    Returns:
        see :func:`fashionbatch.reporting.run.report`.

    Raises:
        FashionbatchError: one line that says what cannot be reported and what to do.

    Example:
        >>> fashionbatch.report("predictions/photos-val.h5")["output"]  # doctest: +SKIP
        'reports/photos-val.html'
    """
    config = make(ReportConfig, options)
    where = located(source)
    run = folders.run_at(where)
    called = where if run is not None else config.model
    if run is not None:
        if config.model is not None:
            raise UsageError(f"{where} is a run: leave --model out, or name a prediction file")
        where = _predicted(run, config, tell)
    from fashionbatch import registry
    from fashionbatch.reporting import run as reporting
    from fashionbatch.store.copy import copied
    from fashionbatch.store.reader import open_predictions

    name, settings = parse_choice(config.heatmap)
    component = registry.find("visualizer", name)
    visualizer = registry.create(component, **settings)
    with copied(where) as path:
        with open_predictions(path) as opened:
            sha256 = str(opened.model.get("sha256"))
        if run is None:
            try:
                run = folders.find_run_of(sha256, config.model)
            except UsageError:
                if config.model is not None:
                    raise
        stem = run.name if run is not None and path.parent == run else path.stem
        output = config.output or folders.REPORTS / f"{stem}.html"
        return reporting.report(
            path,
            config,
            output,
            run,
            visualizer,
            tell,
            drawn_by=component.provenance,
            called=called if isinstance(called, Address) else run,
        )


def _predicted(run: Path, config: ReportConfig, tell: Tell) -> Path:
    """The predictions of a run's validation images, made now or by an earlier report."""
    from fashionbatch.models.card import load_card

    data = config.catalog or load_card(run).lineage.get("data")
    if data is None or not (isinstance(data, Address) or Path(data).exists()):
        raise UsageError(
            f"{run} was trained on {data}, which is not there: name it with --catalog, or report "
            "a prediction file"
        )
    output = run / ".report-val.h5"  # ours alone: what users made is never replaced
    options: dict[str, Any] = {
        "model": run,
        "split": "val",
        "probabilities": True,
        "output": output,
        "device": config.device,
        "tell": tell,
    }
    try:
        predict(data, **options)
    except OutputExistsError:  # made before something was changed: it is made anew
        predict(data, **options, restart=True)
    return output
