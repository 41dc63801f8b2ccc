"""What only pixels and paper tell of a report."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.reporting.conftest import COLOURS, Page

#: of the style sheet, light and dark: paper, cells of right answers, cells of mistakes
SCHEMES = {
    "light": ((255, 255, 255), (8, 80, 140), (179, 38, 30)),
    "dark": ((20, 23, 28), (109, 183, 242), (255, 138, 128)),
}


@contextmanager
def media(driver: webdriver.Chrome, scheme: str, media: str = "") -> Iterator[None]:
    """What the user's system asks for, and whether it is for the screen or for paper."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def pixels(shown: webdriver.Chrome | WebElement) -> np.ndarray:
    """What is seen of the window or of an element: uint8 ``[H, W, 3]``."""
    png = (
        shown.get_screenshot_as_png()
        if isinstance(shown, webdriver.Chrome)
        else shown.screenshot_as_png
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def near(found: np.ndarray, colour: Any, by: float = 4) -> np.ndarray:
    """Which pixels have a colour."""
    return (np.abs(found.astype(int) - np.asarray(colour)) <= by).all(axis=-1)


def centred(shown: Page, how: str) -> WebElement:
    """An element in the middle of the window, with its pictures."""
    element = shown.driver.find_element(By.CSS_SELECTOR, how)
    shown.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    shown.driver.execute_async_script(
        "const [element, done] = arguments;"
        "Promise.all([...element.querySelectorAll('img')].map((i) => i.decode())).then(done)",
        element,
    )
    return element


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_is_painted(shown: Page, scheme: str) -> None:
    """Paper of its colour, ink upon it that stands out, and each cell as strong as its share."""
    paper, right, wrong = SCHEMES[scheme]
    with media(shown.driver, scheme):
        seen = pixels(shown.driver)
        assert 0.3 < near(seen, paper).mean() < 0.98
        distance = np.abs(seen.astype(int) - paper).max(axis=-1)
        assert (distance > 150).mean() > 0.003
        seen_shares = []
        for button in shown.driver.find_elements(By.CSS_SELECTOR, ".matrix button"):
            row, column = (button.get_attribute(f"data-{name}") for name in ("row", "column"))
            share = float(str(button.get_attribute("title")).rpartition("(")[2].partition("%")[0])
            strength = 0.12 + 0.88 * share / 100
            wanted = np.asarray(right if row == column else wrong) * strength
            wanted += np.asarray(paper) * (1 - strength)
            assert near(pixels(button)[2:6, 2:6], wanted).all(), (row, column)
            seen_shares.append(share)
        assert min(seen_shares) < 50 < max(seen_shares)


def test_photographs_and_heat_are_painted(shown: Page) -> None:
    """A card shows its item's colour, and with heat more colours than that one."""
    shown.choose("by-outcome", "right")
    shown.choose("by-label", "green")
    plain = pixels(centred(shown, "#cards li .image"))[20:-20, 20:-20]
    assert np.abs(plain.mean(axis=(0, 1)) - COLOURS["green"]).max() < 25
    shown.choose("by-outcome", "any")
    shown.choose("by-label", "any")
    shown.click("#heat")
    warm = pixels(centred(shown, "#cards li .image"))[20:-20, 20:-20]
    assert warm.std(axis=(0, 1)).max() > 2 * plain.std(axis=(0, 1)).max()


def test_dark_screens_print_on_white(shown: Page) -> None:
    """Ink costs money: for paper the colours are those of the light page."""
    with media(shown.driver, "dark", "print"):
        assert near(pixels(shown.driver), (255, 255, 255)).mean() > 0.5


def test_printed_pages_have_what_can_be_read_and_nothing_to_press(shown: Page) -> None:
    """All chapters are on paper, the contents, filters and buttons that turn pages are not."""
    titles = shown.texts("section > h2")
    assert {link.text for link in shown.driver.find_elements(By.CSS_SELECTOR, "nav a")} == set(
        titles
    )
    made = shown.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    reader = PdfReader(io.BytesIO(base64.b64decode(made["data"])))
    pages = [page.extract_text() for page in reader.pages]
    # letters that the font joins are apart again
    text = unicodedata.normalize("NFKC", " ".join(" ".join(pages).split()))
    assert 3 <= len(pages) <= 30 and all(page.strip() for page in pages)
    assert shown.driver.title in text
    assert all(title in text for title in titles)
    assert " ".join(titles[:2]) not in text  # as in the contents
    for control in ("Name contains", "Probability from", "what the model looked at", "Show all"):
        assert control in shown.driver.page_source and control not in text
    for turning in ("Previous", "Next →"):
        assert turning in shown.driver.page_source and turning not in text
    for name in COLOURS:
        assert name.replace("/", "∕") in text
    assert "broken.jpg" in text
    assert sum(len(page.images) for page in reader.pages) >= 48
