"""Packing: the same bytes each time, readable by everyone, complete or not there."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.errors import ImageError, OutputExistsError, SourceError
from fashionbatch.shards.manifest import FAILURES, INDEX, MANIFEST, Manifest
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.write import ImageInfo, plan, write_shards
from fashionbatch.sources import Item

Pack = Callable[..., tuple[Path, Manifest]]
COUNTS = {"dress": 10, "hat": 5, "shoe": 5}
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def planned(
    items: list[Item],
    *,
    split: dict[str, float] | None = None,
    missing: bool = False,
    seed: int = 0,
) -> tuple[list[Item], tuple[str, ...]]:
    return plan(items, split=split, default_split=SHARES, allow_missing_classes=missing, seed=seed)


def labelled(counts: dict[str, int], split: str | None = None) -> list[Item]:
    return [
        Item(name=f"{split}/{label}/{n}", data=b"x", label=label, split=split)
        for label, count in counts.items()
        for n in range(count)
    ]


def accept(data: bytes) -> ImageInfo:
    return ImageInfo(extension="jpg")


def simple(items: list[Item], output: Path, **options: object) -> Manifest:
    given: dict[str, object] = {
        "check": accept,
        "samples_per_shard": 3,
        "workers": 2,
        "source": {},
    }
    return write_shards(items, (), output, **{**given, **options})  # type: ignore[arg-type]  # of mixed types


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_two_runs_make_the_same_bytes(catalog: Callable[..., Path], pack: Pack) -> None:
    """Same source, options and seed: every file of the data set is equal, to the byte."""
    folder = catalog(COUNTS)
    first, one = pack(folder, "a/set", workers=1)
    second, two = pack(folder, "b/set", workers=4)
    assert left(first) == left(second)
    for file in left(first):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
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
            members = {m.name: m for m in tar}
            assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in members.values())
            for name, member in members.items():
                key, extension = name.split(".")
                if extension in ("json", "cls"):
                    continue
                images += 1
                about = json.loads(tar.extractfile(members[f"{key}.json"]).read())  # type: ignore[union-attr]  # a plain file
                number = int(tar.extractfile(members[f"{key}.cls"]).read())  # type: ignore[union-attr]  # a plain file
                assert manifest.classes[number] == about["label"] == about["name"].split("/")[0]
                assert about["split"] == shard.split and about["width"] >= 40
                data = tar.extractfile(member).read()  # type: ignore[union-attr]  # a plain file
                assert data == (folder / about["name"]).read_bytes()
    assert images == manifest.items == 20


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
    path, manifest = pack(folder)
    lines = [json.loads(line) for line in (path / FAILURES).read_text().splitlines()]
    assert manifest.items == 20 and manifest.failed == len(lines) == 3
    assert {(f["name"], f["stage"]) for f in lines} == {
        ("hat/empty.jpg", "decode"),
        ("hat/page.jpg", "decode"),
        ("hat/gone.jpg", "read"),
    }
    assert all(f["reason"] for f in lines)


def test_nothing_usable_is_refused(tmp_path: Path) -> None:
    """A data set without images is not made."""

    def refuse(data: bytes) -> ImageInfo:
        raise ImageError("decode", "no")

    with pytest.raises(SourceError, match="nothing was written"):
        simple([Item(name="a", data=b"x")], tmp_path / "set", check=refuse)
    assert left(tmp_path) == []


def test_existing_output_is_refused(tmp_path: Path) -> None:
    """What is there stays as it is, unless replacing a data set was asked for."""
    items = [Item(name=str(n), data=b"%d" % n) for n in range(4)]
    simple(items, tmp_path / "set")
    before = (tmp_path / "set" / MANIFEST).read_bytes()
    with pytest.raises(OutputExistsError, match="--exist-ok"):
        simple(items[:1], tmp_path / "set")
    assert (tmp_path / "set" / MANIFEST).read_bytes() == before
    assert simple(items[:1], tmp_path / "set", exist_ok=True).items == 1
    assert len(open_shards(tmp_path / "set")) == 1
    assert left(tmp_path) == ["set"]


def test_other_things_are_never_replaced(tmp_path: Path) -> None:
    """Not even with exist_ok: a file, or a folder that is no data set."""
    items = [Item(name="a", data=b"x")]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("mine")
    for output in ("file", "folder"):
        with pytest.raises(OutputExistsError):
            simple(items, tmp_path / output, exist_ok=True)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder/thesis.tex").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert simple(items, tmp_path / "empty").items == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("exists", [False, True])
def test_exception_leaves_nothing_half_written(
    tmp_path: Path, error: type[BaseException], exists: bool
) -> None:
    """Fault 37: after an exception the old data set is there, or nothing."""
    items = [Item(name=str(n), data=b"%d" % n) for n in range(200)]
    if exists:
        simple(items[:2], tmp_path / "set")

    def fail(data: bytes) -> ImageInfo:
        if data == b"150":
            raise error("in the check")
        return accept(data)

    with pytest.raises(error):
        simple(items, tmp_path / "set", check=fail, exist_ok=True)
    assert left(tmp_path) == (["set"] if exists else [])
    if exists:
        assert len(open_shards(tmp_path / "set")) == 2


def test_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 38: an error of the disk is a clear error, and the partial folder goes."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SourceError, match="No space left"):
        simple([Item(name="a", data=b"x")], tmp_path / "set")
    assert left(tmp_path) == []


def test_remains_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    """Fault 37: a partial folder of before is not mixed into the new data set."""
    partial = tmp_path / ".set.partial"
    partial.mkdir()
    (partial / "train-000099.tar").write_bytes(b"old")
    manifest = simple([Item(name="a", data=b"x")], tmp_path / "set")
    assert left(tmp_path) == ["set"]
    assert left(tmp_path / "set") == sorted(
        [MANIFEST, INDEX, FAILURES, *(s.file for s in manifest.shards)]
    )


def test_split_is_stratified() -> None:
    """Each class has its share in every split, to the nearest image."""
    items, classes = planned(labelled({"a": 100, "b": 50, "c": 10}))
    counts = Counter((i.label, i.split) for i in items)
    assert classes == ("a", "b", "c")
    assert [counts["a", s] for s in SHARES] == [80, 10, 10]
    assert [counts["b", s] for s in SHARES] == [40, 5, 5]
    assert [counts["c", s] for s in SHARES] == [8, 1, 1]


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 30), min_size=1),
    st.integers(0, 5),
    st.sampled_from([SHARES, {"train": 0.5, "val": 0.5}, {"test": 0.3, "train": 0.7}]),
)
def test_split_loses_nothing_and_trains_every_class(
    counts: dict[str, int], seed: int, shares: dict[str, float]
) -> None:
    """Every item is in exactly one split; each class has one to train; repeatable by seed."""
    items, _ = planned(labelled(counts), split=shares, seed=seed)
    assert Counter(i.label for i in items) == Counter(counts)
    assert len({i.name for i in items}) == len(items)
    assert {i.label for i in items if i.split == "train"} == set(counts)
    assert {i.split for i in items} <= set(shares)
    assert items == planned(labelled(counts), split=shares, seed=seed)[0]
    order = [("train", "val", "test").index(str(i.split)) for i in items]
    assert order == sorted(order)


def test_split_does_not_depend_on_other_items_labels_order() -> None:
    """The source's order does not say which split: neighbours are spread."""
    items, _ = planned(labelled({"a": 100}))
    numbers = [int(i.name.split("/")[-1]) for i in items if i.split == "train"]
    assert numbers != sorted(numbers)
    assert {i.split for i in items if int(i.name.split("/")[-1]) < 50} == {"train", "val", "test"}


