"""Which package each component of a result comes from, and what is said where it is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest
from PIL import Image

import fashionbatch
from fashionbatch import plugins

OURS = {"provider": "fashionbatch", "version": fashionbatch.__version__}


@pytest.fixture
def orphan(cli, run, photos) -> Path:
    """A run whose network came from a package that is not here, and what it once predicted."""
    cli("predict", photos, "--model", run, "--workers", 1, "--device", "cpu", "-o", "p.h5")
    shutil.copytree(run, "orphan")
    card = json.loads(Path("orphan/model.json").read_text())
    card["backbone"].update(provider="fashionbatch-gone", version="2.1")
    Path("orphan/model.json").write_text(json.dumps(card))
    return Path("orphan")


def test_a_missing_package_is_named(cli, orphan, photos):
    """In one line, with what to install, by every command that runs the network."""
    photo = photos / "ant" / "0.png"
    for arguments in (
        ["predict", photos, "--model", orphan],
        ["explain", "grad-cam", photo, "--model", orphan],
        ["report", orphan],
        ["report", "p.h5", "--model", orphan],
        ["search", "p.h5", photo, "--model", orphan],
    ):
        told = cli(*arguments)
        line = told.err.splitlines()[-1]
        assert told.code == 1, (arguments, told.err)
        assert line.startswith("Error: ") and "Traceback" not in told.err
        assert "'small-resnet' of the package fashionbatch-gone 2.1" in line
        assert line.endswith("pip install fashionbatch-gone")


def test_a_report_goes_without_heat_maps(cli, orphan):
    """What was predicted can be reported without the network."""
    assert cli("report", "p.h5", "--model", orphan, "--heatmaps", 0, "-o", "page.html").code == 0
    assert "small-resnet of fashionbatch" in Path("page.html").read_text()


def test_a_package_that_is_switched_off_is_named(cli, orphan, photos, monkeypatch):
    """Or that is broken: installing it again would not help."""
    off = plugins.Plugin(
        name="gone", distribution="fashionbatch-gone", version="2.1", target="gone",
        status="disabled", disabled="`fashionbatch plugins enable gone` switches it on",
    )  # fmt: skip
    known = (*plugins.discover(), off)
    monkeypatch.setattr(plugins, "discover", lambda: known)
    told = cli("predict", photos, "--model", orphan)
    assert told.code == 1
    assert "plugin gone is disabled: `fashionbatch plugins enable gone`" in told.err


def test_results_name_their_packages(cli, run, photos):
    """Data set, model, prediction file, picture and report."""
    assert cli("shard", photos, "-o", "set").code == 0
    assert json.loads(Path("set/dataset.json").read_text())["source"]["component"] == {
        "name": "folder", **OURS,
    }  # fmt: skip
    card = json.loads((run / "model.json").read_text())
    assert card["backbone"] == {"name": "small-resnet", **OURS}
    kinds = {c["kind"] for c in card["lineage"]["components"]}
    assert {"optimizer", "schedule"} <= kinds
    assert all(c.items() >= OURS.items() for c in card["lineage"]["components"])
    cli("predict", photos, "--model", run, "--engine", "eager", "--device", "cpu", "-o", "p.h5")
    with h5py.File("p.h5") as file:
        assert json.loads(file.attrs["components"]) == [
            {"name": "small-resnet", **OURS, "kind": "backbone"},
            {"name": "eager", **OURS, "kind": "engine"},
        ]
    cli("explain", "grad-cam", photos / "ant" / "0.png", "--model", run, "-o", "why")
    (picture,) = Path("why").iterdir()
    with Image.open(picture) as image:
        assert image.text["Provider"] == f"fashionbatch {OURS['version']}"
    assert cli("report", "p.h5", "--model", run, "-o", "page.html").code == 0
    page = Path("page.html").read_text()
    for name in ("small-resnet", "eager", "grad-cam", "adam"):
        assert f"{name} of fashionbatch {OURS['version']}" in page
