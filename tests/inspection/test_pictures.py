"""The pictures of a data set: what is in them, whatever the names and images are."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fashionbatch import api
from fashionbatch.drawing.lettering import fitted, font, legible
from fashionbatch.inspection import pictures
from fashionbatch.shards.read import ShardSet, open_shards

HOSTILE = (
    "$\\frac$", "$x", "<script>", "a\nb", "\x1b[31m", "👗 dress", "فستان", "日本", "_under",
    "x" * 200, "", " ", "%s{}\\", "\u202eevil", "\udce9",
)  # fmt: skip
COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0), "white": (255, 255, 255)}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Gets every figure that is saved, beside its file."""
    kept: list[Any] = []
    save = pictures._save

    def keep(figure: Any, path: Path) -> None:
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(pictures, "_save", keep)
    return kept


def category(name: str, items: int, kind: str | None = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "items": items}


def drawn(path: Path) -> Image.Image:
    """The picture, with nothing left beside it."""
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def test_categories(tmp_path: Path, figures: list[Any]) -> None:
    """A bar for each class, on a log axis, coloured and explained by its type."""
    classes = [
        category("dress", 72_000, "full"),
        category("tee", 900, "upper"),
        category("top", 20, "upper"),
    ]
    pictures.save_categories(tmp_path / "c.png", classes, "Images per category: made")
    [figure] = figures
    [axes] = figure.axes
    assert axes.get_yscale() == "log"
    assert [bar.get_height() for bar in axes.patches] == [72_000, 900, 20]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["dress", "tee", "top"]
    assert [text.get_text() for text in axes.texts] == ["72,000", "900", "20"]
    first, second, third = (bar.get_facecolor() for bar in axes.patches)
    assert first != second == third
    legend = {t.get_text().strip() for t in figure.legends[0].get_texts()}
    assert legend == {"full", "upper"}
    low, high = axes.get_ylim()
    assert 0 < low < 20 and high > 72_000
    assert drawn(tmp_path / "c.png").size == (960, 720)


def test_without_types(tmp_path: Path, figures: list[Any]) -> None:
    """Without types there is one colour and no legend."""
    pictures.save_categories(tmp_path / "c.png", [category("a", 2), category("b", 1)], "made")
    assert len({bar.get_facecolor() for bar in figures[0].axes[0].patches}) == 1
    assert figures[0].legends == []


def test_many_types(tmp_path: Path, figures: list[Any]) -> None:
    """More types than colours share one, which the legend says."""
    classes = [category(f"c{n}", 9, f"t{n}") for n in range(10)]
    pictures.save_categories(tmp_path / "c.png", classes, "made")
    legend = [t.get_text().strip() for t in figures[0].legends[0].get_texts()]
    assert len(legend) == 8
    assert legend[-1] == "3 other types"


def test_category_types(tmp_path: Path, figures: list[Any]) -> None:
    """A bar for each type, on a log axis, with the number of its classes."""
    types = [
        {"type": "upper", "classes": 20, "items": 137_000},
        {"type": None, "classes": 1, "items": 3},
    ]
    pictures.save_category_types(tmp_path / "t.png", types, "made")
    [axes] = figures[0].axes
    assert axes.get_yscale() == "log"
    assert [bar.get_height() for bar in axes.patches] == [137_000, 3]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["upper (20)", "no type (1)"]
    drawn(tmp_path / "t.png")


@pytest.mark.parametrize("count", [1, 3, 10, 46, 300])
def test_every_class_is_a_bar(tmp_path: Path, figures: list[Any], count: int) -> None:
    """However many classes: each has its bar, and names do not lie on each other."""
    counts = np.geomspace(72_000, 1, count).astype(int).tolist()
    classes = [category(f"category {n}", items) for n, items in enumerate(counts)]
    pictures.save_categories(tmp_path / "c.png", classes, "made")
    [figure] = figures
    [axes] = figure.axes
    assert [bar.get_height() for bar in axes.patches] == counts
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(boxes) >= min(count, 60)
    if count > 12:  # upright; slanted ones overlap as boxes, not as names
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
    inside = figure.bbox
    assert all(inside.y0 <= b.y0 and b.x1 <= inside.x1 for b in boxes)
    assert drawn(tmp_path / "c.png").width <= 2400


def test_classes_of_the_same_size_and_without_images(tmp_path: Path, figures: list[Any]) -> None:
    """Equal counts, a count of one and of none have axes that can be read."""
    for counts in ([600, 600], [1], [5, 0]):
        classes = [category(str(n), items) for n, items in enumerate(counts)]
        pictures.save_categories(tmp_path / "c.png", classes, "made")
        axes = figures[-1].axes[0]
        low, high = axes.get_ylim()
        ticks = [t for t in axes.get_yticks() if low <= t <= high]
        assert len(ticks) >= 2, counts
        assert [text.get_text() for text in axes.texts] == [str(c) for c in counts]


