"""Writes a small tree in exactly DeepFashion's layout, with its traps; for tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

UPPER = (
    "Anorak Blazer Blouse Bomber Button-Down Cardigan Flannel Halter Henley Hoodie Jacket Jersey "
    "Parka Peacoat Poncho Sweater Tank Tee Top Turtleneck"
)
LOWER = (
    "Capris Chinos Culottes Cutoffs Gauchos Jeans Jeggings Jodhpurs Joggers Leggings Sarong Shorts "
    "Skirt Sweatpants Sweatshorts Trunks"
)
FULL = (
    "Caftan Cape Coat Coverup Dress Jumpsuit Kaftan Kimono Nightdress Onesie Robe Romper "
    "Shirtdress Sundress"
)
#: in the benchmark's order: label 1 is the first
CATEGORIES = tuple(f"{UPPER} {LOWER} {FULL}".split())
CATEGORY_TYPES = (1,) * 20 + (2,) * 16 + (3,) * 14
#: labels without any image
UNUSED = (38, 45, 49, 50)
LANDMARKS = {1: 6, 2: 4, 3: 8}
SPLITS = ("train", "val", "test")
ATTRIBUTES = 1000
FINE_ATTRIBUTES = (
    ("floral graphic striped embroidered pleated solid lattice", 1),
    ("long_sleeve short_sleeve sleeveless", 2),
    ("maxi_length mini_length no_dress", 3),
    ("crew_neckline v_neckline square_neckline no_neckline", 4),
    ("denim chiffon cotton leather faux knit", 5),
    ("tight loose conventional", 6),
)

Photo = Callable[..., bytes]


@dataclass(frozen=True)
class Image:
    """What the files say of an image; the truth that a test compares with."""

    name: str
    label: int
    split: str
    box: tuple[int, int, int, int]
    landmarks: tuple[tuple[int, int, int], ...]
    values: tuple[int, ...] = field(repr=False)

    @property
    def type(self) -> int:
        """1 upper, 2 lower, 3 full."""
        return CATEGORY_TYPES[self.label - 1]


def attributes(count: int = ATTRIBUTES) -> list[tuple[str, int]]:
    """Names, most of them with blanks, and types 1 to 5."""
    first = [("a-line", 3), ("abstract", 1), ("abstract chevron", 1), ("abstract chevron print", 1)]
    words = ("print", "cotton", "maxi", "sleeve", "party 2")
    rest = [(f"pattern {i} {words[i % 5]}", i % 5 + 1) for i in range(count)]
    return (first + rest)[:count]


def images(per_category: int = 2, *, width: int = ATTRIBUTES, seed: int = 0) -> list[Image]:
    """Images of the 46 categories in use; each product's folder spans train, val and test."""
    random = np.random.default_rng(seed)
    used = [i for i in range(1, 51) if i not in UNUSED]
    found = []
    for number in range(per_category * len(used)):
        label = used[number % len(used)]
        values = np.full(width, -1)
        chosen = random.permutation(width)
        values[chosen[:3]] = 1
        values[chosen[3 : 3 + min(width // 2, 40)]] = 0
        xy = random.integers(0, 300, (LANDMARKS[CATEGORY_TYPES[label - 1]], 2)).tolist()
        found.append(
            Image(
                name=f"img/Sheer_Pleated-Front_{number // 6}/img_{number % 6 + 1:08d}.jpg",
                label=label,
                split=SPLITS[number % 3],
                box=(7, 8, int(random.integers(20, 48)), int(random.integers(20, 64))),
                landmarks=tuple((i % 3, x, y) for i, (x, y) in enumerate(xy)),
                values=tuple(values.tolist()),
            )
        )
    return found


def listing(path: Path, header: str, rows: Sequence[str | bytes]) -> Path:
    """Writes a ``list_*`` file: number of rows, column names, rows padded with blanks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = [row if isinstance(row, bytes) else row.encode() for row in rows]
    text = b"\n".join([b"%d" % len(rows), header.encode(), *(row + b"  " for row in encoded)])
    path.write_bytes(text + b"\n")
    return path


def write_tree(
    root: Path,
    *,
    photo: Photo,
    shown: Sequence[Image] | None = None,
    anno: str = "Anno",
    image_folder: str = "img",
    fine: bool = False,
    coarse: bool = True,
    fixed_width: bool = True,
) -> list[Image]:
    """Writes photographs and annotations; returns the images in the order of the list of labels.

    Args:
        root: of the tree.
        photo: ``photo(seed, size)`` → bytes of a JPEG.
        shown: the images; by default two of each category in use.
        anno: the folder of the coarse annotations, ``Anno`` or ``Anno_coarse``.
        image_folder: ``img`` or ``Img/img``.
        fine: write the fine set, of the same images.
        coarse: write the coarse set.
        fixed_width: attribute values in columns of two, else with single blanks.
    """
    shown = images() if shown is None else shown
    for number, image in enumerate(shown):
        path = root / image_folder / image.name.removeprefix("img/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number, (48, 64)))
    if coarse:
        _write_coarse(root, root / anno, list(shown), fixed_width=fixed_width)
    if fine:
        _write_fine(root / "Anno_fine", list(shown))
    return list(shown)


def write_categories(path: Path) -> None:
    """Writes ``list_category_cloth.txt``."""
    pairs = zip(CATEGORIES, CATEGORY_TYPES, strict=True)
    listing(path, "category_name  category_type", [f"{n:<14} {t}" for n, t in pairs])


def write_values(path: Path, rows: Iterable[tuple[str, Sequence[int]]], *, fixed: bool) -> None:
    """Writes ``list_attr_img.txt``; its header has two names whatever the rows have."""
    form = "{:>2}" if fixed else "{}"
    lines = [f"{n:<60} " + " ".join(form.format(v) for v in values) for n, values in rows]
    listing(path, "image_name  attribute_labels", lines)


def _write_coarse(root: Path, anno: Path, shown: list[Image], *, fixed_width: bool) -> None:
    write_categories(anno / "list_category_cloth.txt")
    pairs = attributes(len(shown[0].values))
    listing(
        anno / "list_attr_cloth.txt",
        "attribute_name  attribute_type",
        [f"{name:<28} {kind}" for name, kind in pairs],
    )
    listing(
        anno / "list_category_img.txt",
        "image_name  category_label",
        [f"{i.name:<70} {i.label}" for i in shown],
    )
    # the files join by name: each has an order of its own
    backwards, rotated = shown[::-1], shown[5:] + shown[:5]
    write_values(
        anno / "list_attr_img.txt", ((i.name, i.values) for i in backwards), fixed=fixed_width
    )
    listing(
        anno / "list_bbox.txt",
        "image_name  x_1  y_1  x_2  y_2",
        [f"{i.name:<70} " + " ".join(f"{v:03d}" for v in i.box) for i in rotated],
    )
    listing(
        anno / "list_landmarks.txt",
        "image_name  clothes_type  landmark_visibility_1 landmark_location_x_1 ...",
        [
            f"{i.name:<70} {i.type}  "
            + "  ".join(f"{v} {x:03d} {y:03d}" for v, x, y in i.landmarks)
            for i in backwards
        ],
    )
    listing(
        root / "Eval/list_eval_partition.txt",
        "image_name  evaluation_status",
        [f"{i.name:<70} {i.split}" for i in rotated],
    )


def _write_fine(anno: Path, shown: list[Image]) -> None:
    write_categories(anno / "list_category_cloth.txt")
    named = [(name, kind) for names, kind in FINE_ATTRIBUTES for name in names.split()]
    listing(
        anno / "list_attr_cloth.txt",
        "attribute_name  attribute_type",
        [f"{name:<20} {kind}" for name, kind in named],
    )
    for split in SPLITS:
        part = [i for i in shown if i.split == split]
        columns = {
            "": [i.name for i in part],
            "_cate": [str(i.label) for i in part],
            "_attr": [" ".join(str(int(v == 1)) for v in i.values[:26]) for i in part],
            "_bbox": [" ".join(f"{v:03d}" for v in i.box) for i in part],
            "_landmarks": [
                " ".join(
                    f"{x:03d} {y:03d}"
                    for _, x, y in (*i.landmarks, *[(2, 0, 0)] * (8 - len(i.landmarks)))
                )
                for i in part
            ],
        }
        for what, rows in columns.items():
            (anno / f"{split}{what}.txt").write_text("".join(f"{row} \n" for row in rows))


def remove(root: Path, *names: str) -> None:
    """Deletes files or folders of the tree."""
    for name in names:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
