"""Packing: the same bytes each time, readable by everyone, complete or not there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import webdataset
from PIL import Image

from fashionbatch.errors import ImageError, OutputExistsError, SourceError
from fashionbatch.pipeline.ingest import Ingest
from fashionbatch.shards.manifest import MANIFEST, Manifest
from fashionbatch.shards.pack import Prepared
from fashionbatch.shards.read import open_shards
from fashionbatch.sources import Failure, Item
from fashionbatch.sources.base import Attribute

Pack = Callable[..., tuple[Path, Manifest]]
Write = Callable[..., Manifest]
Contents = Callable[[Path], dict[str, bytes]]
COUNTS = {"dress": 10, "hat": 5, "shoe": 5}


def members(path: Path) -> dict[str, bytes]:
    """Of a tar file, as Python's own reader finds them."""
    with tarfile.open(path, "r:") as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]  # plain files


def numbered(count: int) -> list[Item]:
    return [Item(name=str(n), data=b"%d" % n) for n in range(count)]


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def failures(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "failures.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_two_runs_make_the_same_bytes(
    catalog: Callable[..., Path], pack: Pack, contents: Contents
) -> None:
    """Same source, options and seed: every file of the data set is equal, to the byte."""
    folder = catalog(COUNTS)
    first, one = pack(folder, "a/set", workers=1)
    second, two = pack(folder, "b/set", workers=4)
    assert contents(first) == contents(second)
    assert one.fingerprint == two.fingerprint
    _, other = pack(folder, "c/set", seed=1)
    assert other.fingerprint != one.fingerprint


def test_shards_are_plain_tar_files(catalog: Callable[..., Path], pack: Pack) -> None:
    """tarfile reads every member; its bytes are the source's; no clock or owner in it."""
    folder = catalog(COUNTS)
    path, manifest = pack(folder)
    images = 0
    for shard in manifest.shards:
        assert (path / shard.file).stat().st_size == shard.bytes
        with tarfile.open(path / shard.file, "r:") as tar:
            assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in tar)
            assert {(m.mode, m.type) for m in tar} == {(0o644, tarfile.REGTYPE)}
        found = members(path / shard.file)
        for name, data in found.items():
            key, extension = name.split(".")
            if extension in ("json", "cls"):
                continue
            images += 1
            about = json.loads(found[f"{key}.json"])
            number = int(found[f"{key}.cls"])
            assert manifest.classes[number] == about["label"] == about["name"].split("/")[0]
            assert about["split"] == shard.split and about["width"] >= 40
            assert data == (folder / about["name"]).read_bytes()
    assert images == manifest.items == 20


def test_hashes_are_those_of_the_bytes(catalog: Callable[..., Path], pack: Pack) -> None:
    """Of every image, every shard, the index and the failures; computed here by hand."""
    folder = catalog(COUNTS)
    path, manifest = pack(folder)
    assert manifest.index is not None and manifest.failures is not None
    for record in (*manifest.shards, manifest.index, manifest.failures):
        assert hashlib.sha256((path / record.file).read_bytes()).hexdigest() == record.sha256
    with h5py.File(path / "index.h5") as file:
        ends = [0, *file["name_end"][()].tolist()]
        text = file["name"][()].tobytes()
        for row in range(manifest.items):
            data = (folder / text[ends[row] : ends[row + 1]].decode()).read_bytes()
            assert file["sha256"][row].tobytes() == hashlib.sha256(data).digest()
            shard = path / manifest.shards[file["shard"][row]].file
            start = int(file["offset"][row])
            assert shard.read_bytes()[start : start + int(file["size"][row])] == data


