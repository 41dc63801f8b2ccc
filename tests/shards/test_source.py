"""A data set of our own as a catalogue: what survives a round trip, and what damage does."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashionbatch.errors import ImageError, ShardError, SourceError, UsageError
from fashionbatch.pipeline.ingest import Ingest
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.source import DatasetSource, is_dataset
from fashionbatch.shards.write import Job, write
from fashionbatch.sources import Attribute, Failure, Item, Source, open_source
from fashionbatch.sources.folder import FolderSource

FULL = Item(
    name="dress/1.jpg",
    data=b"\xff\xd8\xffone",
    label="dress",
    split="train",
    group="SKU-1",
    positive=(0, 2),
    unknown=(1,),
    box=(1, 2, 3, 4),
    landmarks=((0, 5, 6), (2, 7, 8)),
    metadata={"price": 9.5, "note": "a\0b"},
)
SECOND = Item(name="dress/2.jpg", data=b"\xff\xd8\xffsecond", label="dress", split="train")
PLAIN = Item(name="hat/2.jpg", data=b"\xff\xd8\xfftwo", label="hat", split="test")
BARE = Item(name="bare.jpg", data=b"\xff\xd8\xffthree", split="test")
ATTRIBUTES = tuple(Attribute(name=n, type="texture") for n in ("a", "b", "c"))


class Annotated(Source):
    def __init__(self) -> None:
        self.class_types = {"dress": "full"}
        self.attributes = ATTRIBUTES

    def items(self) -> Any:
        yield from (FULL, SECOND, PLAIN, BARE)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Two shards: two dresses in train, a hat and an unlabelled image in test."""
    write(Job(source=Annotated(), output=tmp_path / "ours", prepare=Ingest(check="none"),
              allow_missing_classes=True))  # fmt: skip
    return tmp_path / "ours"


def read(path: Path) -> tuple[dict[str, Item], list[Failure]]:
    """Items by name, and failures, of a source that has travelled to another process."""
    found = list(pickle.loads(pickle.dumps(DatasetSource(path))).items())
    items = [i for i in found if isinstance(i, Item)]
    assert len({i.name for i in items}) == len(items)
    return {i.name: i for i in items}, [f for f in found if isinstance(f, Failure)]


def replace(path: Path, old: bytes, new: bytes) -> None:
    """Other bytes of the same length."""
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def test_everything_is_kept(ours: Path) -> None:
    """Names, labels, splits, products, attributes, boxes, landmarks and metadata come back."""
    source = DatasetSource(ours)
    assert source.class_types == {"dress": "full"}
    assert tuple(source.attributes) == ATTRIBUTES
    items, failures = read(ours)
    assert not failures and len(items) == 4
    for expected in (FULL, SECOND, PLAIN, BARE):
        item = items[expected.name]
        assert source.read(item) == expected.data
        for field in Item.__slots__:
            if field not in ("path", "data", "offset", "size"):
                assert getattr(item, field) == getattr(expected, field), field
    alone, _ = read(ours / "test-000000.tar")
    assert alone == {name: items[name] for name in ("hat/2.jpg", "bare.jpg")}


def test_packed_anew_it_is_the_same(ours: Path, tmp_path: Path) -> None:
    """Bytes, hashes and annotations, from processes of their own."""
    write(Job(source=open_source(ours), output=tmp_path / "again", prepare=Ingest(check="none"),
              allow_missing_classes=True, samples_per_shard=1, workers=2))  # fmt: skip
    before, after = open_shards(ours), open_shards(tmp_path / "again")
    rows = {after.name(row): row for row in range(len(after))}
    assert len(rows) == 4
    for row in range(4):
        other = rows[before.name(row)]
        assert before.read(row) == after.read(other)
        assert before.index.group[row] == after.index.group[other]
        assert before.index.box[row].tolist() == after.index.box[other].tolist()
        assert before.index.positive[row].tolist() == after.index.positive[other].tolist()
    assert read(tmp_path / "again")[0][FULL.name].landmarks == FULL.landmarks


def test_rotten_image_is_not_packed_anew(ours: Path, tmp_path: Path) -> None:
    """Its new hash would hide what has happened; the others are packed."""
    replace(ours / "train-000000.tar", b"second", b"sec0nd")
    source = open_source(ours)
    with pytest.raises(ImageError, match="not the ones that were packed"):
        source.read(read(ours)[0]["dress/2.jpg"])
    job = Job(source=source, output=tmp_path / "again", prepare=Ingest(check="none"),
              allow_missing_classes=True)  # fmt: skip
    assert (write(job).items, write_failures(tmp_path / "again")) == (3, [
        {"name": "dress/2.jpg", "stage": "read",
         "reason": "the bytes are not the ones that were packed (SHA-256)"},
    ])  # fmt: skip


