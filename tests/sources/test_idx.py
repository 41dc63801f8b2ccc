"""IDX files: every image with its label, or one line on what is wrong with the files."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import struct
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fashionbatch.errors import SourceError, UsageError
from fashionbatch.sources import Item, idx
from fashionbatch.sources.idx import IdxSource, is_idx
from fashionbatch.sources.names import read_class_names, split_in

Array = npt.NDArray[np.uint8]


def encode(values: Array, kind: int = 8) -> bytes:
    """An IDX file's bytes."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return head + values.tobytes()


def pixels(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def put(path: Path, data: bytes) -> Path:
    """Writes a file, packed where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def pair(folder: Path, prefix: str = "train", count: int = 5, end: str = "") -> Array:
    """Images of 6 × 4 pixels and their labels 0, 1, 2, 0, 1, ..."""
    images = pixels(count, 6, 4, seed=count)
    put(folder / f"{prefix}-images-idx3-ubyte{end}", encode(images))
    labels = np.arange(count, dtype=np.uint8) % 3
    put(folder / f"{prefix}-labels-idx1-ubyte{end}", encode(labels))
    return images


def decoded(source: IdxSource, item: Item) -> Array:
    data = source.read(item)
    assert data.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(data)))


def refused(folder: Path, match: str, name: str) -> None:
    """One line, before the first item, that names the file; the folder's name is no match."""
    with pytest.raises(SourceError) as caught:
        next(iter(IdxSource(folder).items()))
    text = str(caught.value)
    assert name in text and "\n" not in text
    assert re.search(match, text.replace(str(folder), "")), text


@pytest.fixture(params=["", ".gz"], ids=["plain", "gz"])
def end(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def test_images_and_labels(tmp_path: Path, end: str) -> None:
    """Each row with its pixels, name, label and split, file after file."""
    train, test = pair(tmp_path, "train", 5, end), pair(tmp_path, "t10k", 3, end)
    source = pickle.loads(pickle.dumps(IdxSource(tmp_path)))
    items = list(source.items())
    assert [i.name for i in items] == [
        *(f"t10k-{n:05d}" for n in range(3)),
        *(f"train-{n:05d}" for n in range(5)),
    ]
    assert [i.split for i in items] == ["test"] * 3 + ["train"] * 5
    assert [i.label for i in items] == ["0", "1", "2", "0", "1", "2", "0", "1"]
    for item, image in zip(items, [*test, *train], strict=True):
        assert np.array_equal(decoded(source, item), image)


def test_colour_images(tmp_path: Path, end: str) -> None:
    """Four dimensions are RGB."""
    images = pixels(3, 5, 7, 3)
    put(tmp_path / f"val-images-idx4-ubyte{end}", encode(images))
    source = IdxSource(tmp_path)
    items = list(source.items())
    assert [(i.label, i.split) for i in items] == [(None, "val")] * 3  # no labels beside them
    for item, image in zip(items, images, strict=True):
        assert np.array_equal(decoded(source, item), image)


@pytest.mark.parametrize(
    ("images", "labels", "prefix", "split"),
    [
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte", "train", "train"),
        ("train-images-idx3-ubyte", "train-labels.idx1-ubyte.gz", "train", "train"),
        ("emnist-letters-test-images-idx3-ubyte.gz", "emnist-letters-test-labels-idx1-ubyte.gz",
         "emnist-letters-test", "test"),
        ("shoes-images-idx3-ubyte", "shoes-labels-idx1-ubyte", "shoes", None),
        ("images-idx3-ubyte", "labels-idx1-ubyte", "", None),
    ],
)  # fmt: skip
def test_names_of_files(
    tmp_path: Path, images: str, labels: str, prefix: str, split: str | None
) -> None:
    """As they lie about: with dots, with data set names, packed or not."""
    put(tmp_path / images, encode(pixels(2, 3, 3)))
    put(tmp_path / labels, encode(np.array([7, 9], np.uint8)))
    for path in (tmp_path, tmp_path / images):
        assert is_idx(path)
        items = list(IdxSource(path).items())
        assert [i.name for i in items] == [f"{prefix}-{n:05d}".lstrip("-") for n in range(2)]
        assert [(i.label, i.split) for i in items] == [("7", split), ("9", split)]


def test_what_is_not_idx(tmp_path: Path) -> None:
    """Labels alone, other files, nothing."""
    put(tmp_path / "a/train-labels-idx1-ubyte", b"")
    put(tmp_path / "a/images.png", b"")
    (tmp_path / "a/x-images-idx3-ubyte").mkdir()
    for path in (tmp_path, tmp_path / "a", tmp_path / "a/images.png", tmp_path / "nowhere"):
        assert not is_idx(path)
        with pytest.raises(UsageError, match="no IDX images"):
            IdxSource(path)


def test_a_file_and_its_packed_copy_count_once(tmp_path: Path) -> None:
    """gunzip --keep leaves both; two files of other contents are refused."""
    pair(tmp_path)
    pair(tmp_path, end=".gz")
    assert len(list(IdxSource(tmp_path).items())) == 5
    put(tmp_path / "train-images.idx3-ubyte", encode(pixels(2, 3, 3)))
    refused(tmp_path, "same names", "train-images.idx3-ubyte")


def test_class_names(tmp_path: Path) -> None:
    """Line n names label n; a missing name is found before the first item."""
    pair(tmp_path / "data")
    names = put(
        tmp_path / "names.txt", b"\xef\xbb\xbft-shirt\r\nankle boot\r\nKleid \xc3\xa4\r\n\r\n"
    )
    source = IdxSource(tmp_path / "data", class_names=names)
    assert [i.label for i in source.items()] == [
        "t-shirt", "ankle boot", "Kleid ä", "t-shirt", "ankle boot",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"label 2.*2 lines"):
        next(IdxSource(tmp_path / "data", class_names=put(names, b"a\nb\n")).items())


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"a\nb\na\n", "'a' in lines 1 and 3"),
        (b"a\n\nb\n", "line 2, is empty"),
        (b"\n", "is empty"),
        (b"caf\xe9\n", "UTF-8"),
        (None, "No such file"),
    ],
)
def test_class_names_that_cannot_be_used(tmp_path: Path, data: bytes | None, match: str) -> None:
    """One line that names the file."""
    path = tmp_path / "names.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=match) as caught:
        read_class_names(path)
    assert "names.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_splits_in_names() -> None:
    """A word of its own, in any case; two of them say nothing."""
    assert [split_in(n) for n in ("a-Train-1", "training", "x_valid.y", "t10k", "a-testing")] == [
        "train", "train", "val", "test", "test",
    ]  # fmt: skip
    assert [split_in(n) for n in ("trainer", "latest", "train-val", "", "contest-1")] == [None] * 5


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x08", "no IDX file"),
        (b"<!doctype html>", "no IDX file"),
        (encode(pixels(2, 3, 3))[:9], "within its header"),
        (encode(pixels(2, 3, 3), kind=13), "type 13"),
        (encode(pixels(6)), "1 dimensions"),
        (encode(pixels(2, 3, 3, 4)), "4 colours"),
        (encode(pixels(2, 0, 3)), "0 × 3"),
        (encode(pixels(0, 3, 3)), "no images"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, data: bytes, match: str, end: str) -> None:
    """What is not IDX, or not of images."""
    name = f"train-images-idx3-ubyte{end}"
    put(tmp_path / name, data)
    refused(tmp_path, match, tmp_path.name if match == "no images" else name)