def test_webdataset_reads_the_shards(catalog: Callable[..., Path], pack: Pack) -> None:
    """webdataset itself gives one sample per image with its class."""
    folder = catalog(COUNTS)
    path, manifest = pack(folder)
    urls = [str(path / shard.file) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(samples) == manifest.items
    assert len({s["__key__"] for s in samples}) == manifest.items
    for sample in samples:
        about = json.loads(sample["json"])
        assert manifest.classes[int(sample["cls"])] == about["label"]
        image = next(sample[e] for e in ("jpg", "png", "webp") if e in sample)
        assert image == (folder / about["name"]).read_bytes()


@pytest.mark.slow
def test_timm_reads_the_shards(catalog: Callable[..., Path], pack: Pack) -> None:
    """timm's own reader gives every image of a split with its class."""
    pytest.importorskip("timm")
    from timm.data.readers.reader_wds import ReaderWds

    path, manifest = pack(catalog(COUNTS))
    train = [s for s in manifest.shards if s.split == "train"]
    split = {
        "name": "train",
        "num_samples": sum(s.items for s in train),
        "filenames": [s.file for s in train],
        "shard_lengths": [s.items for s in train],
    }
    (path / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    reader = ReaderWds(root=str(path), name="", split="train", input_key="jpg;png;webp")
    pairs = [(image.size, int(label)) for image, label in reader]
    shards = open_shards(path)
    rows = shards.select("train")
    sizes = zip(shards.index.width[rows].tolist(), shards.index.height[rows].tolist(), strict=True)
    assert sorted(pairs) == sorted(zip(sizes, shards.labels[rows].tolist(), strict=True))


def test_no_shard_is_over_full_or_of_two_splits(catalog: Callable[..., Path], pack: Pack) -> None:
    """samples_per_shard is a limit; a shard belongs to one split; counts add up."""
    path, manifest = pack(catalog(COUNTS))
    assert all(1 <= s.items <= 5 for s in manifest.shards)
    assert sum(s.items for s in manifest.shards) == manifest.items
    assert manifest.splits == {"train": 12, "val": 4, "test": 4}
    assert Manifest.load(path) == manifest
    assert [s.file for s in manifest.shards][:3] == [f"train-{n:06d}.tar" for n in range(3)]


def test_failures_are_recorded_and_nothing_is_lost(
    catalog: Callable[..., Path], pack: Pack
) -> None:
    """Packed + failed = all files; each failure says what, where and why."""
    folder = catalog(COUNTS)
    (folder / "hat/empty.jpg").write_bytes(b"")
    (folder / "hat/page.jpg").write_bytes(b"<!doctype html><p>not found")
    (folder / "hat/gone.jpg").symlink_to(folder / "nowhere")
    (folder / "hat/.hidden").write_bytes(b"x")
    os.mkfifo(folder / "hat/pipe.jpg")
    path, manifest = pack(folder)
    found = failures(path)
    assert manifest.items == 20 and manifest.failed == len(found) == 5
    assert {(f["name"], f["stage"]) for f in found} == {
        ("hat/empty.jpg", "decode"),
        ("hat/page.jpg", "decode"),
        ("hat/gone.jpg", "read"),
        ("hat/pipe.jpg", "read"),
        ("hat/.hidden", "source"),
    }
    assert all(f["reason"] for f in found)


def test_nothing_usable_is_refused(write: Write, tmp_path: Path) -> None:
    """A data set without images is not made."""

    def refuse(data: bytes) -> Prepared:
        raise ImageError("decode", "no")

    with pytest.raises(SourceError, match=r"'0': no\): nothing was written"):
        write(numbered(2), prepare=refuse)
    assert left(tmp_path) == []


def test_existing_output_is_refused(write: Write, tmp_path: Path, contents: Contents) -> None:
    """What is there stays as it is, unless replacing a data set was asked for."""
    items = numbered(4)
    write(items)
    before = contents(tmp_path / "set")
    with pytest.raises(OutputExistsError, match=r"--append.*--exist-ok"):
        write(items[:1])
    assert contents(tmp_path / "set") == before
    assert write(items[:1], replace=True).items == 1
    assert len(open_shards(tmp_path / "set")) == 1
    assert left(tmp_path) == ["set"]


def test_other_things_are_never_replaced(write: Write, tmp_path: Path) -> None:
    """Not even when asked: a file, a folder that is no data set, one of another program."""
    (tmp_path / "file").write_text("mine")
    for name, content in (("folder", "mine"), ("foreign", '{"format": "other"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text(content)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("mine")
    for output in ("file", "folder", "foreign", "thesis"):
        with pytest.raises(OutputExistsError):
            write(numbered(1), output, replace=True)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder" / MANIFEST).read_text() == "mine"
    assert (tmp_path / "thesis/thesis.tex").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert write(numbered(1), "empty").items == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, SourceError])
@pytest.mark.parametrize("exists", [False, True])
def test_exception_leaves_nothing_half_written(
    write: Write, tmp_path: Path, error: type[BaseException], exists: bool, contents: Contents
) -> None:
    """Fault 37: after an exception the old data set is there, or nothing; and it can go on."""
    items = numbered(20)
    before = {}
    if exists:
        write(items[:2])
        before = contents(tmp_path / "set")

    def fail(data: bytes) -> Prepared:
        if data == b"15":
            raise error("in the check")
        return Prepared(data=data, extension="jpg")

    with pytest.raises(error):
        write(items, prepare=fail, replace=True)
    assert left(tmp_path) == [".set.partial", *(["set"] if exists else [])]
    assert not exists or contents(tmp_path / "set") == before
    write(items, replace=True)
    write(items, "other/set")
    assert contents(tmp_path / "set") == contents(tmp_path / "other/set")


def test_exception_before_the_first_shard_leaves_nothing(write: Write, tmp_path: Path) -> None:
    """There is nothing to go on from."""

    def fail(data: bytes) -> Prepared:
        raise RuntimeError("at once")

    with pytest.raises(RuntimeError):
        write(numbered(4), prepare=fail)
    assert left(tmp_path) == []


def test_full_disk_is_one_line(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 38: an error when syncing is a clear error too; see test_resume for real disks."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SourceError, match="No space left"):
        write(numbered(1))
    assert not (tmp_path / "set").exists()


def test_output_that_cannot_be_made(write: Write, tmp_path: Path) -> None:
    """A file where the folder above should be."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises((SourceError, OutputExistsError)) as caught:
        write(numbered(1), "file/set")
    assert "\n" not in str(caught.value)


def test_unlabelled_items_have_no_split_and_keep_their_order(write: Write, tmp_path: Path) -> None:
    """A flat catalogue is packed in its own order, label -1, without .cls members."""
    manifest = write(numbered(7), default_split={"train": 1.0})
    shards = open_shards(tmp_path / "set")
    assert manifest.classes == () and manifest.splits == {"all": 7}
    assert [shards.name(row) for row in range(7)] == [str(n) for n in range(7)]
    assert set(shards.labels.tolist()) == {-1}
    assert not [n for n in members(tmp_path / "set/all-000000.tar") if n.endswith(".cls")]


def test_events_count_every_item(write: Write) -> None:
    """Packed or not, each item counts once; the number of shards is known at the start."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def prepare(data: bytes) -> Prepared:
        if data == b"5":
            raise ImageError("decode", "no")
        return Prepared(data=data, extension="jpg")

    items = [*numbered(70), Failure(name="x", stage="source", reason="no")]
    write(items, prepare=prepare, tell=lambda event, values: seen.append((event, values)))
    assert [v for e, v in seen if e == "scanned"] == [{"items": 70, "failed": 1}]
    assert [v for e, v in seen if e == "start"] == [{"items": 70, "shards": 24, "classes": 0}]
    progress = [v for e, v in seen if e == "progress"]
    assert sum(p["items"] for p in progress) == 70 and sum(p["failed"] for p in progress) == 1


def test_everything_known_of_an_item_is_kept(write: Write, tmp_path: Path) -> None:
    """In the sample's JSON, and in the columns of the index."""

    class Attributed:
        class_types = {"hat": "head"}  # noqa: RUF012  # a source's plain attribute
        attributes = (Attribute(name="red"), Attribute(name="floral", type="texture"))

        def items(self) -> Any:
            yield Item(
                name="größe/ü.jpg", data=b"x", label="hat", split="train", group="p1",
                positive=(0,), unknown=(1,), box=(0, 2, 30, 40), landmarks=((0, 1, 2), (2, 0, 0)),
                metadata={"price": 3, "größe": "M"}, line=9,
            )  # fmt: skip

        def read(self, item: Item) -> bytes:
            return item.read()

    manifest = write([], source=Attributed())
    about = json.loads(members(tmp_path / "set/train-000000.tar")["000000000.json"])
    assert about == {
        "name": "größe/ü.jpg", "label": "hat", "split": "train", "group": "p1",
        "positive": [0], "unknown": [1], "box": [0, 2, 30, 40],
        "landmarks": [[0, 1, 2], [2, 0, 0]], "metadata": {"price": 3, "größe": "M"},
    }  # fmt: skip
    assert manifest.class_types == ("head",)
    assert Manifest.load(tmp_path / "set").attributes == Attributed.attributes
    index = open_shards(tmp_path / "set").index
    assert index.box[0].tolist() == [0, 2, 30, 40] and index.group[0] != 0
    assert (index.positive[0].tolist(), index.unknown[0].tolist()) == ([0], [1])


def test_drawn_split_is_told_with_each_item(write: Write, tmp_path: Path) -> None:
    """A sample's JSON names the split that it is in, wherever the split came from."""
    items = [Item(name=f"{n}", data=b"%d" % n, label="a") for n in range(4)]
    write(items, split={"train": 0.5, "test": 0.5})
    for path in (tmp_path / "set").glob("*.tar"):
        for name, data in members(path).items():
            if name.endswith(".json"):
                assert json.loads(data)["split"] == path.name.split("-")[0]


def test_items_of_every_kind_are_read(write: Write, tmp_path: Path) -> None:
    """Bytes, files with any name, ranges of files; what cannot be read fails alone."""
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"in a file")
    (tmp_path / "many.bin").write_bytes(b"0123456789")
    os.mkfifo(tmp_path / "pipe")
    items = [
        Item(name="bytes", data=b"in memory"),
        Item(name="file", path=os.fsdecode(raw)),
        Item(name="range", path=tmp_path / "many.bin", offset=3, size=4),
        Item(name="first", path=tmp_path / "many.bin", offset=0, size=2),
        Item(name="short", path=tmp_path / "many.bin", offset=8, size=4),
        Item(name="pipe", path=tmp_path / "pipe"),
        Item(name="folder", path=tmp_path),
        Item(name="gone", path=tmp_path / "gone"),
        Item(name="nul", path="a\0b"),
    ]
    for workers in (1, 2):
        manifest = write(items, workers=workers, replace=True)
        shards = open_shards(tmp_path / "set")
        assert {shards.name(row): shards.read(row) for row in range(len(shards))} == {
            "bytes": b"in memory",
            "file": b"in a file",
            "range": b"3456",
            "first": b"01",
        }
        assert manifest.failed == 5
    reasons = {f["name"]: f["reason"] for f in failures(tmp_path / "set")}
    assert "many.bin ends within the image" in reasons["short"]
    assert reasons["pipe"] == "not a regular file"


def test_empty_data_is_an_empty_file(write: Write, tmp_path: Path) -> None:
    """For every kind of check."""
    for check in ("decode", "headers", "none"):
        with pytest.raises(SourceError, match="the file is empty"):
            write([Item(name="a", data=b"")], prepare=Ingest(check=check))


def test_labels_of_any_text(write: Write, tmp_path: Path) -> None:
    """Blanks, commas, other alphabets, line separators."""
    labels = ["Kleid, lang", "夏のドレス", "été", "a\u2028b", '"', "👗"]
    items = [Item(name=f"{n}", data=b"%d" % n, label=c, split="val") for n, c in enumerate(labels)]
    manifest = write(items)
    assert manifest.classes == tuple(sorted(labels))
    shards = open_shards(tmp_path / "set")
    found = {shards.name(r): shards.classes[shards.labels[r]] for r in range(len(shards))}
    assert found == {str(n): c for n, c in enumerate(labels)}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Item(name="a\udce9.jpg", data=b"x"), "valid UTF-8"),
        (Item(name="a", data=b"x", label="\udce9"), "valid UTF-8"),
        (Item(name="a", data=b"x", group="\udce9"), "valid UTF-8"),
        (Item(name="a", data=b"x", split="dev"), "'dev': it is one of train, val, test"),
        (Item(name="a", data=b"x", metadata={"x": {1, 2}}), "set, which is no JSON value"),
        (Item(name="a", data=b"x", metadata={"x": "\udce9"}), "valid UTF-8"),
    ],
    ids=["name", "label", "group", "split", "set", "metadata"],
)
def test_source_that_breaks_the_rules_is_one_line(
    write: Write, tmp_path: Path, item: Item, words: str
) -> None:
    """A plugin's source gives what cannot be written down: an error that names the item."""
    with pytest.raises(SourceError, match=words) as caught:
        write([item])
    assert str(caught.value).startswith("item 'a") and str(caught.value).isprintable()
    assert left(tmp_path) == []


