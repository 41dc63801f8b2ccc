"""What several tests need: small photographs, catalogues of them, and the real one."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

from fashionbatch import plugins
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.pack import Prepared
from fashionbatch.sources import Failure, Item, Source
from tests.sources import deepfashion_tree as trees

# Several processes test at once, and torch's threads spin against each other. Their children
# inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# no test asserts a time, and a busy machine takes longer than the 0.2 s that an example may take
hypothesis.settings.register_profile("fashionbatch", deadline=None)
hypothesis.settings.load_profile("fashionbatch")

CLOTHING = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"

Photo = Callable[..., bytes]
Catalog = Callable[..., Path]
Write = Callable[..., Manifest]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: no process is to begin one when the other has nothing left to do."""

    def seconds(item: pytest.Item) -> float:
        marker = item.get_closest_marker("slow")
        return float(marker.kwargs.get("seconds", 0)) if marker is not None else 0.0

    items.sort(key=seconds, reverse=True)


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


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs is not kept in the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASHIONBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FASHIONBATCH_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


class Listed(Source):
    """Items that are in memory; classes with a type where ``types`` has one."""

    def __init__(
        self, items: Sequence[Item | Failure], types: Mapping[str, str] | None = None
    ) -> None:
        self.listed = items
        self.class_types = types or {}

    def items(self) -> Iterator[Item | Failure]:
        yield from self.listed


def as_jpeg(data: bytes) -> Prepared:
    """Takes any bytes for an image."""
    return Prepared(data=data, extension="jpg")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(items)`` → the manifest of the data set ``set`` made of them, unchecked."""
    from fashionbatch.shards.write import Job, write

    def make(
        items: Sequence[Item | Failure],
        output: str = "set",
        tell: Callable[[str, dict[str, Any]], None] = lambda event, values: None,
        **options: Any,
    ) -> Manifest:
        types = options.pop("types", None)
        given: dict[str, Any] = {
            "source": Listed(items, types),
            "output": tmp_path / output,
            "prepare": as_jpeg,
            "samples_per_shard": 3,
        }
        return write(Job(**{**given, **options}), tell)

    return make


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., tuple[Path, Manifest]]:
    """``pack(folder)`` → the data set made of it, and its manifest."""
    from fashionbatch.pipeline.ingest import Ingest
    from fashionbatch.shards.select import Selection
    from fashionbatch.shards.write import Job, write
    from fashionbatch.sources.folder import FolderSource

    def make(folder: Path, output: str = "shards/packed", **options: Any) -> tuple[Path, Manifest]:
        given: dict[str, Any] = {
            "source": FolderSource(folder),
            "output": tmp_path / output,
            "prepare": Ingest(check="decode"),
            "selection": Selection(seed=options.pop("seed", 0)),
            "default_split": {"train": 0.6, "val": 0.2, "test": 0.2},
            "samples_per_shard": 5,
            "workers": 2,
        }
        return tmp_path / output, write(Job(**{**given, **options}))

    return make


@pytest.fixture
def predictions(tmp_path: Path) -> Callable[..., Path]:
    """``predictions(name, shards, **changes)`` → a prediction file of made-up numbers.

    See :func:`tests.predictions.write`.
    """
    from tests.predictions import write

    def make(name: str = "p.h5", *arguments: Any, **changes: Any) -> Path:
        return write(tmp_path / name, *arguments, **changes)

    return make


@pytest.fixture(scope="session")
def deepfashion(
    tmp_path_factory: pytest.TempPathFactory, photo: Photo
) -> tuple[Path, dict[str, trees.Image]]:
    """A packed DeepFashion of 46 images and 12 attributes, and what its files say, by name.

    Of the last image all attributes are unknown.
    """
    from fashionbatch import api

    folder = tmp_path_factory.mktemp("deepfashion")
    shown = trees.images(1, width=12)
    shown[-1] = dataclasses.replace(shown[-1], values=(0,) * 12)
    trees.write_tree(folder / "tree", photo=photo, shown=shown)
    api.shard(folder / "tree", output=folder / "packed", allow_missing_classes=True, workers=1)
    return folder / "packed", {image.name: image for image in shown}


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """``contents(folder)`` → the bytes of each file in it."""
    return lambda folder: {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture
def dying() -> Callable[[Callable[[], object], int], bool]:
    """``dying(job, n)`` runs the job in a process that dies before its n-th change on the disk.

    Returns whether the job came to its end.
    """

    def run(job: Callable[[], object], number: int) -> bool:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            assert code in (0, 7)
            return code == 0
        left = [number]

        def counted(name: str) -> Callable[..., object]:
            original = getattr(os, name)

            def change(*arguments: object, **options: object) -> object:
                left[0] -= 1
                if left[0] == 0:
                    os._exit(7)
                return original(*arguments, **options)

            return change

        for name in ("replace", "rename", "unlink", "rmdir", "fsync", "mkdir"):
            setattr(os, name, counted(name))
        code = 1
        try:
            job()
            code = 0
        finally:
            os._exit(code)

    return run


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
