"""Counts a data set and draws its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fashionbatch.address import Location, name_of
from fashionbatch.config import InspectConfig
from fashionbatch.errors import SourceError
from fashionbatch.inspection import pictures
from fashionbatch.inspection.summary import summarize
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.select import Selection


def inspect(path: Location, config: InspectConfig, output: Path) -> dict[str, Any]:
    """Counts a data set and draws its pictures.

    Args:
        path: of the data set, or its address.
        config: of the job.
        output: folder for the pictures.

    Returns:
        ``data``, ``name``, ``split``, then as :func:`fashionbatch.inspection.summary.summarize`,
        ``pictures`` and ``undrawn``, the images that the contact sheet could not show.

    Raises:
        SourceError: the selection leaves no items.
        ShardError: it is no data set, or its index is damaged; damaged shards are only told of.
    """
    shards = open_shards(path, strict=False)
    selection = Selection(**config.selection())
    rows = shards.select(config.split, selection)
    everything = shards.select(None, selection)
    shards = shards.restricted(selection)
    if not len(rows):
        damaged = f": {next(iter(shards.damaged.values()))}" if shards.damaged else ""
        raise SourceError(f"{path} has no images, or the selection leaves none{damaged}")
    name = name_of(path)
    numbers = summarize(shards, rows, everything)
    made = {"data": str(path), "name": name, "split": config.split, **numbers}
    drawn: list[Path] = []
    undrawn: list[dict[str, str]] = []
    if config.pictures:
        output.mkdir(parents=True, exist_ok=True)
        title = name if config.split is None else f"{name}, {config.split}"
        if made["labelled"]:
            drawn.append(output / "categories.png")
            pictures.save_categories(
                drawn[-1],
                made["classes"],
                f"Images per category: {title} ({made['labelled']:,} images, "
                f"{len(made['classes']):,} categories)",
            )
        if made["labelled"] and made["category_types"]:
            drawn.append(output / "category-types.png")
            pictures.save_category_types(
                drawn[-1],
                made["category_types"],
                f"Images per category type: {title} ({made['labelled']:,} images)",
            )
        drawn.append(output / "contact-sheet.png")
        undrawn = pictures.save_contact_sheet(
            drawn[-1], shards, rows, samples=config.samples, seed=config.seed, title=title
        )
    return {**made, "pictures": [str(picture) for picture in drawn], "undrawn": undrawn}
