"""The commands that list recipes and show networks."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fashionbatch import recipe


def test_list(cli: Callable[..., Any]) -> None:
    """A name and a summary each; as JSON all that is known."""
    out = cli("recipes").out
    listed = json.loads(cli("recipes", "--json").out)
    assert [r["name"] for r in listed] == recipe.names()
    for entry in listed:
        assert entry["name"] in out
        assert entry["summary"] in out


def test_show(cli: Callable[..., Any], tmp_path: Path) -> None:
    """The TOML can be copied, changed and used; a path or a run's options show, too."""
    out = cli("recipes", "show", "table1-2").out
    (tmp_path / "mine.toml").write_text(out)
    shown = json.loads(cli("recipes", "show", "table1-2", "--json").out)
    copied = json.loads(cli("recipes", "show", "mine.toml", "--json").out)
    assert copied["options"] == shown["options"]
    values = tomllib.loads(out)
    assert {k: v for k, v in values.items() if k in shown["options"]} == shown["options"]
    (tmp_path / "x.toml").write_text('data = "shards/x"\n')
    assert json.loads(cli("recipes", "show", "x.toml", "--json").out)["options"]["data"]
    assert cli("recipes", "show", "nix").code == 2


def test_backbones_show_has_the_papers_numbers(cli: Callable[..., Any]) -> None:
    """53,120 statistics; the last two and three blocks, in the table and in the JSON."""
    about = json.loads(cli("backbones", "show", "resnet50", "--json").out)
    assert about["batch_norm_statistics"] == 53_120
    assert about["trained_by_unfreeze"][1:3] == [8_925_184, 14_964_736]
    assert about["backbone_parameters"] == 23_508_032
    rows = [
        " ".join(line.split()) for line in cli("backbones", "show", "resnet50").out.splitlines()
    ]
    for row in (
        "batch-norm statistics 53,120",
        "head dense 1024 with ReLU, one output per class",
        "none the head only 0 0 %",
        "blocks:2 layer4.1 to the end 8,925,184 37 %",
        "blocks:3 layer4.0 to the end 14,964,736 63 %",
        "all the whole base 23,508,032 100 %",
    ):
        assert row in rows