def test_own_splits_are_kept_and_missing_class_is_refused() -> None:
    """A class that one of the source's splits lacks is named, unless accepted."""
    good = labelled({"a": 3, "b": 3}, "train") + labelled({"a": 1, "b": 1}, "val")
    assert Counter(i.split for i in planned(good)[0]) == {"train": 6, "val": 2}
    bad = labelled({"a": 3, "b": 3}, "train") + labelled({"a": 1, "B": 1}, "val")
    with pytest.raises(SourceError, match="'B' is in val but not in train"):
        planned(bad)
    assert planned(bad, missing=True)[1] == ("B", "a", "b")
    assert Counter(i.split for i in planned(bad, split=SHARES)[0])["train"] == 6


def test_empty_and_ambiguous_sources_are_refused() -> None:
    """No items; two items of one name."""
    with pytest.raises(SourceError, match="no items"):
        planned([])
    with pytest.raises(SourceError, match="'a'"):
        planned([Item(name="a", data=b"1"), Item(name="a", data=b"2")])


def test_unlabelled_items_have_no_split_and_keep_their_order(tmp_path: Path) -> None:
    """A flat catalogue is packed in its own order, label -1, without .cls members."""
    items, classes = planned([Item(name=f"{n}.jpg", data=b"%d" % n) for n in range(7)])
    manifest = simple(items, tmp_path / "set")
    shards = open_shards(tmp_path / "set")
    assert classes == () and manifest.splits == {"all": 7}
    assert [shards.name(row) for row in range(7)] == [f"{n}.jpg" for n in range(7)]
    assert set(shards.labels.tolist()) == {-1}
    with tarfile.open(tmp_path / "set/all-000000.tar") as tar:
        assert not [n for n in tar.getnames() if n.endswith(".cls")]


def test_progress_counts_every_item(tmp_path: Path) -> None:
    """Packed or not, each item counts once."""
    seen: list[int] = []
    simple([Item(name=str(n), data=b"x") for n in range(70)], tmp_path / "s", progress=seen.append)
    assert sum(seen) == 70


def test_item_metadata_is_kept(tmp_path: Path) -> None:
    """What the catalogue knows goes into the sample's JSON."""
    simple([Item(name="a", data=b"x", metadata={"price": 3, "größe": "M"})], tmp_path / "set")
    with tarfile.open(tmp_path / "set/all-000000.tar") as tar:
        about = json.loads(tar.extractfile("000000000.json").read())  # type: ignore[union-attr]  # a plain file
    assert about["metadata"] == {"price": 3, "größe": "M"}
