"""Small trainings on the committed sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashionbatch import api

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``train(name, **options)`` in ``tmp_path``: small-resnet, 16 images of each split."""

    def run(name: str = "run", **options: Any) -> dict[str, Any]:
        values = {
            "data": SAMPLE, "backbone": "small-resnet", "weights": "none", "limit": 16,
            "epochs": 2, "batch_size": 8, "workers": 0, "device": "cpu", "output": tmp_path,
        }  # fmt: skip
        return api.train(name=name, **{**values, **options})

    return run