def test_wrong_length_is_refused(tmp_path: Path, end: str) -> None:
    """Too short or too long, images or labels."""
    for name, content in (("images-idx3", pixels(4, 3, 3)), ("labels-idx1", pixels(4))):
        pair(tmp_path, count=4, end=end)
        put(tmp_path / f"train-images-idx3-ubyte{end}", encode(pixels(4, 3, 3)))
        for data in (encode(content)[:-1], encode(content) + b"x"):
            path = put(tmp_path / f"train-{name}-ubyte{end}", data)
            refused(tmp_path, "says", path.name)


def test_absurd_sizes_cost_no_memory(tmp_path: Path, end: str) -> None:
    """A header that claims 1 TiB, of images or of labels."""
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        pair(tmp_path, end=end)
        rank = 3 if "images" in name else 1
        shape = (1 << 20, 1 << 10, 1 << 10) if rank == 3 else ((1 << 32) - 1,)
        put(tmp_path / f"{name}{end}", struct.pack(f">I{rank}I", 0x800 + rank, *shape) + b"x" * 99)
        tracemalloc.start()
        try:
            refused(tmp_path, "says", name)
            assert tracemalloc.get_traced_memory()[1] < 1 << 22
        finally:
            tracemalloc.stop()


def test_large_packed_file_is_to_be_unpacked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process would hold in memory has a limit; unpacked files have none."""
    pair(tmp_path / "gz", end=".gz")
    pair(tmp_path / "plain")
    monkeypatch.setattr(idx, "MAX_UNPACKED", 100)
    refused(tmp_path / "gz", "gunzip", "train-images-idx3-ubyte.gz")
    assert len(list(IdxSource(tmp_path / "plain").items())) == 5


def test_damage_to_packed_files_is_refused(tmp_path: Path) -> None:
    """Cut short anywhere, a flipped checksum, garbage behind the end, no gzip at all."""
    pair(tmp_path, end=".gz")
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        path = tmp_path / name
        whole = path.read_bytes()
        damaged = [whole[:n] for n in range(1, len(whole), 7)]
        damaged += [whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:], whole + b"x" * 20, b"<html>"]
        for data in damaged:
            path.write_bytes(data)
            refused(tmp_path, "damaged|long", name)
        path.write_bytes(whole)
    assert len(list(IdxSource(tmp_path).items())) == 5


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_refused_or_keeps_the_count(tmp_path: Path, data: st.DataObject) -> None:
    """A flipped bit or a cut in a packed file: one line, or all images are as they were."""
    images = pair(tmp_path, end=".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content) - 1), label="at") :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    source = IdxSource(tmp_path)
    try:
        items = list(source.items())
    except SourceError as error:
        assert "\n" not in str(error)
        return
    assert np.array_equal([decoded(source, item) for item in items], images)


def test_labels_of_other_images_are_refused(tmp_path: Path, end: str) -> None:
    """As many labels as images, or the files do not belong together."""
    pair(tmp_path, end=end)
    put(tmp_path / f"train-labels-idx1-ubyte{end}", encode(pixels(4)))
    refused(tmp_path, "4 labels for the 5 images", "train-labels-idx1-ubyte")


def test_labels_that_cannot_be_read_are_not_missing(tmp_path: Path) -> None:
    """A link to nowhere, a named pipe: an error instead of a catalogue without labels."""
    pair(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.unlink()
    labels.symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "No such file", labels.name)
    labels.unlink()
    os.mkfifo(labels)
    refused(tmp_path, "regular file", labels.name)


def test_packed_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images of a file, in any order and from several threads, come from one unpacking."""
    images = pair(tmp_path, count=20, end=".gz")
    source = IdxSource(tmp_path)
    items = list(source.items())
    opened: list[Path] = []
    real = idx._opened

    def slow(path: Path) -> AbstractContextManager[tuple[BinaryIO, int]]:
        opened.append(path)
        time.sleep(0.05)  # so that all threads ask for the file before the first has it
        return real(path)

    monkeypatch.setattr(idx, "_opened", slow)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda item: decoded(source, item), items))
    assert np.array_equal(read, images)
    assert len(opened) == 1


