"""The jobs, as functions: what a notebook calls and what the command line calls.

Options are the fields of the job's configuration in :mod:`fashionbatch.config`, given as keyword
arguments. Heavy packages are imported when a job starts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fashionbatch import config as configs
from fashionbatch import folders
from fashionbatch import recipe as recipes
from fashionbatch.config import (
    AuditConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    InspectConfig,
    MergeConfig,
    PredictConfig,
    ReportConfig,
    SearchConfig,
    ShardConfig,
    TrainConfig,
)
from fashionbatch.errors import OutputExistsError, UnknownNameError, UsageError
from fashionbatch.fields import make
from fashionbatch.parse import parse_choice, parse_names, parse_split
from fashionbatch.specs import VisualizerSpec

#: gets (event, values) as a job goes on; see the commands for what each job tells
Tell = Callable[[str, dict[str, Any]], None]


def _silent(event: str, values: dict[str, Any]) -> None:
    """Tells nobody."""


def shard(source: str | Path, *, tell: Tell = _silent, **options: Any) -> dict[str, Any]:
    """Packs a catalogue into WebDataset shards with an index.

    Args:
        source: a folder of photographs, a table of them, DeepFashion, IDX files, tar files.
        tell: gets the events of :func:`fashionbatch.shards.write.write`.
        options: the fields of :class:`fashionbatch.config.ShardConfig`, such as ``output``.

    Returns:
        ``{"output", "items", "shards", "failed"}``; what failed is listed in the data set's
        ``failures.jsonl``.

    Raises:
        FashionbatchError: one line that says what cannot be packed and what to do.

    Example:
        >>> fashionbatch.shard("photos/", output="shards/photos")  # doctest: +SKIP
        {'output': 'shards/photos', 'items': 3409, 'shards': 5, 'failed': 0}
    """
    config = make(ShardConfig, _with_paths(options, "output", "root", "class_names"))
    path = Path(source)
    from fashionbatch import registry
    from fashionbatch.pipeline.ingest import Ingest
    from fashionbatch.shards import write
    from fashionbatch.shards.select import Selection
    from fashionbatch.sources import find_source

    ingest = Ingest(
        check=config.check,
        resize=config.resize,
        side=config.resize_side,
        quality=config.quality,
    )
    source_name, source_options = config.source()
    from fashionbatch.sources.base import to_text

    name = to_text(path.resolve().name) or "catalogue"
    output = config.output or folders.SHARDS / (Path(name).stem if path.is_file() else name)
    if output.name in ("", ".."):
        raise UsageError(f"-o {output}: name a folder to make")
    if path.resolve() in output.resolve().parents:
        raise UsageError(
            f"{output} lies inside {path}, and would be packed too the next time: choose an output "
            "outside with -o"
        )
    component = find_source(path, source_name)
    manifest = write.write(
        write.Job(
            source=registry.create(component, path, **source_options),
            output=output.resolve() if output.is_symlink() else output,
            prepare=ingest,
            selection=Selection(**config.selection()),
            split=parse_split(config.split) if config.split else None,
            default_split=parse_split(configs.DEFAULT_SPLIT),
            group_by=config.group_by,
            exclude_label=parse_names(config.exclude_label),
            allow_missing_classes=config.allow_missing_classes,
            allow_new_classes=config.allow_new_classes,
            drop_duplicates=config.drop_duplicates,
            samples_per_shard=config.samples_per_shard,
            workers=config.workers or os.cpu_count() or 1,
            replace=config.exist_ok,
            append=config.append,
            about={
                "name": name,
                "component": component.provenance,
                "options": config.chosen(),
                "pixels": ingest.pixels,
            },
            settings={**ingest.settings, "source": [source_name, repr(source_options)]},
        ),
        tell,
    )
    return {
        "output": str(output),
        "items": manifest.items,
        "shards": len(manifest.shards),
        "failed": manifest.failed,
    }


def verify(path: str | Path, *, workers: int | None = None, tell: Tell = _silent) -> dict[str, Any]:
    """Checks every byte of a data set, or of tar files made elsewhere.

    Args:
        path: a folder made by ``shard``, or of tar files; or a tar file.
        workers: shards that are read at the same time; as many as cores by default.
        tell: gets ``("start", {"bytes"})``, then ``("progress", {"bytes"})`` after each shard.

    Returns:
        ``{"path", "items", "shards", "bytes", "ok", "findings"}``; ``ok`` where nothing is damaged,
        a finding has the fields of :class:`fashionbatch.shards.verification.findings.Finding`.

    Raises:
        FashionbatchError: one line that says why there is nothing to check.

    Example:
        >>> fashionbatch.verify("shards/photos")["ok"]  # doctest: +SKIP
        True
    """
    from fashionbatch.shards.verification import verify as verifying

    report = verifying.verify(Path(path), workers=workers or os.cpu_count() or 1, tell=tell)
    return report.to_json()


def train(
    *,
    tell: Tell = _silent,
    dry_run: bool = False,
    recipe: str | Path | None = None,
    set: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Trains a classifier on a data set.

    Args:
        tell: gets ``("plan", {"run", "config", "plan"})``, then ``("epoch", row)`` and more.
        dry_run: only return the resolved configuration and the plan; nothing is written.
        recipe: how to train: a name, a TOML file, or a run's ``config.toml``.
        set: ``["epochs=3", ...]``, as with ``--set``; goes before all else.
        options: the fields of :class:`fashionbatch.config.TrainConfig`, such as ``data``,
            ``backbone`` or ``epochs``; they go before the recipe.

    Returns:
        ``{"run", "epochs", "best_epoch", "val", "test", "trainable_parameters"}``; the run's
        folder holds model, history, curves and checkpoints. For a dry run
        ``{"run", "config", "plan"}``; its plan has ``activation_bytes``, what the frozen part's
        activations take on the disk, where they are computed once.

    Raises:
        FashionbatchError: one line that says what cannot be trained and what to do.

    Example:
        >>> fashionbatch.train(data="shards/photos", backbone="resnet50")  # doctest: +SKIP
        >>> fashionbatch.train(recipe="table1-3", lr=0.0005, set=["epochs=3"])  # doctest: +SKIP
    """
    if recipe is not None:
        options["recipe"] = str(recipe)
    config = recipes.resolve(_with_paths(options, "data", "output"), set)
    _need_backbone(config)
    data = config.data or folders.find_data()
    from fashionbatch.training import job as jobs
    from fashionbatch.training import run as runs
    from fashionbatch.training.distributed import group as joined

    with joined(config.device) as group:
        tell = tell if group.leads else _silent
        folder = group.told(lambda: folders.run_folder(config, data))
        if config.resume and not group.told(lambda: folders.is_saved(folder)):
            tell("warn", {"text": f"{folder} had saved nothing yet: the training begins anew"})
            config = dataclasses.replace(config, resume=False, exist_ok=True)
        if config.resume and config.freeze_epochs is None:
            config = folders.as_begun(config, folder)
        job = jobs.prepare(config, data, group=group, fetch=not dry_run)
        plan = job.plan()
        if dry_run and job.config.computes_once:
            from fashionbatch.training.feed import activation_bytes

            plan["activation_bytes"] = activation_bytes(job)
        about = {"run": str(folder), "config": job.config.to_json(), "plan": plan}
        tell("plan", about)
        for text in job.doubts():
            tell("warn", {"text": text})
        if dry_run:
            return about
        if config.resume:
            return runs.train(job, folder, tell)
        if not group.leads:
            group.wait()  # for the folder
            return runs.train(job, folder, tell)
        with folders.fresh(folder, replace=config.exist_ok):
            group.wait()
            return runs.train(job, folder, tell)


