"""Collects images, lets a visualizer draw, saves the pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from fashionbatch.address import Address, Location, located
from fashionbatch.config import ExplainConfig
from fashionbatch.drawing import catalogue as catalogues
from fashionbatch.drawing import png
from fashionbatch.drawing.catalogue import Catalogue
from fashionbatch.errors import ImageError, SourceError, UsageError
from fashionbatch.explanation import photos
from fashionbatch.explanation.base import Explained, Photo, Picture, Subject, Visualizer
from fashionbatch.explanation.photos import Source
from fashionbatch.models import card as cards
from fashionbatch.models import device as devices
from fashionbatch.models.build import find_backbone
from fashionbatch.models.freeze import block_names
from fashionbatch.parse import parse_bottleneck, parse_choice
from fashionbatch.pipeline.decode import decode
from fashionbatch.store.copy import copied
from fashionbatch.store.reader import open_predictions

Tell = Callable[[str, dict[str, Any]], None]

#: images that a visualizer gets at once
_TOGETHER = 16
#: rows of a prediction file that are explained unless the user says which
_MISTAKES = "mistakes"
#: layers that are shown of a network that names none
_SHOWN = 5


def explain(
    visualizer: Visualizer,
    name: str,
    images: Sequence[str],
    run: Path | None,
    config: ExplainConfig,
    tell: Tell,
    *,
    provider: str,
    all_rows: bool = True,
    needs_model: bool = True,
) -> dict[str, Any]:
    """Draws pictures of images, folders, data sets, or rows of a prediction file.

    Args:
        visualizer: draws them.
        name: of the visualizer, with its options; kept in each picture's file.
        images: images, folders, data sets, or addresses of images or data sets; with
            ``config.predictions`` names of its rows. None for a visualizer that needs none.
        run: folder of the model; ``None`` where ``config.predictions`` will do.
        config: of the job.
        tell: gets ``("picture", {"name", "about"})`` of each that was saved.
        provider: package and version that it comes from, such as ``fashionbatch-cam 0.1.0``; kept
            likewise.
        all_rows: with ``config.predictions`` and no names, explain what ``config.rows`` says.
        needs_model: load the model.

    Returns:
        ``{"output", "items", "pictures", "failed", "model", "about"}``; ``failed`` lists names and
        reasons, ``model`` is the run's folder or ``None``, ``about`` what each picture's visualizer
        said of it, by the picture's file name.

    Raises:
        UsageError: a path does not exist, or the photographs of the rows are not there.
        SourceError: no image could be used.
    """
    if config.rows is not None and images:
        raise UsageError("--rows and names both choose rows: leave one of them out")
    if not all_rows and not images and config.predictions is not None:
        for option in ("rows", "limit"):
            if getattr(config, option) is not None:
                raise UsageError(f"{name} draws the whole file: leave --{option} out")
    with ExitStack() as stack:
        explained = _subject(run)
        if needs_model:
            assert run is not None
            explained = load(run, config.device)
        sources: Iterator[Source] | None = None
        if config.predictions is None:
            if images:
                sources = photos.of_paths([located(i) for i in images], config.limit)
        else:
            path = stack.enter_context(copied(config.predictions))
            predictions = stack.enter_context(open_predictions(path))
            catalogue = catalogues.find(predictions, config.catalog)
            wanted = bool(images) or all_rows
            if isinstance(catalogue, Catalogue):
                stack.callback(catalogue.close)
                explained = replace(explained, catalogue=catalogue)
            elif wanted:
                raise UsageError(catalogue)
            made_by = str(predictions.model.get("sha256", ""))
            explained = replace(explained, predictions=predictions, sha256=made_by)
            if wanted:
                rows = photos.choose(predictions, config.rows or _MISTAKES, images)
                assert isinstance(catalogue, Catalogue)
                sources = photos.of_rows(predictions, catalogue, rows)
        kept = {"Visualizer": name, "Provider": provider, "Model": explained.sha256}
        origin = _origin(images, run, config, rows=sources is not None)
        saving = _Saving(config.output, origin, kept, tell)
        # a visualizer that needs no model takes a Subject
        given = cast(Explained, explained)
        count, failed = _draw(visualizer, given, sources, config.limit, saving)
    if not saving.about:
        why = f" ({failed[0]['name']}: {failed[0]['reason']})" if failed else ""
        raise SourceError(f"none of the {count} images can be used{why}")
    return {
        "output": str(config.output),
        "items": count,
        "pictures": len(saving.about),
        "failed": failed,
        "model": None if run is None else str(run),
        "about": saving.about,
    }


def _origin(images: Sequence[str], run: Path | None, config: ExplainConfig, *, rows: bool) -> str:
    """In a few letters, what a picture is of that is not of one photograph."""
    if config.predictions is not None:
        which = f"-{config.rows or _MISTAKES}" if rows and not images else ""
        return _stem(config.predictions) + which
    if not images:
        assert run is not None
        return run.name
    more = f"+{len(images) - 1}" if len(images) > 1 else ""
    return _stem(located(images[0])) + more


def _stem(location: Location) -> str:
    """What a picture of something is called after: its name, that of a file without its suffix."""
    if isinstance(location, Address):
        return Path(location.name).stem
    first = location.resolve()
    return first.stem if first.is_file() else first.name


def _draw(
    visualizer: Visualizer,
    explained: Explained,
    sources: Iterator[Source] | None,
    limit: int | None,
    saving: _Saving,
) -> tuple[int, list[dict[str, str]]]:
    """How many images were taken, and which of them could not be used."""
    if sources is None:
        saving.add(visualizer.draw(explained, ()), ())
        saving.add(visualizer.finish(), ())
        return 0, []
    waiting: list[Photo] = []
    failed: list[dict[str, str]] = []
    count = 0
    for source in itertools.islice(sources, limit):
        count += 1
        try:
            image = decode(source.read())
            waiting.append(Photo(image=image, name=source.name, label=source.label))
        except ImageError as error:
            failed.append({"name": source.name, "reason": str(error)})
        except OSError as error:
            reason = error.strerror or type(error).__name__
            failed.append({"name": source.name, "reason": f"read: {reason}"})
        if len(waiting) == _TOGETHER:
            saving.add(visualizer.draw(explained, waiting), waiting)
            waiting = []
    if waiting:
        saving.add(visualizer.draw(explained, waiting), waiting)
    saving.add(visualizer.finish(), ())
    return count, failed


def _subject(run: Path | None) -> Subject:
    """With nothing loaded; a run that is still being trained has no model yet."""
    if run is None or not (run / cards.CARD).is_file():
        return Subject(run=run)
    return Subject(run=run, sha256=cards.load_card(run).sha256)


def load(run: Path, device_name: str) -> Explained:
    """The model of a run, ready to be explained.

    Raises:
        ModelError: it is damaged, or its package is missing.
        UsageError: there is no such device.
    """
    model, card = cards.load(run)
    device = devices.choose(device_name)
    _, spec = find_backbone(f"{card.backbone['provider']}:{card.backbone['name']}")
    # a backbone that ends with a layer has lost what lies behind it
    layer = parse_bottleneck(card.bottleneck)[0] if card.bottleneck else spec.cam_layer
    modules = dict(model.backbone.named_modules())
    shown = [name for name in spec.shown_layers if name in modules]
    if not shown:
        blocks = block_names(model.backbone, spec.blocks, truncated=card.bottleneck is not None)
        places = np.linspace(0, len(blocks) - 1, min(_SHOWN, len(blocks))).round()
        shown = [*(blocks[int(place)] for place in places[:-1]), layer]
    return Explained(
        model=model.to(device),
        classes=card.classes,
        preprocessing=card.preprocessing,
        cam_layer=model.backbone.get_submodule(layer),
        device=device,
        attributes=tuple(a.name for a in card.attributes),
        # a layer that the user chose to end with may lie in any way
        cam_layout=None if card.bottleneck else spec.cam_layout,
        sha256=card.sha256,
        shown_layers=tuple(shown),
        temperature=card.temperature,
        run=run,
    )


class _Saving:
    """Saves pictures as they are drawn; of what is refused no folder is made."""

    def __init__(self, output: Path, origin: str, kept: Mapping[str, str], tell: Tell) -> None:
        self.output = output
        self.origin = origin
        self.kept = kept
        self.visualizer = parse_choice(kept["Visualizer"])[0]
        self.tell = tell
        self.about: dict[str, dict[str, str]] = {}
        self._taken: set[str] = set()

    def add(self, drawn: Iterable[Picture], photos: Sequence[Photo]) -> None:
        names = {photo.name for photo in photos}
        for picture in drawn:
            self.output.mkdir(parents=True, exist_ok=True)
            of_photo = picture.name in names
            # one visualizer does not replace another one's picture of the same photograph, and one
            # call not another one's sheet
            name = f"{picture.name}.{self.visualizer if of_photo else self.origin}"
            path = png.free_path(self.output, name, self._taken)
            source = {"Source": picture.name} if of_photo else {}
            png.save(path, picture.image, picture.name, {**picture.about, **self.kept, **source})
            self.about[path.name] = dict(picture.about)
            self.tell("picture", {"name": picture.name, "about": self.about[path.name]})