def test_replaced_file_is_read_anew(tmp_path: Path) -> None:
    """What is kept belongs to the file as it is."""
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for seed in range(2):
        images = pixels(2, 3, 3 + seed, seed=seed)
        put(path, encode(images))
        source = IdxSource(tmp_path)
        assert np.array_equal([decoded(source, i) for i in source.items()], images)


def test_read_after_the_file_is_gone(tmp_path: Path, end: str) -> None:
    """Workers get the OSError that they record, not a SourceError that ends the run."""
    pair(tmp_path, end=end)
    source = IdxSource(tmp_path)
    items = list(source.items())
    path = tmp_path / f"train-images-idx3-ubyte{end}"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(OSError, match="train-images"):
        source.read(items[-1])
    path.unlink()
    with pytest.raises(OSError, match="No such file"):
        source.read(items[0])


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    """Fault 18: it becomes text, in items and in messages."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d"))
    name = os.fsdecode(b"caf\xe9-images-idx3-ubyte")
    put(folder / name, encode(pixels(1, 2, 2)))
    source = IdxSource(folder)
    (item,) = source.items()
    assert item.name == "caf\\xe9-00000" and decoded(source, item).shape == (2, 2)
    (folder / name).write_bytes(b"x")
    refused(folder, "no IDX file", "caf\\xe9-images")


@pytest.fixture(scope="module")
def fashion_mnist() -> Path:
    """The original files; Debian's package dataset-fashion-mnist has them."""
    root = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    if not is_idx(root):
        pytest.skip(f"Fashion-MNIST is not at {root}: set FASHION_MNIST to its folder")
    return root


def test_fashion_mnist(fashion_mnist: Path) -> None:
    """The real files: 70,000 images, ten classes of 7,000, the first boot as everyone knows it."""
    source = IdxSource(fashion_mnist)
    items = list(source.items())
    splits = [i.split for i in items]
    assert (splits.count("train"), splits.count("test")) == (60_000, 10_000)
    labels = [i.label for i in items]
    assert {label: labels.count(label) for label in set(labels)} == {
        str(n): 7000 for n in range(10)
    }
    first = next(i for i in items if i.name == "train-00000")
    image = decoded(source, first)
    assert first.label == "9" and image.shape == (28, 28)
    with gzip.open(fashion_mnist / "train-images-idx3-ubyte.gz") as file:
        assert image.tobytes() == file.read(16 + 784)[16:]
