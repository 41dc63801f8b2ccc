"""A catalogue with hostile names, a model, its predictions, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from fashionbatch import api

COLOURS = {"<b>red</b>": (200, 30, 30), "green": (30, 160, 60), "blue & <script>": (30, 60, 200)}
EVIL = "</script><script>window.hacked=1</script>.png"


class Made(NamedTuple):
    """A run, and what it predicted."""

    run: Path
    predictions: Path
    photos: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three classes of plain colours, some labels wrong, one file damaged, one name hostile."""
    root = tmp_path_factory.mktemp("report")
    draw = np.random.default_rng(0)
    for number, name in enumerate(COLOURS):
        folder = root / "photos" / name.replace("/", "∕")
        folder.mkdir(parents=True)
        for i in range(16):
            # the last of each class looks like the next class
            seen = list(COLOURS.values())[(number + (i == 15)) % 3]
            pixels = np.clip(draw.normal(seen, 12, (40, 48, 3)), 0, 255).astype(np.uint8)
            # a slash cannot be in a file's name
            file = EVIL.replace("/", "∕") if (number, i) == (1, 0) else f"{i:02d}.png"
            Image.fromarray(pixels).save(folder / file)
    (root / "photos" / "green" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    api.shard(root / "photos", output=root / "shards", split="train=0.75,val=0.25", seed=1)
    api.train(
        data=root / "shards", backbone="small-resnet", weights="none", img_size=32, epochs=6,
        freeze_epochs=0, lr=0.02, batch_size=8, workers=0, device="cpu", output=root, name="run",
    )  # fmt: skip
    api.predict(
        root / "photos", model=root / "run", output=root / "p.h5", probabilities=True,
        engine="eager", device="cpu", workers=1,
    )  # fmt: skip
    return Made(root / "run", root / "p.h5", root / "photos")


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium that moves at once."""
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in found:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(found[0])
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "force-prefers-reduced-motion"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1200,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(str(found[1]))) as driver:
        yield driver


@pytest.fixture(scope="session")
def report(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command gives for them."""
    output = tmp_path_factory.mktemp("html") / "report.html"
    return api.report(
        made.predictions, model=made.run, output=output, heatmaps=6, device="cpu", seed=3
    )


class Page:
    """A report in a browser."""

    def __init__(self, driver: webdriver.Chrome, path: str) -> None:
        self.driver = driver
        driver.get(Path(path).as_uri())
        assert driver.execute_script("return document.documentElement.dataset.ready") == "yes"

    def click(self, how: str) -> None:
        element = self.driver.find_element(By.CSS_SELECTOR, how)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def texts(self, how: str) -> list[str]:
        return [e.text for e in self.driver.find_elements(By.CSS_SELECTOR, how)]

    def choose(self, name: str, text: str) -> None:
        Select(self.driver.find_element(By.ID, name)).select_by_visible_text(text)


@pytest.fixture
def shown(browser: webdriver.Chrome, report: dict[str, Any]) -> Page:
    return Page(browser, report["output"])
