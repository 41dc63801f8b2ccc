"""Small data sets, our own and made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fashionbatch.shards.manifest import Manifest
from tests.shards.damage import make_tar

Photo = Callable[..., bytes]


@pytest.fixture
def packed(catalog: Callable[..., Path], pack: Callable[..., tuple[Path, Manifest]]) -> Path:
    """Six images to train on, four to validate, and one file that is no image."""
    photos = catalog({"train/dress": 4, "train/hat": 2, "val/dress": 2, "val/hat": 2})
    (photos / "val" / "hat" / "broken.jpg").write_bytes(b"no photograph")
    return pack(photos, samples_per_shard=4, workers=1)[0]


@pytest.fixture
def foreign(tmp_path: Path, photo: Photo) -> Path:
    """Two tar files of three photographs each."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for letter in "ab":
        images = {f"{letter}{n}": photo(ord(letter) + n) for n in range(3)}
        make_tar(
            folder / f"{letter}.tar",
            [
                member
                for key, data in images.items()
                for member in ((f"{key}.jpg", data), (f"{key}.json", b'{"label": "hat"}'))
            ],
        )
    return folder