def _need_backbone(config: TrainConfig) -> None:
    """Says what to install where a recipe's own backbone is not there."""
    if config.recipe is None:
        return
    recipe = recipes.load(config.recipe)
    if recipe.requires and config.backbone == recipe.options.get("backbone"):
        from fashionbatch import registry

        names = [component.spec.name for component in registry.components("backbone")]
        if config.backbone not in names:
            hint = f"--recipe {recipe.name} needs it: {recipe.requires}"
            raise UnknownNameError("backbone", config.backbone, names, hint)


def predict(
    source: str | Path, *, tell: Tell = _silent, dry_run: bool = False, **options: Any
) -> dict[str, Any]:
    """Predicts a folder of images or of shards into one HDF5 file.

    Args:
        source: a folder of images, an image, a data set, or tar files.
        tell: gets ``("start", ...)``, ``("plan", ...)``, ``("progress", {"items"})``,
            ``("failed", ...)`` and others, see :func:`fashionbatch.inference.predict.predict`.
        dry_run: only return the plan; nothing is written.
        options: the fields of :class:`fashionbatch.config.PredictConfig`, such as ``model``.

    Returns:
        ``{"output", "items", "predicted", "failed", "seconds", "images_per_second", "engine",
        "model"}``. For a dry run the plan: ``{"items", "shards", "batches", "bytes", "engine",
        "seconds", ...}``, where ``seconds`` is the time it is going to take.

    Raises:
        FashionbatchError: one line that says what cannot be predicted and what to do.

    Example:
        >>> fashionbatch.predict("catalog/", model="runs/photos-resnet50-1")  # doctest: +SKIP
    """
    config = make(PredictConfig, _with_paths(options, "model", "output"))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set, as torchrun does: a prediction is one "
            "process; start it without torchrun, or unset RANK and WORLD_SIZE"
        )
    path = Path(source)
    run = folders.find_run(config.model)
    from fashionbatch.inference import job as jobs
    from fashionbatch.inference import plan as plans
    from fashionbatch.inference import predict as prediction
    from fashionbatch.inference.output import parts_folder
    from fashionbatch.shards.select import Selection

    named = path.resolve().name.removesuffix(".tar") + (f"-{config.split}" if config.split else "")
    output = config.output or folders.PREDICTIONS / f"{named}-{run.name}.h5"
    # predictions may lie below the catalogue, and are not part of it
    exclude = [output, parts_folder(output), folders.PREDICTIONS]
    plan = plans.make(
        path,
        split=config.split,
        limit=config.limit,
        selection=Selection(**config.selection()),
        exclude=exclude,
    )
    tell("start", {"items": plan.items, "model": str(run), "output": str(output)})
    job = jobs.prepare(plan, run, config, output, tell)
    result = prediction.predict(job, tell, dry_run=dry_run)
    return {**result, "model": str(run)}


