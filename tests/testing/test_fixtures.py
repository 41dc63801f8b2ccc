"""The fixtures for authors, where the tests of fashionbatch-hello do not show them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from fashionbatch.testing.fixtures import CLASSES, Cli, Photograph, catalogue, cli, photograph  # noqa: F401


def test_another_exit_code_is_an_error(cli: Cli) -> None:  # noqa: F811
    """With what the command printed; the one that is expected is not."""
    with pytest.raises(AssertionError, match="ended with 2: Error: nowhere does not exist"):
        cli("shard", "nowhere")
    told = cli("shard", "nowhere", code=2)
    assert (told.code, told.out) == (2, "") and "nowhere" in told.err
    assert cli("recipes", "--json").json


def test_photographs_are_the_same_each_time(
    photograph: Photograph,  # noqa: F811
    catalogue: Path,  # noqa: F811
) -> None:
    assert photograph(3) == photograph(3) != photograph(4)
    with Image.open(io.BytesIO(photograph(1, (30, 20), "PNG"))) as image:
        assert (image.format, image.size) == ("PNG", (30, 20))
    found = {folder.name: len(list(folder.iterdir())) for folder in catalogue.iterdir()}
    assert found == dict.fromkeys(CLASSES, 12)