def test_hostile_names_in_histograms(tmp_path: Path, figures: list[Any]) -> None:
    """Names are drawn as they are: no mathematics, no warning of missing letters, no error."""
    classes = [category(name, 9, name) for name in HOSTILE]
    types = [{"type": name, "classes": 1, "items": 9} for name in HOSTILE]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.save_categories(tmp_path / "c.png", classes, HOSTILE[0])
        pictures.save_category_types(tmp_path / "t.png", types, HOSTILE[0])
    for figure in figures:
        texts = [*figure.axes[0].get_xticklabels()]
        for legend in figure.legends:
            texts += legend.get_texts()
        assert not any(text.get_parse_math() for text in texts)
    names = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert names[:6] == ["$\\frac$", "$x", "<script>", "a\\nb", "\\x1b[31m", "\\U0001f457 dress"]
    assert all(len(name) <= 28 for name in names)


def test_no_window_system(tmp_path: Path) -> None:
    """Drawing uses no backend with windows, and leaves the user's own alone."""
    before = matplotlib.get_backend()
    pictures.save_categories(tmp_path / "c.png", [category("a", 1)], "made")
    assert matplotlib.get_backend() == before


@given(st.text())
def test_legible(text: str) -> None:
    """Any text becomes one line that the font can draw; short limits are kept."""
    line = legible(text)
    assert line.isprintable()
    assert len(legible(text, 28)) <= 28
    font(14).getlength(line)


def test_legible_is_distinct() -> None:
    """A long name keeps its beginning and its end; plain names stay as they are."""
    assert legible("x" * 100 + "end", 28).endswith("end")
    assert legible("T-Shirt Größe 38") == "T-Shirt Größe 38"
    short = fitted("W" * 100, font(14, bold=True), 100)
    assert font(14, bold=True).getlength(short) <= 100
    assert fitted("hat", font(14), 100) == "hat"


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Callable[[Mapping[str, list[bytes]]], ShardSet]:
    """``shards({"hat": [image, ...]})`` → a data set of these bytes, unchecked."""

    def make(images: Mapping[str, list[bytes]]) -> ShardSet:
        for name, files in images.items():
            folder = tmp_path / "photos" / name
            folder.mkdir(parents=True)
            for number, data in enumerate(files):
                (folder / f"{number:04d}.png").write_bytes(data)
        api.shard(
            tmp_path / "photos", output=tmp_path / "made", check="none", split="train=1", workers=1
        )
        return open_shards(tmp_path / "made")

    return make


def sheet(shards: ShardSet, path: Path, **options: Any) -> tuple[Image.Image, list[dict[str, str]]]:
    path.parent.mkdir(exist_ok=True)
    given = {"samples": 3, "seed": 0, "title": "made", **options}
    failed = pictures.save_contact_sheet(path, shards, shards.select(), **given)
    return drawn(path), failed


def cell(page: Image.Image, row: int, column: int) -> tuple[int, ...]:
    """The colour in the middle of a thumbnail; of the first column of rows."""
    step = pictures._CELL + pictures._GAP
    left = pictures._MARGIN + pictures._TEXT + column * step + pictures._CELL // 2
    top = pictures._HEADER + row * (step + pictures._GAP) + pictures._CELL // 2
    colour = page.getpixel((left, top))
    assert isinstance(colour, tuple)
    return tuple(colour)


def test_contact_sheet(tmp_path: Path, shards: Callable[..., ShardSet]) -> None:
    """A row for each class, the most frequent first, with samples of that class."""
    made = shards({"blue": [png(COLOURS["blue"])] * 2, "red": [png(COLOURS["red"])] * 5})
    page, failed = sheet(made, tmp_path / "out" / "s.png")
    assert failed == []
    assert [cell(page, 0, n) for n in range(3)] == [COLOURS["red"]] * 3
    assert [cell(page, 1, n) for n in range(2)] == [COLOURS["blue"]] * 2
    assert cell(page, 1, 2) == COLOURS["white"]
    with Image.open(tmp_path / "out" / "s.png") as image:
        assert image.info["Title"] == "made"


def test_letterbox(tmp_path: Path, shards: Callable[..., ShardSet]) -> None:
    """Images keep their aspect, however extreme, and are shown whole."""
    made = shards({"red": [png(COLOURS["red"], (2000, 1))], "blue": [png(COLOURS["blue"], (4, 8))]})
    page, failed = sheet(made, tmp_path / "out" / "s.png")
    assert failed == []
    pixels = np.asarray(page)
    for colour, shape in (("red", (1, 96)), ("blue", (96, 48))):
        rows, columns = np.nonzero((pixels == COLOURS[colour]).all(axis=2))
        assert (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) == shape


