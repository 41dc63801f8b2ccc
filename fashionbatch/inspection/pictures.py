"""Pictures of a data set: the paper's two histograms, and a sheet of samples of each class."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fashionbatch import files
from fashionbatch.drawing import png
from fashionbatch.drawing.cells import INK, PALE, cell, cross
from fashionbatch.drawing.lettering import fitted, font, legible
from fashionbatch.errors import ImageError, ShardError
from fashionbatch.shards.read import ShardSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 120
#: Okabe and Ito's colours, which people with colour blindness can tell apart; grey for the rest
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_REST = "#999999"
#: characters of a name below a bar
_NAME = 28
#: bars that each have their count above them, and that each have their name below them
_COUNTED = 60
_NAMED = 120

#: classes on a sheet, and in one of its columns unless it gets wider than so many pixels
_SHEET = 60
_COLUMN = 15
_WIDEST = 4200
_CELL = 96
_GAP = 6
_TEXT = 190
_MARGIN = 20
_HEADER = 64


def save_categories(path: Path, classes: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draws the images per category, largest first, coloured by type, with a log y axis.

    Args:
        path: of the PNG to write.
        classes: ``name``, ``type`` and ``items`` of each, the largest first.
        title: of the picture.
    """
    colours = _colours([c["type"] for c in classes])
    many = len(classes) > _NAMED
    width = 20.0 if many else max(8.0, 2 + 0.24 * len(classes))
    figure, axes = _bars(
        [c["items"] for c in classes], [colours[c["type"]] for c in classes], (width, 6.0), title
    )
    names = [legible(c["name"], _NAME) for c in classes]
    places = range(len(classes))
    if many:
        places = range(0, len(classes), math.ceil(len(classes) / _COUNTED))
        names = [f"{place + 1}. {names[place]}" for place in places]
    axes.set_xticks(places, names, parse_math=False, fontsize=8, rotation=90)
    if len(classes) <= 12:
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_xlabel("category and its rank" if many else "category")
    _legend(figure, colours)
    _save(figure, path)


