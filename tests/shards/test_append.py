"""Adding to a data set: what is there stays, what is new is added, and never half of it."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fashionbatch.errors import ImageError, UsageError
from fashionbatch.shards import part
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.pack import Prepared
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.sources import Attribute, Failure, Item, Source

Write = Callable[..., Manifest]
Contents = Callable[[Path], dict[str, bytes]]
Dying = Callable[[Callable[[], object], int], bool]

SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}


def items(first: int, last: int, labels: str = "ab") -> list[Item]:
    return [
        Item(name=f"{n}.jpg", data=b"%d" % n, label=labels[n % len(labels)], split="train")
        for n in range(first, last)
    ]


def rows(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Name → bytes and class of every image."""
    shards = open_shards(folder)
    return {
        shards.name(r): (shards.read(r), shards.classes[shards.labels[r]])
        for r in range(len(shards))
    }


def told(listed: list[Item]) -> dict[str, tuple[bytes, str]]:
    return {i.name: (i.data or b"", i.label or "") for i in listed}


def failures(folder: Path) -> dict[str, str]:
    """Name → reason."""
    manifest = Manifest.load(folder)
    assert manifest.failures is not None
    text = (folder / manifest.failures.file).read_text(encoding="utf-8")
    return {f["name"]: f["reason"] for f in map(json.loads, text.split("\n")[:-1])}


def state(folder: Path, pattern: str) -> dict[str, tuple[int, int, bytes]]:
    return {
        p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.glob(pattern)
    }


def files_of(manifest: Manifest) -> set[str]:
    assert manifest.index is not None and manifest.failures is not None
    records = (*manifest.shards, manifest.index, manifest.failures)
    return {"dataset.json", *(r.file for r in records)}


def test_new_items_go_into_new_shards(write: Write, tmp_path: Path) -> None:
    """Finished shards keep their bytes and time; keys and numbers count on."""
    write(items(0, 7))
    before = state(tmp_path / "set", "*.tar")
    manifest = write(items(0, 12), append=True)
    after = state(tmp_path / "set", "*.tar")
    assert {n: after[n] for n in before} == before
    assert sorted(set(after) - set(before)) == ["train-000003.tar", "train-000004.tar"]
    assert rows(tmp_path / "set") == told(items(0, 12))
    assert (manifest.items, manifest.keys) == (12, 12)
    shards = open_shards(tmp_path / "set")
    assert list(shards.index.key) == [f"{n:09d}" for n in range(12)]
    assert {p.name for p in (tmp_path / "set").iterdir()} == files_of(manifest)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_nothing_new_changes_nothing(write: Write, tmp_path: Path) -> None:
    """Not a byte and not a time."""
    made = write(items(0, 7))
    before = state(tmp_path / "set", "*")
    assert write(items(0, 7), append=True) == made
    assert state(tmp_path / "set", "*") == before
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_append_needs_a_data_set(write: Write, tmp_path: Path) -> None:
    """It does not make one, and does not touch another folder."""
    with pytest.raises(UsageError, match="leave --append out"):
        write(items(0, 2), append=True)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine").write_text("mine")
    with pytest.raises(UsageError, match="no data set"):
        write(items(0, 2), append=True)
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["mine"]


def test_labels_keep_their_positions(write: Write, tmp_path: Path) -> None:
    """A new class is refused; accepted, it goes to the end, whatever the alphabet says."""
    write(items(0, 6, "bc"))
    before = state(tmp_path / "set", "*")
    new = [*items(6, 9, "bc"), *items(9, 12, "a")]
    with pytest.raises(UsageError, match=r"1 class is new \('a'\).*--allow-new-classes"):
        write(new, append=True)
    assert state(tmp_path / "set", "*") == before
    manifest = write(new, append=True, allow_new_classes=True)
    assert manifest.classes == ("b", "c", "a")
    assert rows(tmp_path / "set") == told(items(0, 6, "bc") + new)


def test_fewer_classes_keep_the_vocabulary(write: Write, tmp_path: Path) -> None:
    """New items of one class do not move the others."""
    write(items(0, 6, "abc"))
    assert write(items(6, 9, "c"), append=True).classes == ("a", "b", "c")
    assert rows(tmp_path / "set") == told(items(0, 6, "abc") + items(6, 9, "c"))