def explain(
    visualizer: str, images: Sequence[str | Path] = (), *, tell: Tell = _silent, **options: Any
) -> dict[str, Any]:
    """Draws why a model answers as it does.

    Args:
        visualizer: ``NAME[:k=v,...]``, such as ``grad-cam`` or ``grad-cam:target=dress``.
        images: images, folders, data sets; with ``predictions`` names of its rows, or none for
            those that ``rows`` says. Some visualizers need none.
        tell: gets ``("start", {"model"})``, and ``("picture", {"name", "about"})`` of each.
        options: the fields of :class:`fashionbatch.config.ExplainConfig`.

    Returns:
        see :func:`fashionbatch.explanation.run.explain`.

    Raises:
        FashionbatchError: one line that says what cannot be drawn and what to do.
    """
    config = make(ExplainConfig, _with_paths(options, "model", "output", "predictions", "catalog"))
    name, settings = parse_choice(visualizer)
    from fashionbatch import registry

    component = registry.find("visualizer", name)
    assert isinstance(component.spec, VisualizerSpec)
    if component.spec.needs_predictions and config.predictions is None:
        raise UsageError(f"{name} needs a prediction file: name it with --predictions")
    if component.spec.needs_images and not images and config.predictions is None:
        raise UsageError(f"{name} needs images: name some, or folders or data sets of them")
    from fashionbatch.explanation import run as explaining

    run = _model_of(config)
    tell("start", {"model": str(run)})
    made = registry.create(component, **settings)
    return explaining.explain(
        made,
        visualizer,
        [os.fspath(image) for image in images],
        run,
        config,
        tell,
        provider=f"{component.provider} {component.version}",
        all_rows=component.spec.needs_images,
    )


def _model_of(config: ExplainConfig) -> Path:
    """The run to explain: the one that made the predictions, or as named, or the newest."""
    if config.predictions is None:
        return folders.find_run(config.model)
    from fashionbatch.store.reader import open_predictions

    with open_predictions(config.predictions) as opened:
        return folders.find_run_of(str(opened.model.get("sha256")), config.model)


def inspect(data: str | Path, **options: Any) -> dict[str, Any]:
    """Counts what a data set holds and draws pictures of it.

    Args:
        data: a data set, or tar files.
        options: the fields of :class:`fashionbatch.config.InspectConfig`, such as ``split``.

    Returns:
        see :func:`fashionbatch.inspection.run.inspect`.

    Raises:
        FashionbatchError: one line that says what cannot be inspected and what to do.

    Example:
        >>> fashionbatch.inspect("shards/photos")["imbalance"]["ratio"]  # doctest: +SKIP
        5.219
    """
    config = make(InspectConfig, _with_paths(options, "output"))
    path = Path(data)
    from fashionbatch.inspection import run as inspecting

    output = config.output or folders.INSPECTION / path.resolve().name.removesuffix(".tar")
    return inspecting.inspect(path, config, output)


