"""The jobs, as functions: what a notebook calls and what the command line calls.

Options are the fields of the job's configuration in :mod:`fashionbatch.config`, given as keyword
arguments. Heavy packages are imported when a job starts.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fashionbatch import config as configs
from fashionbatch import recipe as recipes
from fashionbatch.config import (
    ExplainConfig,
    InspectConfig,
    PredictConfig,
    ShardConfig,
    TrainConfig,
)
from fashionbatch.errors import OutputExistsError, UnknownNameError, UsageError
from fashionbatch.fields import make
from fashionbatch.parse import parse_choice, parse_names, parse_split

SHARDS = Path("shards")
RUNS = Path("runs")
PREDICTIONS = Path("predictions")
INSPECTION = Path("inspection")

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
    from fashionbatch.pipeline.ingest import Ingest
    from fashionbatch.shards import write
    from fashionbatch.shards.select import Selection
    from fashionbatch.sources import open_source

    ingest = Ingest(
        check=config.check,
        resize=config.resize,
        side=config.resize_side,
        quality=config.quality,
    )
    source_name, source_options = config.source()
    from fashionbatch.sources.base import to_text

    name = to_text(path.resolve().name) or "catalogue"
    output = config.output or SHARDS / (Path(name).stem if path.is_file() else name)
    if output.name in ("", ".."):
        raise UsageError(f"-o {output}: name a folder to make")
    if path.resolve() in output.resolve().parents:
        raise UsageError(
            f"{output} lies inside {path}, and would be packed too the next time: choose an output "
            "outside with -o"
        )
    manifest = write.write(
        write.Job(
            source=open_source(path, source_name, **source_options),
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
            about={"name": name, "options": config.chosen(), "pixels": ingest.pixels},
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
        ``{"run", "config", "plan"}``.

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
    data = config.data or find_data()
    from fashionbatch.training import job as jobs
    from fashionbatch.training import run as runs
    from fashionbatch.training.distributed import group as joined

    with joined(config.device) as group:
        tell = tell if group.leads else _silent
        folder = group.told(lambda: _run_folder(config, data))
        if config.resume and config.freeze_epochs is None:
            config = _as_begun(config, folder)
        job = jobs.prepare(config, data, group=group, fetch=not dry_run)
        about = {"run": str(folder), "config": job.config.to_json(), "plan": job.plan()}
        tell("plan", about)
        if dry_run:
            return about
        if config.resume:
            return runs.train(job, folder, tell)
        if not group.leads:
            group.wait()  # for the folder
            return runs.train(job, folder, tell)
        with _fresh(folder, replace=config.exist_ok):
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


def _as_begun(config: TrainConfig, folder: Path) -> TrainConfig:
    """With the one default that depends on the epochs, which a resumed run may have more of."""
    try:
        begun = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return config  # told when it is compared
    return dataclasses.replace(config, freeze_epochs=begun.get("freeze_epochs"))


@contextmanager
def _fresh(folder: Path, *, replace: bool) -> Iterator[None]:
    """Makes the run's folder.

    The run that it replaces is deleted when the new one is done, or has a checkpoint to go on from.
    """
    old = folder.with_name(f".{folder.name}.old")
    if replace and folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise OutputExistsError(
            f"{folder} was made by another training just now: run the command again"
        ) from None
    try:
        yield
    except BaseException:
        if not any(folder.glob("checkpoints/*")):  # nothing that could be gone on with
            shutil.rmtree(folder, ignore_errors=True)
            if old.exists():
                old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def predict(source: str | Path, *, tell: Tell = _silent, **options: Any) -> dict[str, Any]:
    """Predicts a folder of images or of shards into one HDF5 file.

    Args:
        source: a folder of images, an image, a data set, or tar files.
        tell: gets ``("start", ...)``, ``("progress", {"items"})``, ``("failed", ...)``.
        options: the fields of :class:`fashionbatch.config.PredictConfig`, such as ``model``.

    Returns:
        ``{"output", "items", "predicted", "failed", "seconds", "images_per_second", "engine",
        "model"}``.

    Raises:
        FashionbatchError: one line that says what cannot be predicted and what to do.

    Example:
        >>> fashionbatch.predict("catalog/", model="runs/photos-resnet50-1")  # doctest: +SKIP
    """
    config = make(PredictConfig, _with_paths(options, "model", "output"))
    path = Path(source)
    run = find_run(config.model)
    from fashionbatch.inference import plan as plans
    from fashionbatch.inference import predict as prediction
    from fashionbatch.models import card as cards
    from fashionbatch.shards.select import Selection

    named = path.resolve().name.removesuffix(".tar") + (f"-{config.split}" if config.split else "")
    output = config.output or PREDICTIONS / f"{named}-{run.name}.h5"
    # predictions may lie below the catalogue, and are not part of it
    exclude = [output, output.with_name(f"{output.name}.parts"), PREDICTIONS]
    plan = plans.make(
        path,
        split=config.split,
        limit=config.limit,
        selection=Selection(**config.selection()),
        exclude=exclude,
    )
    model, card = cards.load(run)
    tell("start", {"items": plan.items, "model": str(run), "output": str(output)})
    result = prediction.predict(plan, model, card, config, output, tell)
    return {**result, "model": str(run)}


def explain(
    visualizer: str, images: Sequence[str | Path], *, tell: Tell = _silent, **options: Any
) -> dict[str, Any]:
    """Draws why a model answers as it does.

    Args:
        visualizer: ``NAME[:k=v,...]``, such as ``grad-cam`` or ``grad-cam:target=dress``.
        images: images, folders, data sets.
        tell: gets ``("start", {"model"})``.
        options: the fields of :class:`fashionbatch.config.ExplainConfig`.

    Returns:
        ``{"output", "items", "pictures", "failed", "model"}``.

    Raises:
        FashionbatchError: one line that says what cannot be drawn and what to do.
    """
    config = make(ExplainConfig, _with_paths(options, "model", "output"))
    name, settings = parse_choice(visualizer)
    from fashionbatch import registry

    component = registry.find("visualizer", name)
    run = find_run(config.model)
    tell("start", {"model": str(run)})
    from fashionbatch.explain import run as explaining

    made = registry.create(component, **settings)
    return explaining.explain(made, [Path(p) for p in images], run, config)


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

    output = config.output or INSPECTION / path.resolve().name.removesuffix(".tar")
    return inspecting.inspect(path, config, output)


def data_sets() -> list[Path]:
    """The data sets in ``shards/`` that can be trained on: the user's own, else the samples."""
    from fashionbatch.errors import ShardError
    from fashionbatch.shards.manifest import MANIFEST, Manifest

    own: list[Path] = []
    samples: list[Path] = []
    for path in sorted(SHARDS.glob(f"*/{MANIFEST}")):
        try:
            manifest = Manifest.load(path.parent)
        except ShardError:
            continue  # named when it is asked for
        if manifest.classes:
            (samples if manifest.sample else own).append(path.parent)
    return own or samples