def test_types_of_classes_stay(write: Write) -> None:
    """Of the old ones and of the new ones."""
    write(items(0, 4), types={"a": "upper"})
    manifest = write(
        items(4, 6, "c"), append=True, allow_new_classes=True, types={"c": "lower", "a": "wrong"}
    )
    assert manifest.class_types == ("upper", None, "lower")


def test_group_stays_in_its_split(write: Write, tmp_path: Path) -> None:
    """New photographs of a product go where the product is."""

    def made(first: int, last: int) -> list[Item]:
        return [
            Item(name=f"{p}/{n}", data=b"%d/%d" % (p, n), label="a", metadata={"product": p})
            for p in range(20)
            for n in range(first, last)
        ]

    options = {"split": SHARES, "group_by": "product"}
    write(made(0, 2), **options)
    write(made(0, 5), append=True, **options)
    shards = open_shards(tmp_path / "set")
    where: dict[str, set[int]] = {}
    for row in range(len(shards)):
        where.setdefault(shards.name(row).split("/")[0], set()).add(int(shards.splits[row]))
    assert len(shards) == 100 and all(len(splits) == 1 for splits in where.values())
    assert {s for splits in where.values() for s in splits} == {0, 1, 2}


def test_failures_are_tried_again_and_merged(write: Write, tmp_path: Path) -> None:
    """One that works now is no failure any more; the others stay, each once."""
    mended = False

    def prepare(data: bytes) -> Prepared:
        if data in (b"1", b"3") and not (mended and data == b"1"):
            raise ImageError("decode", f"broken {mended}")
        return Prepared(data=data, extension="jpg")

    odd = Failure(name="odd\u2028\x85name.txt", stage="source", reason="no image")
    first = write([*items(0, 5), odd], prepare=prepare)
    assert (first.items, first.failed) == (3, 3)
    mended = True
    late = Failure(name="late.txt", stage="source", reason="no image")
    manifest = write([*items(0, 6), late, odd], prepare=prepare, append=True)
    assert (manifest.items, manifest.failed) == (5, 3)
    assert failures(tmp_path / "set") == {
        "3.jpg": "broken True",
        "late.txt": "no image",
        odd.name: "no image",
    }
    assert rows(tmp_path / "set") == told([i for i in items(0, 6) if i.name != "3.jpg"])
    gone = write([*items(5, 7)], prepare=prepare, append=True)
    assert gone.failed == 3 and failures(tmp_path / "set")["3.jpg"] == "broken True"


def test_hole_in_the_numbers_is_not_filled(write: Write, tmp_path: Path) -> None:
    """A shard that came out empty has left a gap; new ones count on from the last."""

    def prepare(data: bytes) -> Prepared:
        if b"a" in data:
            raise ImageError("decode", "no")
        return Prepared(data=data, extension="jpg")

    listed = [
        Item(name=f"{n}", data=(b"a%d" if n < 3 else b"%d") % n, label="x", split="val")
        for n in range(8)
    ]
    manifest = write(listed[:6], prepare=prepare)
    assert [s.file for s in manifest.shards] == ["val-000001.tar"] and manifest.keys == 6
    before = state(tmp_path / "set", "*.tar")
    manifest = write(listed[3:], prepare=prepare, append=True)
    assert [s.file for s in manifest.shards] == ["val-000001.tar", "val-000002.tar"]
    assert {n: s for n, s in state(tmp_path / "set", "*.tar").items() if n in before} == before
    assert set(rows(tmp_path / "set")) == {"3", "4", "5", "6", "7"}
    assert list(open_shards(tmp_path / "set").index.key)[-1] == "000000007"


def test_other_splits_count_for_themselves(write: Write, tmp_path: Path) -> None:
    """A split that the data set lacks begins at 0."""
    write(items(0, 4))
    new = [Item(name="v", data=b"v", label="a", split="val")]
    manifest = write(new, append=True, allow_missing_classes=True)
    assert [s.file for s in manifest.shards][-1] == "val-000000.tar"
    assert manifest.splits == {"train": 4, "val": 1}


