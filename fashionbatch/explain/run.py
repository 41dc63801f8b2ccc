"""Collects images, lets a visualizer draw, saves the pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fashionbatch.config import ExplainConfig
from fashionbatch.drawing import png
from fashionbatch.errors import ImageError, SourceError, UsageError
from fashionbatch.explain.base import Explained, Photo, Picture, Visualizer
from fashionbatch.models import card as cards
from fashionbatch.models import device as devices
from fashionbatch.models.build import find_backbone
from fashionbatch.models.freeze import block_names
from fashionbatch.parse import parse_bottleneck
from fashionbatch.pipeline.decode import decode
from fashionbatch.shards.read import is_shards, open_shards
from fashionbatch.sources import Failure, Item
from fashionbatch.sources.base import to_text
from fashionbatch.sources.folder import FolderSource

Tell = Callable[[str, dict[str, Any]], None]

#: images that a visualizer gets at once
_TOGETHER = 16
#: layers that are shown of a network that names none
_SHOWN = 5


def explain(
    visualizer: Visualizer,
    name: str,
    paths: Sequence[Path],
    run: Path,
    config: ExplainConfig,
    tell: Tell,
) -> dict[str, Any]:
    """Draws pictures of images, folders or data sets.

    Args:
        visualizer: draws them.
        name: of the visualizer, with its options; kept in each picture's file.
        paths: images, folders, data sets; none for a visualizer that needs none.
        run: folder of the model.
        config: of the job.
        tell: gets ``("picture", {"name", "about"})`` of each that was saved.

    Returns:
        ``{"output", "items", "pictures", "failed", "model", "about"}``; ``failed`` lists names and
        reasons, ``about`` what each picture's visualizer said of it, by the picture's file name.

    Raises:
        UsageError: a path does not exist.
        SourceError: no image could be used.
    """
    explained = load(run, config.device)
    photos: list[Photo] = []
    failed: list[dict[str, str]] = []
    count = 0
    kept = {"Visualizer": name, "Model": explained.sha256}
    saving = _Saving(config.output, kept, tell)
    if not paths:
        saving.add(visualizer.draw(explained, ()), ())
    for image, label, read in _images(paths):
        if config.limit is not None and count == config.limit:
            break
        count += 1
        try:
            photos.append(Photo(image=decode(read()), name=image, label=label))
        except ImageError as error:
            failed.append({"name": image, "reason": str(error)})
        except OSError as error:
            reason = error.strerror or type(error).__name__
            failed.append({"name": image, "reason": f"read: {reason}"})
        if len(photos) == _TOGETHER:
            saving.add(visualizer.draw(explained, photos), photos)
            photos = []
    if photos:
        saving.add(visualizer.draw(explained, photos), photos)
    saving.add(visualizer.finish(), ())
    if not saving.about:
        why = f" ({failed[0]['name']}: {failed[0]['reason']})" if failed else ""
        raise SourceError(f"none of the {count} images can be used{why}")
    return {
        "output": str(config.output),
        "items": count,
        "pictures": len(saving.about),
        "failed": failed,
        "model": str(run),
        "about": saving.about,
    }


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
    )


def _images(paths: Sequence[Path]) -> Iterator[tuple[str, str | None, Callable[[], bytes]]]:
    """Names, classes, and what reads their bytes: one that cannot be read must not end the run."""
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist: name images, folders or data sets")
        if is_shards(path):
            shards = open_shards(path)
            for row in range(len(shards)):
                number = int(shards.labels[row])
                label = shards.classes[number] if number >= 0 else None
                yield shards.name(row), label, functools.partial(shards.read, row)
            continue
        found = (
            [Item(name=to_text(path.name), path=path)]
            if path.is_file()
            else FolderSource(path, layout="flat").items()
        )
        for item in found:
            if isinstance(item, Failure):
                continue  # not an image
            folder = Path(item.path or path).absolute().parent
            yield item.name, folder.name or None, item.read


class _Saving:
    """Saves pictures as they are drawn; of what is refused no folder is made."""

    def __init__(self, output: Path, kept: Mapping[str, str], tell: Tell) -> None:
        self.output = output
        self.kept = kept
        self.tell = tell
        self.about: dict[str, dict[str, str]] = {}
        self._taken: set[str] = set()

    def add(self, drawn: Iterable[Picture], photos: Sequence[Photo]) -> None:
        names = {photo.name for photo in photos}
        for picture in drawn:
            self.output.mkdir(parents=True, exist_ok=True)
            path = png.free_path(self.output, picture.name, self._taken)
            source = {"Source": picture.name} if picture.name in names else {}
            png.save(path, picture.image, picture.name, {**picture.about, **self.kept, **source})
            self.about[path.name] = dict(picture.about)
            self.tell("picture", {"name": picture.name, "about": self.about[path.name]})
