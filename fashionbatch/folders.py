"""Where data sets, runs and predictions lie when nobody says so, and a run's own folder."""

from __future__ import annotations

import dataclasses
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashionbatch.address import Address, Location, name_of
from fashionbatch.config import TrainConfig
from fashionbatch.errors import OutputExistsError, UsageError
from fashionbatch.recipe import CONFIG

SHARDS = Path("shards")
RUNS = Path("runs")
PREDICTIONS = Path("predictions")
INSPECTION = Path("inspection")
SEARCH = Path("search")
AUDIT = Path("audit")
REPORTS = Path("reports")


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


def find_run(model: Location | None) -> Path:
    """The folder of a run: as named, below ``runs/``, or the newest there.

    The model at an address is fetched to this disk.

    Raises:
        UsageError: there is none.
        ModelError: what lies at an address is damaged, or changed.
        RemoteError: a host cannot be reached, or refuses.
    """
    if isinstance(model, Address):
        from fashionbatch.models.copy import here

        return here(model, _of_training())
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


def run_at(path: Location) -> Path | None:
    """The run that a user's path names, its folder or a name below ``runs/``, if it names one.

    One at an address is fetched to this disk.

    Raises:
        ModelError: what lies at an address is damaged, or changed.
        RemoteError: a host cannot be reached, or refuses.
    """
    if isinstance(path, Address):
        from fashionbatch.models.copy import fetch
        from fashionbatch.remote.trouble import MissingError, RefusedError

        try:
            if path.path.endswith((".h5", ".hdf5")):
                return None
            return fetch(path, _of_training())
        except (MissingError, RefusedError):  # who may not list is refused what is not there
            return None
    for folder in (path, RUNS / path):
        if (folder / "model.json").is_file():
            return folder
    return None


def _of_training() -> tuple[str, ...]:
    """Files of a run that a model can do without, and a report cannot."""
    from fashionbatch.training.curves import HISTORY

    return HISTORY, CONFIG


def find_run_of(sha256: str, model: Location | None) -> Path:
    """The folder of the run with just these weights: as named, or any below ``runs/``.

    Raises:
        UsageError: the named one has other weights, or there is none.
    """
    from fashionbatch.errors import ModelError
    from fashionbatch.models.card import load_card

    if model is not None:
        run = find_run(model)
        if load_card(run).sha256 != sha256:
            raise UsageError(
                f"--model {model} did not make the predictions: its weights are others (SHA-256)"
            )
        return run
    for path in sorted(RUNS.glob("*/model.json")):
        try:
            if load_card(path.parent).sha256 == sha256:
                return path.parent
        except ModelError:
            continue  # another one may be whole
    raise UsageError(
        f"runs/ holds no run with the weights that made the predictions (SHA-256 {sha256[:12]}...)"
        ": name its folder with --model"
    )


def run_folder(config: TrainConfig, data: Location) -> Path:
    """Where a training is to write: a new folder, the one to go on with, or the one to replace.

    Raises:
        UsageError: there is none to go on with.
        OutputExistsError: something is there that may not be replaced.
    """
    if config.resume:
        if config.name is None:
            raise UsageError("--resume needs --name: which run is to go on?")
        folder = config.output / config.name
        if not folder.is_dir():
            raise UsageError(f"--resume: {folder} does not exist")
        return folder
    if config.name is None:
        stem = f"{name_of(data)}-{config.backbone.replace(':', '-')}"
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
    config = folder / CONFIG
    return not any(folder.iterdir()) or (config.is_file() and "backbone = " in config.read_text())


def is_saved(folder: Path) -> bool:
    """Whether a run has a checkpoint to go on from: one that was killed early has none."""
    return any((folder / "checkpoints").glob("*"))


def as_begun(config: TrainConfig, folder: Path) -> TrainConfig:
    """With the one default that depends on the epochs, which a resumed run may have more of."""
    try:
        begun = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return config  # told when it is compared
    return dataclasses.replace(config, freeze_epochs=begun.get("freeze_epochs"))


@contextmanager
def fresh(folder: Path, *, replace: bool) -> Iterator[None]:
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
        if not is_saved(folder):  # nothing that could be gone on with
            shutil.rmtree(folder, ignore_errors=True)
            if old.exists():
                old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