def write_failures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def test_photographs_round_trip(
    catalog: Callable[..., Path], pack: Callable[..., tuple[Path, Manifest]], monkeypatch: Any
) -> None:
    """What shard wrote is read back: the same names, labels, splits and bytes."""
    monkeypatch.undo()
    folder = catalog({"dress": 4, "hat": 3})
    path, manifest = pack(folder)
    source = open_source(path)
    assert isinstance(source, DatasetSource) and len(pickle.dumps(source)) < 1000
    items, failures = read(path)
    assert not failures
    photos = {i.name: i for i in FolderSource(folder).items() if isinstance(i, Item)}
    assert {n: i.label for n, i in items.items()} == {n: i.label for n, i in photos.items()}
    assert all(source.read(i) == photos[n].read() for n, i in items.items())
    splits = [i.split for i in items.values()]
    assert {s: splits.count(s) for s in manifest.splits} == manifest.splits


def test_what_is_recognized(ours: Path, tmp_path: Path) -> None:
    """A folder with our dataset.json, and the tar files in it; nothing else."""
    for mine in (ours, ours / "train-000000.tar"):
        assert is_dataset(mine) and isinstance(open_source(mine), DatasetSource)
    for other in (ours / "index.h5", tmp_path, tmp_path / "nowhere"):
        assert not is_dataset(other)
    with pytest.raises(UsageError, match="no data set"):
        DatasetSource(tmp_path)
    (ours / "dataset.json").write_text('{"format": "other"}')
    assert not is_dataset(ours)


def test_only_listed_shards(ours: Path) -> None:
    """An interrupted --append leaves a file that does not belong; a lost one is recorded."""
    (ours / "train-000001.tar").write_bytes((ours / "train-000000.tar").read_bytes())
    (ours / "test-000000.tar").unlink()
    items, failures = read(ours)
    assert set(items) == {"dress/1.jpg", "dress/2.jpg"}
    assert [(f.name, f.stage) for f in failures] == [("test-000000.tar", "shard")]
    assert "No such file" in failures[0].reason
    with pytest.raises(UsageError, match="no shard of the data set"):
        DatasetSource(ours / "train-000001.tar")
    (ours / "train-000000.tar").unlink()
    with pytest.raises(SourceError, match="no images that can be used"):
        read(ours)


def test_shard_that_goes_away_while_reading(ours: Path) -> None:
    """Its items fail, the process does not."""
    source = DatasetSource(ours)
    item = next(i for i in source.items() if isinstance(i, Item))
    (ours / "train-000000.tar").unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        source.read(item)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"dress/1.jpg"', b'"dress/7.jpg"'), (b'"label":"dress"', b'"label":"drezz"'),
        (b'"split":"train"', b'"split":"tra1n"'), (b"[0,2]", b"[0,1]"), (b"[1]", b"[2]"),
        (b"[1,2,3,4]", b"[1,2,3,5]"), (b"[[0,5,6],", b"[[0,5.6],"), (b"[[0,5,6],", b"[[0,506],"),
        (b'"landmarks":[[0,5,6],[2,7,8]]', b'"landmarks":3'.ljust(29)),
        (b'"group":"SKU-1"', b'"group":[12345]'), (b'{"name"', b'["name"'),
        (b"9.5", b"NaN"), (b"SKU-1", b"SK\xff-1"), (b".json", b".jsom"),
        (b'{"price":9.5,"note":"a\\u0000b"}', b'{"price":9.5,"note":"a\\ud800b"}'),
    ],
)  # fmt: skip
def test_damaged_json_is_recorded(ours: Path, old: bytes, new: bytes) -> None:
    """Its item is not packed under another name or with half of its annotations."""
    path = ours / "train-000000.tar"
    data = path.read_bytes()
    member = data.rindex(b".json", 0, data.index(b'"dress/1.jpg"')) - len("000000000")
    place = data.index(old, member)
    assert len(old) == len(new)
    path.write_bytes(data[:place] + new + data[place + len(old) :])
    items, failures = read(ours)
    assert len(items) == 3 and "hat/2.jpg" in items
    (failure,) = failures
    assert (failure.name, failure.stage) == ("dress/1.jpg", "shard")
    assert "JSON is damaged" in failure.reason and "\n" not in failure.reason


def test_damaged_manifest_is_refused(ours: Path) -> None:
    """One line."""
    path = ours / "dataset.json"
    path.write_text(path.read_text().replace('"hat"', '"bag"'))
    with pytest.raises(ShardError, match="was changed"):
        open_source(ours)
