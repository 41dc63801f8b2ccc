"""Reading DeepFashion's annotations at full size: seconds and memory of the parser.

    uv run python tests/benchmarks/deepfashion.py FOLDER [--rows 289222] [--json FILE] [--keep]

Generates two annotation sets below FOLDER, the same each time: one that calls most attributes
negative, in columns of fixed width, and one that leaves most unknown, with single blanks. Each is
read to its end in a process of its own, which counts what it read. Needs 1.7 GB of disk; the sets
are deleted afterwards, unless kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

IMAGES, ATTRIBUTES, CATEGORIES = 289_222, 1_000, 50
POSITIVES = 3.3  # of an image, on average
UNKNOWN = {"mostly negative": 0.05, "mostly unknown": 0.95}
PER_PRODUCT = 52

READ = """
import json, re, sys, time
from pathlib import Path
from fashionbatch.sources.base import Item
from fashionbatch.sources.deepfashion import DeepFashionSource
began = time.perf_counter()
counts = dict.fromkeys(("items", "positive", "unknown", "landmarks", "boxes", "splits"), 0)
for item in DeepFashionSource(Path(sys.argv[1])).items():
    assert isinstance(item, Item), item
    counts["items"] += 1
    counts["positive"] += len(item.positive)
    counts["unknown"] += len(item.unknown)
    counts["landmarks"] += len(item.landmarks)
    counts["boxes"] += item.box is not None
    counts["splits"] += item.split is not None
seconds = time.perf_counter() - began
# not getrusage: that begins with what the process had that started this one
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"seconds": round(seconds, 1), "peak_mb": round(peak), **counts}))
"""


def names(rows: int) -> list[str]:
    """The images' names, as DeepFashion has them."""
    return [
        f"img/Product_{i // PER_PRODUCT:05d}_Dress/img_{i % PER_PRODUCT + 1:08d}.jpg"
        for i in range(rows)
    ]


def listing(path: Path, header: str, rows: list[str]) -> None:
    """Writes a ``list_*`` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([str(len(rows)), header, *rows]) + "\n")


def write_small(folder: Path, images: list[str], random: np.random.Generator) -> int:
    """Writes all but the attributes of images; returns the number of landmarks."""
    (folder / "img").mkdir()
    anno = folder / "Anno"
    kinds = [1] * 20 + [2] * 16 + [3] * 14
    listing(
        anno / "list_category_cloth.txt",
        "category_name  category_type",
        [f"Category_{i:<20} {kind}" for i, kind in enumerate(kinds)],
    )
    listing(
        anno / "list_attr_cloth.txt",
        "attribute_name  attribute_type",
        [f"some attribute {i:<20} {i % 5 + 1}" for i in range(ATTRIBUTES)],
    )
    labels = random.integers(0, CATEGORIES, len(images))
    points = random.integers(0, 300, (len(images), 8, 2))
    category, box, landmark, partition = [], [], [], []
    split = random.choice(["train", "val", "test"], len(images), p=[0.72, 0.14, 0.14])
    total = 0
    for i, name in enumerate(images):
        kind = kinds[labels[i]]
        count = {1: 6, 2: 4, 3: 8}[kind]
        total += count
        padded = f"{name:<70}"
        category.append(f"{padded} {labels[i] + 1}")
        box.append(f"{padded} {points[i, 0, 0]:03d} {points[i, 0, 1]:03d} 232 273")
        xy = " ".join(f"0 {x:03d} {y:03d}" for x, y in points[i, :count].tolist())
        landmark.append(f"{padded} {kind} {xy}")
        partition.append(f"{padded} {split[i]}")
    listing(anno / "list_category_img.txt", "image_name  category_label", category)
    listing(anno / "list_bbox.txt", "image_name  x_1  y_1  x_2  y_2", box)
    listing(
        anno / "list_landmarks.txt", "image_name  clothes_type  landmark_visibility_1", landmark
    )
    listing(folder / "Eval/list_eval_partition.txt", "image_name  evaluation_status", partition)
    return total


def write_attributes(
    path: Path, images: list[str], unknown: float, fixed: bool, random: np.random.Generator
) -> dict[str, int]:
    """Writes ``list_attr_img.txt``; returns how many values are positive and unknown."""
    texts = np.frombuffer(b"-1 \x000 \x001 ", np.uint8).reshape(3, 3)  # NUL: padding or nothing
    counts = {"positive": 0, "unknown": 0}
    with path.open("wb") as file:
        file.write(f"{len(images)}\nimage_name  attribute_labels\n".encode())
        for start in range(0, len(images), 1000):
            part = images[start : start + 1000]
            drawn = random.random((len(part), ATTRIBUTES), np.float32)
            values = np.where(drawn < unknown, 0, -1)
            values[drawn > 1 - POSITIVES / ATTRIBUTES] = 1
            counts["positive"] += int((values == 1).sum())
            counts["unknown"] += int((values == 0).sum())
            for name, row in zip(part, texts[values + 1], strict=True):
                text = row.tobytes().replace(b"\0", b" " if fixed else b"")
                file.write(f"{name:<70} ".encode() + text + b"\n")
    return counts


def measure(folder: Path, name: str, rows: int) -> dict[str, object]:
    """Generates a set, reads it in a process of its own, and compares what was read."""
    random = np.random.default_rng(0)
    images = names(rows)
    landmarks = write_small(folder, images, random)
    path = folder / "Anno/list_attr_img.txt"
    made = write_attributes(path, images, UNKNOWN[name], name == "mostly negative", random)
    made |= {"items": rows, "boxes": rows, "splits": rows, "landmarks": landmarks}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder)], check=True, capture_output=True, text=True
    )
    read = json.loads(done.stdout)
    wrong = {key: (read[key], value) for key, value in made.items() if read[key] != value}
    if wrong:
        raise SystemExit(f"{name}: read and written differ: {wrong}")
    return {
        "set": name,
        "rows": rows,
        "attribute_file_mb": round(path.stat().st_size / 1e6),
        "seconds": read["seconds"],
        "peak_mb": read["peak_mb"],
        "positive": read["positive"],
        "unknown": read["unknown"],
    }


def main() -> None:
    """Prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the files are made, below it")
    parser.add_argument("--rows", type=int, default=IMAGES)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--keep", action="store_true", help="do not delete the generated files")
    given = parser.parse_args()
    figures = []
    for name in UNKNOWN:
        folder = given.folder / f"deepfashion-{name.replace(' ', '-')}"
        folder.mkdir(parents=True)  # outside: what was there before is not ours to delete
        try:
            figures.append(measure(folder, name, given.rows))
        finally:
            if not given.keep:
                shutil.rmtree(folder, ignore_errors=True)
    for key in figures[0]:
        print(f"{key:20}" + "".join(f"{figure[key]!s:>18}" for figure in figures))
    text = json.dumps(figures)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
