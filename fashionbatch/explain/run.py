"""Collects images, lets a visualizer draw, saves the pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fashionbatch.config import ExplainConfig
from fashionbatch.drawing import png
from fashionbatch.errors import ImageError, SourceError, UsageError
from fashionbatch.explain.base import Explained, Visualizer
from fashionbatch.models import card as cards
from fashionbatch.models import device as devices
from fashionbatch.models.build import find_backbone
from fashionbatch.parse import parse_bottleneck
from fashionbatch.pipeline.decode import decode
from fashionbatch.shards.read import is_shards, open_shards
from fashionbatch.sources import Failure, Item
from fashionbatch.sources.base import to_text
from fashionbatch.sources.folder import FolderSource

#: images that a visualizer gets at once
_TOGETHER = 16


def explain(
    visualizer: Visualizer, paths: Sequence[Path], run: Path, config: ExplainConfig
) -> dict[str, Any]:
    """Draws pictures of images, folders or data sets.

    Args:
        visualizer: draws them.
        paths: images, folders, data sets.
        run: folder of the model.
        config: of the job.

    Returns:
        ``{"output", "items", "pictures", "failed", "model"}``; ``failed`` lists names and reasons.

    Raises:
        UsageError: a path does not exist.
        SourceError: no image could be used.
    """
    explained = _load(run, config.device)
    images: list[Image.Image] = []
    names: list[str] = []
    failed: list[dict[str, str]] = []
    pictures = count = 0
    taken: set[str] = set()
    for name, read in _images(paths):
        if config.limit is not None and count == config.limit:
            break
        count += 1
        try:
            images.append(decode(read()))
            names.append(name)
        except ImageError as error:
            failed.append({"name": name, "reason": str(error)})
        except OSError as error:
            reason = error.strerror or type(error).__name__
            failed.append({"name": name, "reason": f"read: {reason}"})
        if len(images) == _TOGETHER:
            pictures += _draw(visualizer, explained, images, names, config.output, taken)
            images, names = [], []
    if images:
        pictures += _draw(visualizer, explained, images, names, config.output, taken)
    if not pictures:
        why = f" ({failed[0]['name']}: {failed[0]['reason']})" if failed else ""
        raise SourceError(f"none of the {count} images can be used{why}")
    return {
        "output": str(config.output),
        "items": count,
        "pictures": pictures,
        "failed": failed,
        "model": str(run),
    }


def _load(run: Path, device_name: str) -> Explained:
    model, card = cards.load(run)
    device = devices.choose(device_name)
    _, spec = find_backbone(f"{card.backbone['provider']}:{card.backbone['name']}")
    # a backbone that ends with a layer has lost what lies behind it
    layer = parse_bottleneck(card.bottleneck)[0] if card.bottleneck else spec.cam_layer
    return Explained(
        model=model.to(device),
        classes=card.classes,
        preprocessing=card.preprocessing,
        cam_layer=model.backbone.get_submodule(layer),
        device=device,
        attributes=tuple(a.name for a in card.attributes),
    )


def _images(paths: Sequence[Path]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names, and what reads their bytes: one that cannot be read must not end the run."""
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist: name images, folders or data sets")
        if is_shards(path):
            shards = open_shards(path)
            for row in range(len(shards)):
                yield shards.name(row), functools.partial(shards.read, row)
            continue
        found = (
            [Item(name=to_text(path.name), path=path)]
            if path.is_file()
            else FolderSource(path, layout="flat").items()
        )
        for item in found:
            if isinstance(item, Failure):
                continue  # not an image
            yield item.name, item.read


def _draw(
    visualizer: Visualizer,
    explained: Explained,
    images: list[Image.Image],
    names: list[str],
    output: Path,
    taken: set[str],
) -> int:
    drawn = list(visualizer.draw(explained, images, names))
    output.mkdir(parents=True, exist_ok=True)
    for picture in drawn:
        png.save(png.free_path(output, picture.name, taken), picture.image, picture.name)
    return len(drawn)
