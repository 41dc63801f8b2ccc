"""``fashionbatch report``: the file, read back; and looked at in a real browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from typer.testing import CliRunner

from fashionbatch import api
from fashionbatch.cli.app import app
from fashionbatch.errors import OutputExistsError, UsageError
from fashionbatch.store.reader import open_predictions
from tests.reporting.conftest import COLOURS, EVIL, Made, Page
from tests.reporting.test_page import parsed


def data_of(path: str | Path) -> dict[str, Any]:
    return json.loads(parsed(Path(path).read_text(encoding="utf-8")).scripts[0][1])


def test_says_what_evaluate_says(made: Made, report: dict[str, Any]) -> None:
    """Figures are those of the other command; all items are there, the failed one too."""
    data = data_of(report["output"])
    judged = api.evaluate(made.predictions)
    texts = {f["name"]: f["text"] for f in data["figures"]}
    assert texts["Right (top-1)"] == f"{judged['top1']:.1%}"
    assert texts["Items"] == "49"
    cells = {(a, b): n for a, b, n in data["confusion"]["cells"]}
    matrix = judged["confusion"]["counts"]
    for a, row in enumerate(matrix):
        for b, n in enumerate(row):
            assert cells.get((a, b), 0) == n
    assert report["items"] == report["listed"] == len(data["items"]["name"]) == 49
    assert data["items"]["reason"][-1].startswith("decode")
    assert data["failed"]["rows"][0]["name"] == "green/broken.jpg"
    assert len(data["thumbnails"]) == 48 and len(data["heatmaps"]) == 6
    assert len(data["history"]["rows"]) == 6 and len(data["map"]["item"]) == 48
    assert len(data["audit"]["suspects"]) == data["audit"]["total"]["suspects"]


def test_pictures_are_of_their_items(made: Made, report: dict[str, Any]) -> None:
    """No row shows another one's photograph."""
    import base64
    import io

    from PIL import Image

    data = data_of(report["output"])
    for place, name in enumerate(data["items"]["name"]):
        if str(place) not in data["thumbnails"]:
            continue
        raw = base64.b64decode(data["thumbnails"][str(place)].partition(",")[2])
        shown = Image.open(io.BytesIO(raw)).convert("RGB").resize((1, 1)).getpixel((0, 0))
        real = Image.open(made.photos / name).convert("RGB").resize((1, 1)).getpixel((0, 0))
        assert all(abs(a - b) < 12 for a, b in zip(shown, real, strict=True)), name


def test_same_twice(made: Made, report: dict[str, Any], tmp_path: Path) -> None:
    again = api.report(
        made.predictions, model=made.run, output=tmp_path / "again.html", heatmaps=6,
        device="cpu", seed=3,
    )  # fmt: skip
    assert data_of(again["output"]) == data_of(report["output"])


def test_of_a_run(made: Made, tmp_path: Path) -> None:
    """Its validation images are predicted first, once."""
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    made_now = api.report(run, output=tmp_path / "run.html", heatmaps=0, device="cpu")
    card = json.loads((run / "model.json").read_text())
    figures = {f["name"]: f["text"] for f in data_of(made_now["output"])["figures"]}
    assert figures["Right (top-1)"] == f"{card['metrics']['val']['top1']:.1%}"
    before = (run / ".report-val.h5").stat().st_mtime_ns
    api.report(run, output=tmp_path / "run.html", heatmaps=0, device="cpu")
    assert (run / ".report-val.h5").stat().st_mtime_ns == before


def test_few_items_and_pictures(made: Made, tmp_path: Path) -> None:
    """What is bounded is bounded, and the page says so; figures are over all."""
    found = api.report(
        made.predictions, model=made.run, output=tmp_path / "few.html", items=10, thumbnails=4,
        heatmaps=2, device="cpu",
    )  # fmt: skip
    data = data_of(found["output"])
    assert (found["listed"], found["thumbnails"], found["heatmaps"]) == (11, 4, 2)
    assert data["figures"][0]["text"] == "49" and data["listed"].startswith("10 of 48 items")


def test_without_photographs_features_labels_or_run(predictions, tmp_path: Path) -> None:
    """What is not there is left out, and the notes say why."""
    names = [f"{i}.jpg" for i in range(12)]
    path = predictions(
        "p.h5", {"s": (names, ["bad"])}, features=None, engine={"name": "eager", "version": "1"}
    )
    with h5py.File(path, "r+") as file:
        file["items/label"][...] = -1
    found = api.report(path, output=tmp_path / "r.html")
    data = data_of(found["output"])
    told = " ".join(found["notes"])
    for word in ("class of no item", "no features", "No photographs"):
        assert word in told
    for chapter in ("perClass", "confusion", "calibration", "map", "audit", "history"):
        assert data[chapter] is None
    assert found["listed"] == 13


