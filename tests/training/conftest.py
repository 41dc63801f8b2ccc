"""Small trainings on the committed sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashionbatch import api
from tests.conftest import Photo
from tests.sources import deepfashion_tree as trees

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


@pytest.fixture(scope="session")
def deepfashion(
    tmp_path_factory: pytest.TempPathFactory, photo: Photo
) -> tuple[Path, dict[str, trees.Image]]:
    """A packed DeepFashion of 46 images and 12 attributes, and what its files say, by name.

    Of the last image all attributes are unknown.
    """
    folder = tmp_path_factory.mktemp("deepfashion")
    shown = trees.images(1, width=12)
    shown[-1] = dataclasses.replace(shown[-1], values=(0,) * 12)
    trees.write_tree(folder / "tree", photo=photo, shown=shown)
    api.shard(folder / "tree", output=folder / "packed", allow_missing_classes=True, workers=1)
    return folder / "packed", {image.name: image for image in shown}
