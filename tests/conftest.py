"""What several tests need: small photographs, catalogues of them, and the real one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashionbatch import plugins
from fashionbatch.shards.manifest import Manifest

CLOTHING = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"

Photo = Callable[..., bytes]
Catalog = Callable[..., Path]


def pixels(seed: int = 0, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A smooth gradient with a little noise, uint8 ``[height, width, 3]``; like a photograph."""
    width, height = size
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = random.uniform(40, 200, 3)
    slope = random.uniform(-60, 60, (2, 3))
    image = base + slope[0] * (x / width)[..., None] + slope[1] * (y / height)[..., None]
    image += random.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo() -> Photo:
    """``photo(seed, size, kind, **options)`` → bytes of a small photograph."""

    def make(
        seed: int = 0, size: tuple[int, int] = (48, 64), kind: str = "JPEG", **options: Any
    ) -> bytes:
        return encode(Image.fromarray(pixels(seed, size)), kind, **options)

    return make


@pytest.fixture
def catalog(tmp_path: Path, photo: Photo) -> Catalog:
    """``catalog({"dress": 3, "hat": 2})`` → a folder with that many photographs per class."""

    def make(counts: Mapping[str, int], name: str = "photos") -> Path:
        root = tmp_path / name
        seed = 0
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for number in range(count):
                kind = ("JPEG", "PNG", "WEBP")[seed % 3]
                extension = ("jpg", "png", "webp")[seed % 3]
                data = photo(seed, (40 + seed % 5, 50 + seed % 7), kind)
                (root / folder / f"{number}.{extension}").write_bytes(data)
                seed += 1
        return root

    return make


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., tuple[Path, Manifest]]:
    """``pack(folder)`` → the data set made of it, and its manifest."""
    from fashionbatch.pipeline.decode import inspect
    from fashionbatch.shards.write import plan, write_shards
    from fashionbatch.sources.folder import FolderSource

    def make(folder: Path, output: str = "shards/packed", **options: Any) -> tuple[Path, Manifest]:
        split = options.pop("split", None)
        seed = options.pop("seed", 0)
        items, classes = plan(
            FolderSource(folder).items(),
            split=split,
            default_split={"train": 0.6, "val": 0.2, "test": 0.2},
            allow_missing_classes=False,
            seed=seed,
        )
        given: dict[str, Any] = {
            "check": lambda data: inspect(data, "decode"),
            "samples_per_shard": 5,
            "workers": 2,
            "source": {"seed": seed},
        }
        path = tmp_path / output
        return path, write_shards(items, classes, path, **{**given, **options})

    return make


@pytest.fixture
def clothing() -> Path:
    """The small clothing data set: train and validation, ten classes."""
    if not (CLOTHING / "train").is_dir():
        pytest.skip(f"the clothing data set is not at {CLOTHING}")
    return CLOTHING


@pytest.fixture
def fresh_plugins() -> Iterator[None]:
    """Plugins are discovered anew in the test and after it."""
    plugins.discover.cache_clear()
    yield
    plugins.discover.cache_clear()