def test_refusals(made: Made, predictions, tmp_path: Path) -> None:
    """Nothing but a report is replaced, and a line says what to do."""
    other = tmp_path / "other.html"
    other.write_text("<!DOCTYPE html><p>mine</p>")
    with pytest.raises(OutputExistsError, match="no report"):
        api.report(made.predictions, output=other)
    assert other.read_text() == "<!DOCTYPE html><p>mine</p>"
    with pytest.raises(UsageError, match="is a folder"):
        api.report(made.predictions, output=tmp_path)
    with pytest.raises(UsageError, match="no heat maps"):
        api.report(made.predictions, heatmap="activations", output=tmp_path / "r.html")
    with pytest.raises(UsageError, match="is a run"):
        api.report(made.run, model=made.run)
    assert not (tmp_path / "r.html").exists()


def test_attributes_alone(predictions, tmp_path: Path) -> None:
    """A model that learnt no category: its items with their most probable attributes."""
    path = predictions(
        "q.h5", {"s": ([f"{i}.jpg" for i in range(9)], ["bad"])}, classes=(),
        attributes=("red", "<i>long</i>", "striped"), engine={"name": "eager"},
    )  # fmt: skip
    found = api.report(path, output=tmp_path / "r.html")
    data = data_of(found["output"])
    assert found["listed"] == 10 and data["perClass"] is None
    assert any("Attributes were not evaluated" in note for note in found["notes"])
    with open_predictions(path) as predicted:
        for row, text in zip(predicted, data["items"]["attributes"], strict=False):
            probable = [(n, p) for n, p in row.attributes[:3] if p >= 0.5]
            assert text == ", ".join(f"{n} {p:.0%}" for n, p in probable)
    assert len(data["map"]["item"]) == 9