def test_undecodable_images(tmp_path: Path, shards: Callable[..., ShardSet]) -> None:
    """An image that cannot be decoded, or was changed, is a marked cell, and named."""
    good = png(COLOURS["blue"])
    made = shards({"blue": [good, good[:50], good], "red": [good] * 2})
    tar = tmp_path / "made" / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    row = next(n for n in range(len(made)) if made.name(n) == "red/0001.png")
    data[int(made.index.offset[row]) + 60] ^= 0xFF
    tar.write_bytes(data)
    page, failed = sheet(made, tmp_path / "out" / "s.png")
    assert {f["name"] for f in failed} == {"blue/0001.png", "red/0001.png"}
    assert {f["reason"].split(":")[0] for f in failed} == {"decode", "read"}
    cells = [cell(page, 0, n) for n in range(3)] + [cell(page, 1, n) for n in range(2)]
    assert cells.count(COLOURS["blue"]) == 3


def test_damaged_shard(tmp_path: Path, shards: Callable[..., ShardSet]) -> None:
    """Images of a missing shard are marked cells."""
    shards({"blue": [png(COLOURS["blue"])]})
    (tmp_path / "made" / "train-000000.tar").unlink()
    made = open_shards(tmp_path / "made", strict=False)
    page, failed = sheet(made, tmp_path / "out" / "s.png")
    assert "train-000000.tar is missing" in failed[0]["reason"]
    assert cell(page, 0, 0) != COLOURS["blue"]


def test_seed(tmp_path: Path, shards: Callable[..., ShardSet]) -> None:
    """The same seed draws the same picture, another one other samples."""
    made = shards({"grey": [png((n * 4, n * 4, n * 4)) for n in range(60)]})
    pages = [sheet(made, tmp_path / f"{n}" / "s.png", seed=s)[0] for n, s in enumerate((1, 1, 2))]
    assert pages[0].tobytes() == pages[1].tobytes() != pages[2].tobytes()


def test_many_classes(tmp_path: Path, shards: Callable[..., ShardSet]) -> None:
    """Of many classes the 60 most frequent are drawn; the picture does not grow without end."""
    blue, red = png(COLOURS["blue"]), png(COLOURS["red"])
    images = {f"c{n:03d}": [blue] for n in range(70)}
    made = shards(images | {"z": [red] * 30})
    page, _ = sheet(made, tmp_path / "out" / "s.png")
    assert cell(page, 0, 0) == COLOURS["red"]
    chosen, classes = pictures._choose(made, made.select(), 3, 0)
    assert (len(chosen), classes) == (60, 71)
    assert page.width < 4300 and page.height < 2000
    page, _ = sheet(made, tmp_path / "wide" / "s.png", samples=50)
    assert page.width < 4300


def test_hostile_names_on_the_sheet(tmp_path: Path, shards: Callable[..., ShardSet]) -> None:
    """Names of classes cannot break the sheet."""
    names = [n for n in HOSTILE if n.strip() and "\udce9" not in n]
    made = shards({name: [png(COLOURS["blue"])] for name in names})
    page, failed = sheet(made, tmp_path / "out" / "s.png", title=HOSTILE[0] * 50)
    assert failed == []
    assert all(cell(page, n, 0) == COLOURS["blue"] for n in range(len(names)))


def test_unlabelled_images(tmp_path: Path, photo: Callable[..., bytes]) -> None:
    """Images without a label are shown too."""
    (tmp_path / "photos").mkdir()
    for n in range(4):
        (tmp_path / "photos" / f"{n}.jpg").write_bytes(photo(n))
    api.shard(tmp_path / "photos", output=tmp_path / "made", workers=1)
    made = open_shards(tmp_path / "made")
    [row], classes = pictures._choose(made, made.select(), 3, 0)
    assert (row.name, row.items, len(row.rows), classes) == ("(no label)", 4, 3, 1)
    page, failed = sheet(made, tmp_path / "out" / "s.png")
    assert failed == [] and cell(page, 0, 2) != COLOURS["white"]


def test_real_photographs(tmp_path: Path, clothing: Path) -> None:
    """The sheet of the real data set holds no marked cell."""
    api.shard(clothing, output=tmp_path / "made", per_class=8)
    made = open_shards(tmp_path / "made")
    page, failed = sheet(made, tmp_path / "out" / "s.png", samples=8)
    assert failed == []
    assert page.height > 10 * pictures._CELL