def save_category_types(path: Path, types: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draws the images per category type with a log y axis.

    Args:
        path: of the PNG to write.
        types: ``type``, ``classes`` and ``items`` of each, the largest first.
        title: of the picture.
    """
    colours = _colours([t["type"] for t in types])
    width = max(6.0, 2 + 0.9 * len(types))
    figure, axes = _bars(
        [t["items"] for t in types],
        [colours[t["type"]] for t in types],
        (min(width, 30.0), 6.0),
        title,
    )
    names = [f"{_type(t['type'])} ({t['classes']:,})" for t in types]
    axes.set_xticks(range(len(types)), names, parse_math=False)
    if len(types) > 6:
        axes.tick_params("x", rotation=90, labelsize=8)
    axes.set_xlabel("category type (its categories)")
    _save(figure, path)


def _bars(
    counts: Sequence[int], colours: Sequence[str], size: tuple[float, float], title: str
) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(counts)), counts, color=colours, width=0.8)
    axes.set_yscale("log")
    low, high = min((c for c in counts if c), default=1), max(*counts, 1)
    upright = len(counts) > 12
    # the smallest bar has a height, the largest one room for its count, and two powers of ten show
    bottom = max(0.5, 10.0 ** math.floor(math.log10(low / 2)))
    room = (high / bottom) ** (0.16 if upright else 0.08)
    axes.set_ylim(bottom, max(high * room, 15 * 10.0 ** math.floor(math.log10(low))))
    axes.set_xlim(-0.7, len(counts) - 0.3)
    axes.yaxis.set_major_locator(LogLocator(numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.15g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("images (log scale)")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(legible(title, 100), parse_math=False, loc="left")
    if len(counts) <= _COUNTED:
        for place, count in enumerate(counts):
            axes.annotate(
                f"{count:,}",
                (place, max(count, bottom)),
                (0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7 if upright else 8,
                rotation=90 if upright else 0,
            )
    return figure, axes


def _colours(types: Sequence[str | None]) -> dict[str | None, str]:
    """A colour for each type, the same in both pictures; without types one for all."""
    named = sorted({t for t in types if t is not None})
    colours = dict.fromkeys(types, _REST if named else _COLOURS[0])
    return colours | dict(zip(named, _COLOURS, strict=False))


def _legend(figure: Figure, colours: Mapping[str | None, str]) -> None:
    from matplotlib.patches import Patch

    if list(colours) == [None]:
        return
    told = {colour: _type(kind) for kind, colour in colours.items() if colour != _REST}
    if _REST in colours.values():
        rest = [kind for kind, colour in colours.items() if colour == _REST]
        told[_REST] = _type(rest[0]) if len(rest) == 1 else f"{len(rest)} other types"
    # matplotlib leaves out a name that starts with "_", so none does
    legend = figure.legend(
        [Patch(color=colour) for colour in told],
        [f" {name}" for name in told.values()],
        loc="outside right upper",
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _type(kind: str | None) -> str:
    return "no type" if kind is None else legible(kind, _NAME)


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _save(figure: Figure, path: Path) -> None:
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": "fashionbatch"})


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the sheet: a class, and the images that stand for it."""

    name: str
    kind: str | None
    items: int
    rows: list[int]


def save_contact_sheet(
    path: Path,
    shards: ShardSet,
    rows: npt.NDArray[np.int64],
    *,
    samples: int,
    seed: int,
    title: str,
) -> list[dict[str, str]]:
    """Draws some images of each class, the most frequent classes first; 60 classes at most.

    An image that cannot be read or decoded is a crossed cell.

    Args:
        path: of the PNG to write.
        shards: the data set.
        rows: int64 ``[N]``, the items to draw from.
        samples: images of a class.
        seed: of the draw; the same one draws the same images.
        title: of the picture.

    Returns:
        ``{"name", "reason"}`` of every image that could not be drawn.
    """
    chosen, all_of_them = _choose(shards, rows, samples, seed)
    most = max(len(row.rows) for row in chosen)
    width = _TEXT + most * (_CELL + _GAP)
    columns = min(math.ceil(len(chosen) / _COLUMN), max(1, _WIDEST // width))
    deep = math.ceil(len(chosen) / columns)
    # the title must fit above a single small image
    page = Image.new(
        "RGB",
        (
            max(2 * _MARGIN + columns * width + (columns - 1) * 2 * _MARGIN, 480),
            _HEADER + deep * (_CELL + 2 * _GAP) + _MARGIN,
        ),
        "white",
    )
    draw = ImageDraw.Draw(page)
    shown = f"the {len(chosen)} most frequent of {all_of_them:,} classes"
    if len(chosen) == all_of_them:
        shown = _count(all_of_them, "class", "classes")
    fits = page.width - 2 * _MARGIN
    draw.text((_MARGIN, 12), fitted(title, font(18, bold=True), fits), INK, font(18, bold=True))
    draw.text((_MARGIN, 36), f"{shown}, up to {samples} images of each", PALE, font(13))
    failed: list[dict[str, str]] = []
    with ThreadPoolExecutor(4) as pool:
        for position, row in enumerate(chosen):
            column, place = divmod(position, deep)
            left = _MARGIN + column * (width + 2 * _MARGIN)
            top = _HEADER + place * (_CELL + 2 * _GAP)
            _letter(draw, row, left, top)
            read = [_read(shards, item) for item in row.rows]  # the shard set is for one thread
            small = pool.map(functools.partial(cell, side=_CELL), read)
            for number, (item, thumb) in enumerate(zip(row.rows, small, strict=True)):
                corner = (left + _TEXT + number * (_CELL + _GAP), top)
                if isinstance(thumb, str):
                    failed.append({"name": shards.name(item), "reason": thumb})
                    cross(draw, corner, _CELL)
                else:
                    page.paste(thumb, corner)
    png.save(path, page, title)
    return failed


def _choose(
    shards: ShardSet, rows: npt.NDArray[np.int64], samples: int, seed: int
) -> tuple[list[_Row], int]:
    """The rows of the sheet, and how many classes there are; no label counts as a class."""
    label = shards.labels[rows]
    ordered = rows[np.argsort(label, kind="stable")]
    counts = np.bincount(label + 1, minlength=len(shards.classes) + 1)
    ends = np.cumsum(counts)
    types = shards.manifest.class_types or (None,) * len(shards.classes)
    frequent = np.argsort(-counts[1:], kind="stable") + 1
    filled = [place for place in (*frequent.tolist(), 0) if counts[place]]
    made = []
    for place in filled[:_SHEET]:
        count = int(counts[place])
        draw = np.random.default_rng((seed, place))
        picked = np.sort(draw.choice(count, min(count, samples), replace=False))
        made.append(
            _Row(
                name=shards.classes[place - 1] if place else "(no label)",
                kind=types[place - 1] if place else None,
                items=count,
                rows=ordered[ends[place] - count + picked].tolist(),
            )
        )
    return made, len(filled)


def _read(shards: ShardSet, row: int) -> bytes | str:
    """The image's bytes, or why there are none."""
    try:
        return shards.read(row)
    except (ImageError, ShardError, OSError) as error:
        return str(error)


def _letter(draw: ImageDraw.ImageDraw, row: _Row, left: int, top: int) -> None:
    width = _TEXT - 2 * _GAP
    bold, plain = font(14, bold=True), font(12)
    draw.text((left, top + 22), fitted(row.name, bold, width), INK, bold)
    draw.text((left, top + 42), _count(row.items, "image", "images"), PALE, plain)
    if row.kind is not None:
        draw.text((left, top + 60), fitted(row.kind, plain, width), PALE, plain)
