"""How long a report takes to make and to open; prints one table, writes JSON.

    uv run python -m tests.benchmarks.report [--items N] [--repeats N] [--json FILE]

N photographs of noise are written into a folder, and a prediction file of made-up numbers for them;
the report has its default bounds. It is opened in headless Chromium, each time in a new process:
"opened" is from the start of the navigation to the end of the page's script, "shown" to the first
frame behind that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import fashionbatch
from tests import predictions

_CLASSES = 50
_SHOWN = """
const done = arguments[0];
requestAnimationFrame(() => requestAnimationFrame(() => done([
    performance.getEntriesByType("navigation")[0].domComplete, performance.now()])));
"""


def opened(path: Path) -> tuple[float, float]:
    """Seconds to the end of the script, and to the frame behind it."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1200,1000"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(path.as_uri())
        complete, frame = driver.execute_async_script(_SHOWN)
    finally:
        driver.quit()
    return complete / 1000, frame / 1000


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        photos = root / "photos"
        photos.mkdir()
        names = [f"{i:06d}.jpg" for i in range(given.items)]
        for name in names:
            pixels = draw.integers(0, 255, (12, 9, 3), np.uint8)
            Image.fromarray(pixels).resize((300, 400)).save(photos / name, quality=80)
        classes = [f"class {i:02d}" for i in range(_CLASSES)]
        path = predictions.write(
            root / "p.h5", {"s": (names, [])}, classes=classes, topk=5, probabilities=True,
            width=(256,), attrs={"source": str(photos)}, engine={"name": "none"},
        )  # fmt: skip
        with h5py.File(path, "r+") as file:  # right of most
            labels = file["predictions/topk_index"][:, 0].copy()
            wrong = draw.random(given.items) < 0.2
            labels[wrong] = draw.integers(0, _CLASSES, int(wrong.sum()))
            file["items/label"][...] = labels
        began = time.perf_counter()
        made = fashionbatch.report(path, output=root / "report.html", heatmaps=0)
        seconds = time.perf_counter() - began
        times = [opened(root / "report.html") for _ in range(given.repeats)]
    found = {
        "items": given.items,
        "listed": made["listed"],
        "pictures": made["thumbnails"],
        "bytes": made["bytes"],
        "make": seconds,
        "opened": statistics.median(t for t, _ in times),
        "shown": statistics.median(t for _, t in times),
    }
    print(
        f"{found['items']:,} items, {found['listed']:,} listed, {found['pictures']:,} pictures, "
        f"{found['bytes'] / 1e6:.1f} MB: made in {seconds:.1f} s, opened in "
        f"{found['opened']:.2f} s, shown in {found['shown']:.2f} s"
    )
    if given.json:
        given.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
