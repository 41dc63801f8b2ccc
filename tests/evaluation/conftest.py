"""A model of categories and attributes, and what it predicted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from fashionbatch import api
from tests.sources.deepfashion_tree import Image


class Predicted(NamedTuple):
    """A data set and what was made of it.

    Attributes:
        data: the packed data set, and ``tree`` the folder that it was packed from.
        images: what its files say, by name.
        run: folder of the model.
        file: the prediction file of the split test.
    """

    data: Path
    tree: Path
    images: dict[str, Image]
    run: Path
    file: Path


@pytest.fixture(scope="session")
def predicted(
    tmp_path_factory: pytest.TempPathFactory, deepfashion: tuple[Path, dict[str, Image]]
) -> Predicted:
    """Trained on a small DeepFashion for an epoch; its test split is predicted."""
    data, images = deepfashion
    folder = tmp_path_factory.mktemp("predicted")
    trained = api.train(
        data=data, backbone="small-resnet", weights="none", task="category,attributes", epochs=1,
        workers=0, device="cpu", output=folder, name="run", batch_size=16,
    )  # fmt: skip
    api.predict(
        data, model=trained["run"], output=folder / "test.h5", split="test", workers=1,
        device="cpu", probabilities=True,
    )  # fmt: skip
    return Predicted(data, data.parent / "tree", images, folder / "run", folder / "test.h5")
