"""What is looked for: a row of the file, or an image whose features are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fashionbatch.address import Address, located
from fashionbatch.errors import ImageError, UnknownNameError, UsageError
from fashionbatch.models import card as cards
from fashionbatch.models import device as devices
from fashionbatch.models.features import FeatureTap
from fashionbatch.pipeline.decode import decode
from fashionbatch.pipeline.transforms import fit
from fashionbatch.sources import Item
from fashionbatch.sources.base import to_text
from fashionbatch.store.reader import Predictions

_TOGETHER = 16


@dataclass(frozen=True, kw_only=True)
class Query:
    """An image whose neighbours are wanted.

    Attributes:
        name: as it was given.
        row: of the file, or ``None`` for an image file.
        data: of an image file, its bytes.
        features: float32 ``[D]``.
    """

    name: str
    row: int | None = None
    data: bytes = b""
    features: npt.NDArray[np.float32]


def is_file(text: str, predictions: Predictions) -> bool:
    """Whether a query names an image file, or its address; otherwise it names a row.

    A row that is called like an address is a row: it is known already.

    Raises:
        UsageError: it is a folder, or an address of a kind that is not read.
    """
    path = located(text)
    if isinstance(path, Address):
        return text not in predictions
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name images in it, or rows of the prediction file")
    return path.exists()


def of_row(predictions: Predictions, name: str, layer: str) -> Query:
    """The query of a row.

    Raises:
        UsageError: there is no such row, or there are several.
    """
    try:
        row = predictions.row(name)
    except UnknownNameError as error:
        raise UsageError(f"there is no file {name}, and {error}") from None
    features = np.asarray(predictions.features(layer)[row], np.float32).reshape(-1)
    return Query(name=name, row=row, features=features)


def of_files(
    paths: Sequence[str], run: Path, layer: str, device_name: str
) -> list[Query | dict[str, str]]:
    """The queries of image files, each in its place.

    Args:
        paths: of the images, or their addresses.
        run: folder of the model.
        layer: whose output is compared.
        device_name: where to compute it.

    Returns:
        of each image its query, or ``{"name", "reason"}`` where it cannot be used.
    """
    model, card = cards.load(run)
    device = devices.choose(device_name)
    tap = FeatureTap(model, layer).to(device).eval()
    made: list[Query | dict[str, str]] = []
    for start in range(0, len(paths), _TOGETHER):
        read: list[tuple[str, bytes]] = []
        pixels: list[npt.NDArray[Any]] = []
        some: list[Query | dict[str, str] | None] = []
        for path in paths[start : start + _TOGETHER]:
            name, item = _item(path)
            try:
                data = item.read()
                pixels.append(fit(decode(data), card.preprocessing))
            except (ImageError, OSError) as error:
                reason = str(error) if isinstance(error, ImageError) else _reason(error)
                some.append({"name": name, "reason": reason})
            else:
                read.append((name, data))
                some.append(None)
        if read:
            stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            with torch.inference_mode():
                *_, features = tap(stacked.to(device))
            rows = iter(zip(read, features.float().flatten(1).cpu().numpy(), strict=True))
            for place, known in enumerate(some):
                if known is None:
                    (name, data), values = next(rows)
                    some[place] = Query(name=name, data=data, features=values)
        made += [entry for entry in some if entry is not None]
    return made


def _item(text: str) -> tuple[str, Item]:
    """What is said of an image, and what reads it."""
    where = located(text)
    if isinstance(where, Address):
        return str(where), Item(name=where.name, path=where.url)
    return to_text(text), Item(name=to_text(text), path=where)


def _reason(error: OSError) -> str:
    return f"read: {error.strerror or type(error).__name__}"
