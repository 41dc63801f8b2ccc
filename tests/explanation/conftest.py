"""A small trained model."""

from __future__ import annotations

from pathlib import Path

import pytest

from fashionbatch import api

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model trained on the sample."""
    folder = tmp_path_factory.mktemp("runs")
    api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", limit=32, epochs=1, workers=0,
        device="cpu", output=folder, name="run", batch_size=16,
    )  # fmt: skip
    return folder / "run"