def test_resized_images_have_scaled_boxes(write: Write, tmp_path: Path, photo: Any) -> None:
    """Box and landmarks are in pixels of what is packed; the original size is recorded."""
    item = Item(
        name="a", data=photo(0, (100, 200)), split="val",
        box=(10, 20, 50, 100), landmarks=((1, 30, 40),),
    )  # fmt: skip
    write([item], prepare=Ingest(check="headers", resize=50))
    found = members(tmp_path / "set/val-000000.tar")
    about = json.loads(found["000000000.json"])
    assert Image.open(io.BytesIO(found["000000000.jpg"])).size == (50, 100)
    assert (about["width"], about["height"], about["original"]) == (50, 100, [100, 200])
    assert (about["box"], about["landmarks"]) == ([5, 10, 25, 50], [[1, 15, 20]])
    assert open_shards(tmp_path / "set").index.box[0].tolist() == [5, 10, 25, 50]
    write([item], "small", prepare=Ingest(check="headers", resize=300))
    small = members(tmp_path / "small/val-000000.tar")
    assert small["000000000.jpg"] == item.data
    assert json.loads(small["000000000.json"])["box"] == [10, 20, 50, 100]


def test_files_of_others_are_never_lost(write: Write, tmp_path: Path) -> None:
    """A data set in whose folder somebody has put something is not replaced."""
    items = [Item(name="a", data=b"a")]
    write(items)
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"'notes\.txt'"):
        write(items, replace=True)
    assert (tmp_path / "set" / "notes.txt").read_text() == "mine"