def find_data() -> Path:
    """The data set to train on when none is named.

    Raises:
        UsageError: there is none, or there are several.
    """
    found = data_sets()
    if not found:
        raise UsageError(
            "there is no labelled data set in shards/: make one with `fashionbatch shard FOLDER`, "
            "or name one with --data"
        )
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise UsageError(f"shards/ holds several data sets: choose one with --data ({names})")
    return found[0]


def find_run(model: Path | None) -> Path:
    """The folder of a run: as named, below ``runs/``, or the newest there.

    Raises:
        UsageError: there is none.
    """
    if model is not None:
        for path in (model, RUNS / model):
            if path.is_dir():
                return path
            if path.is_file() and path.name in ("model.safetensors", "model.json"):
                return path.parent
        raise UsageError(f"--model {model}: there is no such run (nor {RUNS / model})")
    finished = list(RUNS.glob("*/model.json"))
    if not finished:
        raise UsageError(
            "runs/ holds no trained model: make one with `fashionbatch train`, "
            "or name one with --model"
        )
    return max(finished, key=lambda path: path.stat().st_mtime_ns).parent


def _run_folder(config: TrainConfig, data: Path) -> Path:
    if config.resume:
        if config.name is None:
            raise UsageError("--resume needs --name: which run is to go on?")
        folder = config.output / config.name
        if not folder.is_dir():
            raise UsageError(f"--resume: {folder} does not exist")
        return folder
    if config.name is None:
        stem = f"{data.resolve().name}-{config.backbone.replace(':', '-')}"
        number = 1
        while (config.output / f"{stem}-{number}").exists():
            number += 1
        return config.output / f"{stem}-{number}"
    folder = config.output / config.name
    if folder.exists() and not config.exist_ok:
        raise OutputExistsError(
            f"{folder} exists: choose another --name, replace it with --exist-ok, "
            "or go on with it with --resume"
        )
    if folder.exists() and not _is_run(folder):
        raise OutputExistsError(f"{folder} holds something else than a run: choose another --name")
    return folder


def _is_run(folder: Path) -> bool:
    """Whether a training made it: nothing else may ever be replaced."""
    if not folder.is_dir():
        return False
    config = folder / "config.toml"
    return not any(folder.iterdir()) or (config.is_file() and "backbone = " in config.read_text())


def _with_paths(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Strings become paths where the configuration has paths, lists become tuples."""
    made = {k: Path(v) if k in names and isinstance(v, str) else v for k, v in options.items()}
    lists = ("classes", "category_type", "exclude_label", "regularizer", "opt_kwargs", "logger")
    return {
        k: (v,) if k in lists and isinstance(v, str) else tuple(v) if isinstance(v, list) else v
        for k, v in made.items()
    }