def export(predictions: str | Path, *, tell: Tell = _silent, **options: Any) -> dict[str, Any]:
    """Writes a prediction file as CSV, Parquet or NPZ.

    Args:
        predictions: the prediction file.
        tell: gets ``("start", {"items"})`` and ``("progress", {"items"})``.
        options: the fields of :class:`fashionbatch.config.ExportConfig`, such as ``to``.

    Returns:
        ``{"output", "format", "predicted", "failed"}``.

    Raises:
        FashionbatchError: one line that says what cannot be exported and what to do.

    Example:
        >>> fashionbatch.export("predictions/catalog.h5", to="parquet")  # doctest: +SKIP
    """
    config = make(ExportConfig, _with_paths(options, "output"))
    from fashionbatch.store import export as exporting

    return exporting.export(Path(predictions), config, tell)


def evaluate(predictions: str | Path, **options: Any) -> dict[str, Any]:
    """Counts what is right in a prediction file.

    Args:
        predictions: the prediction file.
        options: the fields of :class:`fashionbatch.config.EvaluateConfig`, such as ``labels``.

    Returns:
        see :func:`fashionbatch.evaluation.run.evaluate`.

    Raises:
        FashionbatchError: one line that says what cannot be evaluated and what to do.

    Example:
        >>> fashionbatch.evaluate("predictions/photos-val.h5")["top1"]  # doctest: +SKIP
        0.906
    """
    config = make(EvaluateConfig, _with_paths(options, "labels", "against", "model"))
    from fashionbatch.evaluation import run as evaluation

    return evaluation.evaluate(
        Path(predictions), config, lambda sha256: folders.find_run_of(sha256, config.model)
    )


def audit(predictions: str | Path, *, tell: Tell = _silent, **options: Any) -> dict[str, Any]:
    """Ranks the items of a prediction file whose label is doubtful.

    Args:
        predictions: the prediction file, with features.
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
    config = make(AuditConfig, _with_paths(options, "labels", "catalog", "output"))
    path = Path(predictions)
    from fashionbatch.evaluation.audit import run as auditing

    return auditing.audit(path, config, config.output or folders.AUDIT / path.stem, tell)


def report(source: str | Path, *, tell: Tell = _silent, **options: Any) -> dict[str, Any]:
    """Writes one HTML file that shows what a model answered, for people who do not know the code.

    Args:
        source: a prediction file, or a run: then its validation images are predicted first, into
            ``.report-val.h5`` in its folder.
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
    config = make(ReportConfig, _with_paths(options, "model", "catalog", "labels", "output"))
    path = Path(source)
    run = folders.run_at(path)
    if run is not None:
        if config.model is not None:
            raise UsageError(f"{path} is a run: leave --model out, or name a prediction file")
        path = _predicted(run, config, tell)
    from fashionbatch import registry
    from fashionbatch.reporting import run as reporting
    from fashionbatch.store.reader import open_predictions

    name, settings = parse_choice(config.heatmap)
    component = registry.find("visualizer", name)
    visualizer = registry.create(component, **settings)
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
    drawn_by = component.provenance
    return reporting.report(path, config, output, run, visualizer, tell, drawn_by=drawn_by)


def _predicted(run: Path, config: ReportConfig, tell: Tell) -> Path:
    """The predictions of a run's validation images, made now or by an earlier report."""
    from fashionbatch.models.card import load_card

    data = config.catalog or load_card(run).lineage.get("data")
    if data is None or not Path(data).exists():
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


def merge(
    predictions: Sequence[str | Path], *, tell: Tell = _silent, **options: Any
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
    config = make(MergeConfig, _with_paths(options, "output"))
    from fashionbatch.store import combine

    return combine.combine([Path(p) for p in predictions], config, tell)


def search(
    predictions: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    tell: Tell = _silent,
    **options: Any,
) -> dict[str, Any]:
    """Finds the images of a prediction file that are most like some images.

    Args:
        predictions: the prediction file, with features.
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
    config = make(SearchConfig, _with_paths(options, "model", "catalog", "output"))
    path = Path(predictions)
    from fashionbatch.retrieval import run as retrieval
    from fashionbatch.store.reader import open_predictions

    asked = [images] if isinstance(images, str | Path) else images
    output = config.output or folders.SEARCH / path.stem
    with open_predictions(path) as opened:
        return retrieval.search(
            opened,
            [os.fspath(image) for image in asked],
            lambda: folders.find_run_of(opened.model["sha256"], config.model),
            config,
            output,
            tell,
        )


def _with_paths(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Strings become paths where the configuration has paths, lists become tuples."""
    made = {k: Path(v) if k in names and isinstance(v, str) else v for k, v in options.items()}
    lists = ("classes", "category_type", "exclude_label", "regularizer", "opt_kwargs", "logger")
    return {
        k: (v,) if k in lists and isinstance(v, str) else tuple(v) if isinstance(v, list) else v
        for k, v in made.items()
    }
