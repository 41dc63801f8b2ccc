"""Runs by recipe: recorded, repeated from their own configuration, resumed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fashionbatch import api
from fashionbatch.errors import UsageError

RECIPE = 'summary = "Mine"\nlr = 0.01\nopt = "sgd"\npatience = 4\naugment = "flip"\n'


def config(folder: Path) -> dict[str, Any]:
    values = tomllib.loads((folder / "config.toml").read_text())
    return {k: v for k, v in values.items() if k not in ("name", "recipe")}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_run_by_a_recipe(train: Any, tmp_path: Path, mine: Path) -> None:
    """config.toml records the recipe, and gives the same run as a recipe; --resume goes on."""
    first = train("a", recipe=mine, epochs=1, set=["lr=0.02"])
    made = tomllib.loads((tmp_path / "a" / "config.toml").read_text())
    assert made["recipe"] == str(mine)
    assert (made["lr"], made["opt"], made["patience"], made["augment"]) == (0.02, "sgd", 4, "flip")
    again = api.train(recipe=tmp_path / "a" / "config.toml", output=tmp_path, name="b")
    assert config(tmp_path / "b") == config(tmp_path / "a")
    assert again["val"] == first["val"]

    # on with the same command line; the values count, not where they were read
    assert train("a", recipe=mine, epochs=2, set=["lr=0.02"], resume=True)["epochs"] == 2
    moved = mine.rename(tmp_path / "moved.toml")
    assert train("a", recipe=moved, epochs=2, set=["lr=0.02"], resume=True)["epochs"] == 2
    with pytest.raises(UsageError, match="--lr"):
        train("a", recipe=moved, epochs=3, resume=True)