def test_command(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "report.html"
    result = CliRunner().invoke(
        app, ["report", str(made.predictions), "--model", str(made.run), "-o", str(output),
              "--heatmaps", "0", "--device", "cpu"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "49 items, 48 pictures, 0 heat maps" in result.output
    assert output.is_file()


def test_fault_46_names_are_text_in_a_browser(shown: Page) -> None:
    """Nothing ran, nothing was loaded, and people read the name as it is."""
    assert shown.driver.execute_script("return window.hacked") is None
    assert not shown.driver.find_elements(By.CSS_SELECTOR, "main b b, main script")
    assert shown.driver.get_log("browser") == []
    assert (
        shown.driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    )
    names = shown.texts("#classes tbody td:first-child")
    assert set(names) == {name.replace("/", "∕") for name in COLOURS}
    shown.driver.find_element(By.ID, "by-name").send_keys("hacked")
    assert EVIL.replace("/", "∕") in shown.texts("#cards li small")[-1]


def test_a_confusion_cell_opens_its_photographs(shown: Page, report: dict[str, Any]) -> None:
    data = data_of(report["output"])
    label, predicted, count = next(c for c in data["confusion"]["cells"] if c[0] != c[1])
    names = [data["classes"][label], data["classes"][predicted]]
    buttons = shown.driver.find_elements(By.CSS_SELECTOR, ".matrix button")
    button = next(
        b for b in buttons
        if f"labelled {names[0]}, predicted {names[1]} " in b.get_attribute("aria-label")
    )  # fmt: skip
    shown.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    cards = shown.driver.find_elements(By.CSS_SELECTOR, "#cards li")
    assert len(cards) == count
    assert all(
        card.text.startswith(names[1]) and f"labelled {names[0]}" in card.text for card in cards
    )
    assert shown.driver.find_elements(By.CSS_SELECTOR, "#cards img")


def test_filters_and_order(shown: Page, report: dict[str, Any]) -> None:
    data = data_of(report["output"])
    items = data["items"]
    shown.choose("by-outcome", "failed")
    assert [t.split("\n")[-1] for t in shown.texts("#cards li")] == ["green/broken.jpg"]
    shown.choose("by-outcome", "right")
    shown.choose("order", "least sure first")
    right = [
        (items["confidence"][i], items["name"][i]) for i in range(len(items["name"]))
        if items["reason"][i] is None and items["label"][i] == items["predicted"][i] >= 0
    ]  # fmt: skip
    assert len(shown.texts("#cards li")) == len(right)
    assert shown.texts("#cards li")[0].endswith(min(right)[1])
    shown.click("#heat")
    assert len(shown.texts("#cards li")) < len(right)


def test_tables_are_sorted_by_their_heads_and_keys(shown: Page) -> None:
    column = "#classes tbody td:nth-child(4)"
    head = "#classes thead th:nth-child(4)"
    shown.click(f"{head} button")
    falling = shown.texts(column)
    values = [float(t.rstrip("%")) for t in falling]
    assert values == sorted(values, reverse=True)
    button = shown.driver.find_element(By.CSS_SELECTOR, f"{head} button")
    button.send_keys(Keys.ENTER)
    assert [float(t.rstrip("%")) for t in shown.texts(column)] == sorted(values)
    found = shown.driver.find_element(By.CSS_SELECTOR, head).get_attribute("aria-sort")
    assert found == "ascending"


def test_arrow_keys_walk_the_matrix(shown: Page) -> None:
    """One stop of the tab key; from the first number down to the next."""
    first = shown.driver.find_element(By.CSS_SELECTOR, ".matrix button[tabindex='0']")
    first.send_keys(Keys.ARROW_DOWN)
    active = shown.driver.switch_to.active_element
    assert active != first and active.get_attribute("tabindex") == "0"
    assert int(active.get_attribute("data-row")) > int(first.get_attribute("data-row"))


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_phones_and_the_dark(shown: Page, width: int, scheme: str) -> None:
    """The page is no wider than the screen, and its paper is as bright as was asked for."""
    driver = shown.driver
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        script = "return [document.documentElement.scrollWidth, innerWidth]"
        needed, there = driver.execute_script(script)
        assert needed <= there
        paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        red = int(paper.removeprefix("rgb(").split(",")[0])
        assert (red > 128) == (scheme == "light")
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_run_that_was_calibrated_since(made: Made, tmp_path: Path) -> None:
    """The report's own prediction file is made anew."""
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    (run / "val.h5").write_bytes(b"mine")
    api.report(run, output=tmp_path / "a.html", heatmaps=0, device="cpu")
    api.evaluate(run / ".report-val.h5", calibrate=True, model=run)
    found = api.report(run, output=tmp_path / "a.html", heatmaps=0, device="cpu")
    told = dict(data_of(found["output"])["about"])
    assert "Temperature" in told and "epochs 6" in told["How it was trained"]
    assert (run / "val.h5").read_bytes() == b"mine"


def test_features_that_are_not_finite(predictions, tmp_path: Path) -> None:
    """The rest of the page is made, and a note says why there is no map."""
    names = [f"{i}.jpg" for i in range(40)]
    path = predictions("p.h5", {"s": (names, [])}, engine={"name": "eager"})
    with h5py.File(path, "r+") as file:
        file["features/pooled"][3, 1] = float("inf")
    found = api.report(path, output=tmp_path / "r.html")
    data = data_of(found["output"])
    assert data["map"] is None and data["audit"] is None and data["perClass"]
    assert sum("row 3 are not finite" in note for note in found["notes"]) == 2


def test_labels_that_are_no_classes_are_told(predictions, tmp_path: Path) -> None:
    path = predictions("p.h5", {"s": (["a.jpg", "b.jpg"], [])}, engine={"name": "eager"})
    (tmp_path / "l.csv").write_text("image,label\na.jpg,bag\nb.jpg,skort\n")
    found = api.report(path, labels=tmp_path / "l.csv", output=tmp_path / "r.html")
    assert any("'skort', which is no class" in note for note in found["notes"])
    with pytest.raises(UsageError, match="is a folder: name a prediction file"):
        api.report(tmp_path, output=tmp_path / "r.html")


def test_a_cell_says_what_is_not_listed(browser, made: Made, tmp_path: Path) -> None:
    """Of a report of few items: how many more there are."""
    found = api.report(
        made.predictions, model=made.run, output=tmp_path / "few.html", items=6, heatmaps=0,
        device="cpu",
    )  # fmt: skip
    page = Page(browser, found["output"])
    largest = max(data_of(found["output"])["confusion"]["cells"], key=lambda c: c[2])
    buttons = browser.find_elements(By.CSS_SELECTOR, ".matrix button")
    button = next(b for b in buttons if b.text == str(largest[2]))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    here = len(page.texts("#cards li"))
    assert f"{largest[2] - here} more are not in this report" in page.texts("#gallery .pages")[0]


def test_the_map_by_keyboard_and_pointer(shown: Page, report: dict[str, Any]) -> None:
    """One stop of the tab key; arrows walk, Enter and a click open that item and no other."""
    data = data_of(report["output"])
    stops = shown.driver.find_elements(By.CSS_SELECTOR, ".map circle[tabindex='0']")
    assert len(stops) == 1
    stops[0].send_keys(Keys.ARROW_RIGHT)
    active = shown.driver.switch_to.active_element
    assert active != stops[0] and active.get_attribute("tabindex") == "0"
    name = active.get_attribute("aria-label").rpartition(": ")[0]
    assert shown.texts("#tip div")[-1] == name
    active.send_keys(Keys.ENTER)
    assert [t.split("\n")[-1] for t in shown.texts("#cards li")] == [name]
    shown.click("#map-pictures")
    image = shown.driver.find_elements(By.CSS_SELECTOR, ".map image")[0]
    shown.driver.execute_script(
        "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", image
    )
    assert len(shown.texts("#cards li")) == 1
    assert shown.texts("#cards li small")[-1] in data["items"]["name"]


def test_the_last_page_keeps_the_focus(shown: Page) -> None:
    shown.click("#cards")
    button = shown.driver.find_element(By.CSS_SELECTOR, "#gallery .pages button:last-child")
    button.send_keys(Keys.ENTER)
    button.send_keys(Keys.ENTER)
    assert shown.driver.switch_to.active_element == button
    assert button.get_attribute("aria-disabled") == "true"