def test_appended_is_appended_to(write: Write, tmp_path: Path) -> None:
    """Again and again: every item once."""
    write(items(0, 2))
    for last in (3, 7, 8, 8, 15):
        write(items(0, last), append=True)
        assert rows(tmp_path / "set") == told(items(0, last))
        assert {p.name for p in (tmp_path / "set").iterdir()} == files_of(
            Manifest.load(tmp_path / "set")
        )


def test_death_at_any_change(
    write: Write, tmp_path: Path, contents: Contents, dying: Dying
) -> None:
    """The data set opens as the old one or the new one; the next run completes it."""
    write(items(0, 4), "old/set")
    shutil.copytree(tmp_path / "old/set", tmp_path / "set")
    write(items(0, 9), append=True)
    expected = contents(tmp_path / "set")
    states = set()
    number = 0
    ended = False
    while not ended:
        number += 1
        shutil.rmtree(tmp_path / "set")
        shutil.copytree(tmp_path / "old/set", tmp_path / "set")
        ended = dying(lambda: write(items(0, 9), append=True), number)
        found = rows(tmp_path / "set")
        assert found in (told(items(0, 4)), told(items(0, 9)))
        states.add(len(found))
        if number % 2:
            write(items(0, 9), append=True)
            assert contents(tmp_path / "set") == expected
        else:  # the user changes their mind: what was moved already belongs to nothing
            manifest = write(items(0, 5), append=True, samples_per_shard=100)
            assert {p.name for p in (tmp_path / "set").iterdir()} == files_of(manifest)
            assert set(rows(tmp_path / "set")) in (set(told(items(0, 5))), set(found))
        assert not (tmp_path / ".set.partial").exists()
    assert states == {4, 9} and number > 20


def test_remains_of_another_run_do_not_get_into_it(
    write: Write, tmp_path: Path, contents: Contents, dying: Dying
) -> None:
    """A replacement was killed; what it had finished has the names of shards that are there."""
    write(items(0, 4))
    before = contents(tmp_path / "set")
    assert not dying(lambda: write(items(50, 60), replace=True), 25)
    assert (tmp_path / ".set.partial/data/train-000000.tar").exists()
    write(items(0, 9), append=True)
    after = contents(tmp_path / "set")
    assert {n: after[n] for n in before if n.endswith(".tar")} == {
        n: b for n, b in before.items() if n.endswith(".tar")
    }
    assert rows(tmp_path / "set") == told(items(0, 9))


def test_users_own_files_stay(write: Write, tmp_path: Path) -> None:
    """Only what has the name of a file of ours is ever removed."""
    write(items(0, 4))
    mine = ["notes.txt", "train-1.tar", "other.tar", "index.html", "train-000000.tar.bak"]
    for name in mine:
        (tmp_path / "set" / name).write_text("mine")
    write(items(0, 9), append=True)
    assert all((tmp_path / "set" / name).read_text() == "mine" for name in mine)


