"""Small pictures for a page, as text that a browser shows without asking a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from fashionbatch.drawing.catalogue import Catalogue
from fashionbatch.errors import ImageError
from fashionbatch.explanation import heat
from fashionbatch.explanation.base import Explained
from fashionbatch.explanation.heated import HeatVisualizer
from fashionbatch.pipeline.decode import decode

#: longer side of a picture, in pixels; about 4 kB each
SIDE = 144
_QUALITY = 72
#: images that a visualizer gets at once
_TOGETHER = 8


def data_uri(image: Image.Image) -> str:
    """A JPEG of at most :data:`SIDE` pixels each way, as the text of a link to itself."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def thumbnails(
    catalogue: Catalogue, rows: Sequence[int], advance: Callable[[int], None]
) -> tuple[dict[int, str], dict[int, str]]:
    """Pictures by row, and reasons by row where there is none."""
    made: dict[int, str] = {}
    failed: dict[int, str] = {}
    catalogue.expect(rows)
    for row in rows:
        image = _read(catalogue, row)
        if isinstance(image, str):
            failed[row] = image
        else:
            made[row] = data_uri(image)
        advance(1)
    return made, failed


def heatmaps(
    catalogue: Catalogue,
    rows: Sequence[int],
    visualizer: HeatVisualizer,
    explained: Explained,
    advance: Callable[[int], None],
) -> dict[int, str]:
    """What the model looked at, by row; none of an image that cannot be read."""
    made: dict[int, str] = {}
    for start in range(0, len(rows), _TOGETHER):
        some = rows[start : start + _TOGETHER]
        catalogue.expect(some)
        read = [(row, _read(catalogue, row)) for row in some]
        images = [(row, image) for row, image in read if not isinstance(image, str)]
        if images:
            maps, _, _ = visualizer.maps(explained, [image for _, image in images])
            for (row, image), values in zip(images, maps, strict=True):
                over = heat.onto_original(
                    np.asarray(values, np.float32), image.size, explained.preprocessing
                )
                made[row] = data_uri(heat.overlay(image, over, visualizer.intensity))
        advance(len(some))
    return made


def _read(catalogue: Catalogue, row: int) -> Image.Image | str:
    data = catalogue.read(row)
    if isinstance(data, str):
        return data
    try:
        return decode(data)
    except ImageError as error:
        return str(error)
