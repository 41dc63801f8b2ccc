"""``fashionbatch doctor``: what works, what is missing, what is broken, each in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fashionbatch.cli.app import app


def called(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-m", "fashionbatch", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_all_works_here(tmp_path: Path) -> None:
    """Everything is looked at, and nothing is left on the disk."""
    result = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["broken"] == 0
    found = {}
    for each in told["findings"]:
        found.setdefault(each["about"], []).append(each["text"])
    assert {"installation", "packages", "devices", "decoding", "engines", "plugins", "disk"} <= (
        found.keys()
    )
    assert "eager" in found["engines"][0] and "torch " in found["packages"][0]
    assert str(tmp_path) in found["disk"][0]
    assert not list(tmp_path.iterdir())
    assert "All that is needed works" in CliRunner().invoke(app, ["doctor", str(tmp_path)]).output


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    """A plugin, a package and a decoder that fail; the rest is looked at all the same."""
    info = tmp_path / "half-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[fashionbatch]\nhalf = half_plugin\n")
    (tmp_path / "half_plugin.py").write_text("raise RuntimeError('half a plugin')\n")
    (tmp_path / "safetensors.py").write_text("raise ImportError('no such symbol')\n")
    (tmp_path / "simplejpeg.py").write_text("raise ImportError('libjpeg is gone')\n")
    result = called(tmp_path / "half_plugin.py", path=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for text in (
        "half (half 1.2)", "half a plugin", "no such symbol", "libjpeg is gone",
        "NotADirectoryError", "CPU cores",
    ):  # fmt: skip
        assert text in result.stdout, (text, result.stdout)
    lines = result.stdout.splitlines()
    assert sum(line.startswith("BROKEN") for line in lines) >= 5


def test_what_an_extra_would_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the work goes on, and how to get it is said."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pyarrow" else found(name, *a)
    )
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    [extra] = [f for f in json.loads(result.stdout)["findings"] if f["about"] == "parquet"]
    assert extra["state"] == "note" and "fashionbatch[parquet]" in extra["text"]