def test_error_on_the_way_leaves_the_old_one(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the manifest is written: the old data set, and one line."""
    write(items(0, 4))
    save = Manifest.save

    def full(self: Manifest, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Manifest, "save", full)
    with pytest.raises(Exception, match="No space left") as caught:
        write(items(0, 9), append=True)
    assert re.fullmatch(r"[^\n]+: 2 finished shards are kept in [^\n]+", str(caught.value))
    assert rows(tmp_path / "set") == told(items(0, 4))
    inodes = {n: s[0] for n, s in state(tmp_path / "set", "*.tar").items()}
    monkeypatch.setattr(Manifest, "save", save)
    write(items(0, 9), append=True)
    assert rows(tmp_path / "set") == told(items(0, 9))
    assert {n: s[0] for n, s in state(tmp_path / "set", "*.tar").items()} == inodes


def test_append_keeps_groups_and_exclusions_of_the_data_set(write: Write, tmp_path: Path) -> None:
    """Neither has to be typed again, and another column for groups is refused."""
    first = [
        Item(name=f"{n}", data=b"%d" % n, label="a", metadata={"sku": f"s{n // 2}"})
        for n in range(40)
    ]
    skip = Item(name="skip", data=b"s", label="Not sure")
    shares = {"train": 0.5, "val": 0.5}
    write([*first, skip], split=shares, group_by="sku", exclude_label=("Not sure",))
    more = [
        Item(name=f"{n}b", data=b"%db" % n, label="a", metadata={"sku": f"s{n // 2}"})
        for n in range(40)
    ]
    write([*first, *more, skip], append=True)
    shards = open_shards(tmp_path / "set")
    splits: dict[int, set[int]] = {}
    for group, split in zip(shards.index.group.tolist(), shards.splits.tolist(), strict=True):
        splits.setdefault(group, set()).add(split)
    assert len(shards) == 80 and shards.classes == ("a",)
    assert len(splits) == 20 and all(len(found) == 1 for found in splits.values())
    with pytest.raises(UsageError, match="--group-by sku, not folder"):
        write([*first, *more], append=True, group_by="folder")


def test_append_to_a_sources_own_splits_draws_none(write: Write, tmp_path: Path) -> None:
    """New items keep their splits, or have none; what is trained already counts as trained."""
    first = [
        Item(name=f"{label}{split}", data=f"{label}{split}".encode(), label=label, split=split)
        for label in ("coat", "dress")
        for split in ("train", "val")
    ]
    write(first)
    new = [
        Item(name="d", data=b"d", label="dress", split="train"),
        Item(name="c", data=b"c", label="coat", split="val"),
        Item(name="e", data=b"e", label="coat"),
    ]
    write([*first, *new], append=True)
    assert open_shards(tmp_path / "set").manifest.splits == {"train": 3, "val": 3, "all": 1}


def test_append_of_nothing_selected_is_no_error(write: Write, tmp_path: Path) -> None:
    """The same command again finds nothing new, whatever it leaves out."""
    items = [Item(name=n, data=n.encode(), label=n[0], split="train") for n in ("a1", "a2", "b1")]
    chosen = Selection(classes=("a",))
    write(items, selection=chosen)
    before = contents_of(tmp_path / "set")
    write(items, selection=chosen, append=True)
    assert contents_of(tmp_path / "set") == before


def contents_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


class Annotated(Source):
    """One item, of whose attributes one is known."""

    attributes = tuple(Attribute(name=n) for n in ("red", "floral", "long"))

    def items(self) -> Iterator[Item]:
        yield Item(name="old.jpg", data=b"o", label="a", split="train", positive=(1,))


def test_what_the_source_does_not_annotate_is_unknown(write: Write, tmp_path: Path) -> None:
    """Not negative: a data set with attributes grows by items of which nobody knows them."""
    write([], source=Annotated())
    write([Item(name="new.jpg", data=b"n", label="a", split="train")], append=True)
    index = open_shards(tmp_path / "set").index
    assert [row.tolist() for row in index.positive] == [[1], []]
    assert [row.tolist() for row in index.unknown] == [[], [0, 1, 2]]


def test_what_is_unknown_decides_about_a_finished_shard(
    write: Write, tmp_path: Path, dying: Dying
) -> None:
    """An append died; the data set that it is typed again for has attributes: packed anew."""
    new = [Item(name="new.jpg", data=b"n", label="a", split="train")]
    write([Item(name="old.jpg", data=b"o", label="a", split="train")])
    number = 1
    while not list(tmp_path.glob(f".set.partial/work/train-*{part.SUFFIX}")):
        assert not dying(lambda: write(new, append=True), number)
        number += 1
    shutil.rmtree(tmp_path / "set")
    write([], "other", source=Annotated())
    (tmp_path / "other").rename(tmp_path / "set")
    write(new, append=True)
    shards = open_shards(tmp_path / "set")
    assert [row.tolist() for row in shards.index.unknown] == [[], [0, 1, 2]]
    with tarfile.open(tmp_path / "set/train-000001.tar") as tar:
        about = json.loads(tar.extractfile("000000001.json").read())  # type: ignore[union-attr]
    assert about["unknown"] == [0, 1, 2]
