"""What people do with a prediction file: export, merge, search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_cli import only


def test_export(cli, predictions):
    """A line on standard error; with --json, one on standard output."""
    predictions()
    result = cli("export", "p.h5")
    assert (result.code, result.out) == (0, "")
    assert result.err == "3 predictions, 1 failed: p.csv\n"
    told = json.loads(cli("export", "p.h5", "--to", "parquet", "--features", "--json").out)
    assert told == {"output": "p.parquet", "format": "parquet", "predicted": 3, "failed": 1}
    only(cli("export", "p.h5"), 2, "p.csv exists", "--exist-ok")
    assert cli("export", "p.h5", "--exist-ok", "-o", "out/t.npz").code == 0
    assert Path("out/t.npz").exists()


def test_export_misuse(cli, predictions):
    """What cannot be exported is refused in one line, with exit code 2."""
    predictions()
    only(cli("export", "nowhere.h5"), 2, "nowhere.h5 does not exist")
    only(cli("export", "p.h5", "--to", "xlsx"), 2, "csv, parquet, npz")
    only(cli("export", "p.h5", "--probabilities"), 2, "--probabilities")
    Path("text.h5").write_text("text")
    only(cli("export", "text.h5"), 1, "text.h5 cannot be read as HDF5")


def test_merge(cli, predictions):
    """Files become one; the same item twice is refused by name until it is said which to keep."""
    predictions("a.h5", {"s": (["x", "y"], ["z"])})
    predictions("b.h5", {"s": (["y", "w"], [])})
    only(cli("merge", "a.h5", "b.h5", "-o", "c.h5"), 2, "'y'", "--duplicates first")
    result = cli("merge", "a.h5", "b.h5", "-o", "c.h5", "--duplicates", "first")
    assert (result.code, result.out) == (0, "")
    assert result.err == "3 predictions, 1 failed, 1 duplicate left out: c.h5\n"
    only(cli("merge", "a.h5", "b.h5", "-o", "c.h5"), 2, "c.h5 exists")
    only(cli("merge", "a.h5", "b.h5"), 2, "-o")
    only(cli("merge", "a.h5", "-o", "d.h5"), 2, "at least two")
    predictions("e.h5", {"t": (["v"], [])}, model="n" * 64)
    only(cli("merge", "a.h5", "e.h5", "-o", "d.h5"), 2, "e.h5 cannot be merged", "other model")
    predictions("e.h5", {"t": (["v"], [])})
    told = json.loads(cli("merge", "a.h5", "e.h5", "-o", "d.h5", "--json").out)
    assert told == {
        "output": "d.h5", "files": 2, "items": 4, "predicted": 3, "failed": 1, "duplicates": 0,
    }  # fmt: skip


def test_search(cli, predictions):
    """A table of the neighbours, and a contact sheet where the images are found."""
    Path("photos").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 9), (60 * i, 0, 0)).save(f"photos/{i}.png")
    names = [f"{i}.png" for i in range(4)]
    path = predictions(shards={"s": (names, [])})
    result = cli("search", "p.h5", "1.png", "-k", 2)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "1.png" and lines[1].split() == [
        "rank", "similarity", "name", "class", "probability",
    ]  # fmt: skip
    assert len(lines) == 4 and result.err.startswith("No contact sheet: ")
    result = cli("search", "p.h5", "1.png", "3.png", "-k", 2, "--catalog", "photos", "--json")
    told = json.loads(result.out)
    assert [q["name"] for q in told["queries"]] == ["1.png", "3.png"]
    assert told["queries"][1]["sheet"] == "search/p/3.png.png" and result.code == 0
    assert np.asarray(Image.open("search/p/3.png.png")).std() > 0
    Path("photos/0.png").unlink()
    result = cli("search", "p.h5", "1.png", "-k", 3, "--catalog", "photos")
    assert (result.code, "Warning: 0.png: No such file" in result.err) == (3, True)
    assert path.exists()


def test_search_misuse(cli, predictions, run):
    """What is neither file nor row, another model, none at all, and a wrong number."""
    predictions()
    Image.new("RGB", (8, 9)).save("x.png")
    only(cli("search", "p.h5", "y.png"), 2, "no file y.png", "no row of p.h5")
    only(cli("search", "p.h5", "x.png"), 2, "--model")
    only(cli("search", "p.h5", "x.png", "--model", run), 2, "did not make the predictions")
    only(cli("search", "p.h5", "c", "-k", 0), 2, "-k 0")
    only(cli("search", "p.h5", "c", "--features", "x"), 2, "'x'", "pooled")


@pytest.mark.parametrize("command", ["export", "merge", "search"])
def test_help_names_every_option(cli, command):
    """The help has an example and what the options are for."""
    text = cli(command, "--help").out
    assert f"Example: fashionbatch {command}" in text and "--json" in text
