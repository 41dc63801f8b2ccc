"""Verify: every damaged byte of a data set is found, and no byte of a whole one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import ShardError, UsageError
from fashionbatch.shards.manifest import MANIFEST, Manifest
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.verification import stream
from fashionbatch.shards.verification.findings import (
    DAMAGED,
    NOTE,
    REFUSED,
)
from fashionbatch.shards.verification.members import BLOCK, END
from fashionbatch.shards.verification.verify import verify
from tests.shards.damage import damages, flip, locate, only

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


def test_whole_data_set(packed: Path) -> None:
    """Nothing is found, and everything was read."""
    shards = sorted(packed.glob("*.tar"))
    report = verify(packed)
    assert report.findings == () and report.ok
    assert (report.items, report.shards) == (10, len(shards)) == (10, 3)
    assert report.bytes == sum(s.stat().st_size for s in shards)
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


def test_drawn_splits(
    catalog: Callable[..., Path], pack: Callable[..., tuple[Path, Manifest]]
) -> None:
    """A data set whose splits were drawn is whole too, and one without labels."""
    assert verify(pack(catalog({"dress": 8, "hat": 8}))[0]).findings == ()
    flat = catalog({"flat": 3}, "one") / "flat"
    assert verify(pack(flat, "shards/flat", default_split={})[0]).findings == ()


def test_everything_an_index_can_hold(tmp_path: Path, write: Callable[..., Manifest]) -> None:
    """Boxes, landmarks, attributes and metadata agree with what was packed."""
    from fashionbatch.sources import Attribute, Item
    from tests.conftest import Listed

    items = [
        Item(
            name=f"caf\\xe9/{n} ü.jpg", data=b"x" * (500 + 6 * n), label="hat", split="train",
            group=f"p{n}", positive=(0, 2)[: n % 3], unknown=(1,)[: n % 2], box=(1, 2, 30, 40),
            landmarks=((0, 5, 6),), metadata={"deep": {"a": [1, None]}},
        )
        for n in range(7)
    ]  # fmt: skip
    source = Listed(items)
    source.attributes = tuple(Attribute(name=n) for n in ("red", "blue", "green"))
    write(items, source=source)
    assert verify(tmp_path / "set").findings == ()


@pytest.mark.parametrize("box", [(-3, 2, 30, 40), (-1, -1, 30, 40), (-9, -9, -2, -2), (0, 0, 0, 0)])
def test_box_beyond_the_image(
    tmp_path: Path, write: Callable[..., Manifest], box: tuple[int, int, int, int]
) -> None:
    """A box that begins left of the image is a box."""
    from fashionbatch.sources import Item

    write([Item(name="a", data=b"x", box=box), Item(name="b", data=b"y")])
    assert verify(tmp_path / "set").findings == ()


def test_committed_sample() -> None:
    """The sample that comes with the project is whole."""
    report = verify(SAMPLE, workers=2)
    assert report.findings == () and report.items == 5500


def test_pieces_of_any_length(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that lie across the border of two pieces are read as they are."""
    for length in (1, 511, 700, 1024, 5000):
        monkeypatch.setattr(stream, "_PIECE", length)
        assert verify(packed).findings == ()
    shards = open_shards(packed)
    path, _, end = locate(shards, 1)
    flip(path, end - 1)
    monkeypatch.setattr(stream, "_PIECE", 600)
    assert [f.name for f in damages(verify(packed))] == ["", shards.name(1)]


def test_workers_change_nothing(packed: Path) -> None:
    """Findings come in the order of the shards, however many are read at once."""
    shards = open_shards(packed)
    for row in range(10):
        path, start, _ = locate(shards, row)
        flip(path, start + row)
    alone = verify(packed, workers=1)
    assert len(alone.findings) == 3 + 10
    assert verify(packed, workers=4) == alone


def test_progress_adds_up(packed: Path, foreign: Path) -> None:
    """All bytes are told, once."""
    for path in (packed, foreign):
        events: list[tuple[str, int]] = []

        def tell(event: str, values: dict[str, Any], seen: Any = events) -> None:
            seen.append((event, values["bytes"]))

        report = verify(path, tell=tell)
        assert events[0] == ("start", report.bytes)
        assert sum(size for _, size in events[1:]) == report.bytes


@pytest.mark.parametrize("bit", [0, 5, -1])
def test_flipped_image_is_named(packed: Path, bit: int) -> None:
    """Fault 8: the shard, and the one image in it that is damaged, by key and name."""
    shards = open_shards(packed)
    for row in range(10):
        path, start, end = locate(shards, row)
        whole = path.read_bytes()
        flip(path, start + bit // 8 if bit >= 0 else end - 1, bit % 8)
        shard, image = verify(packed).findings
        assert (shard.shard, shard.key, shard.severity) == (path.name, "", DAMAGED)
        assert "SHA-256" in shard.reason and "1 of its" in shard.reason
        assert (image.shard, image.key, image.name) == (
            path.name, shards.index.key[row], shards.name(row),
        )  # fmt: skip
        assert "copy its shard again" in image.reason
        path.write_bytes(whole)


def test_damage_beside_images_is_told_apart(packed: Path) -> None:
    """A header, the JSON, the label or the padding: the images themselves are whole."""
    shards = open_shards(packed)
    path, start, end = locate(shards, 1)
    after = end + -end % BLOCK
    places = {
        start - BLOCK: "header of 000000001",
        start - BLOCK + 130: "header of 000000001",
        after: "header of 000000001.json",
        after + BLOCK + 1: "JSON",
        after + 2 * BLOCK - 1: "000000001.json is not empty",
        after + 3 * BLOCK: "label is",
        end: "000000001",
    }
    whole = path.read_bytes()
    assert end % BLOCK, "the image fills its last block: choose another one"
    for place, words in places.items():
        flip(path, place)
        shard, item = verify(packed).findings
        assert "images are whole" in shard.reason
        assert item.key == "000000001" and words in item.reason
        path.write_bytes(whole)
    for place in (1, END - 1, END):
        flip(path, len(whole) - place)
        assert all(f.key == "" and f.shard == path.name for f in verify(packed).findings)
        assert len(verify(packed).findings) == 2
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images and a failure, whose every bit may be flipped."""
    from fashionbatch.shards.write import Job, write
    from fashionbatch.sources import Failure, Item
    from tests.conftest import Listed, as_jpeg

    folder = tmp_path_factory.mktemp("tiny")
    items = [
        Item(name="a.jpg", data=b"aaa" * 99, label="hat", split="train"),
        Failure(name="b.jpg", stage="source", reason="odd"),
        Item(name="c.jpg", data=b"ccc" * 300, label="bag", split="train"),
    ]
    write(Job(source=Listed(items), output=folder / "set", prepare=as_jpeg))
    return folder / "set"


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([MANIFEST, "index.h5", "failures.jsonl", "train-000000.tar"]), st.data())
def test_any_flipped_bit_is_found(tiny: Path, file: str, data: st.DataObject) -> None:
    """Faults 7, 8, 9: in the file where it is."""
    path = tiny / file
    whole = path.read_bytes()
    byte = data.draw(st.integers(0, len(whole) - 1), label="byte")
    bit = data.draw(st.integers(0, 7), label="bit")
    try:
        flip(path, byte, bit)
        report = verify(tiny)
        assert not report.ok
        assert file in {f.shard for f in damages(report)}
    finally:
        path.write_bytes(whole)


def test_every_byte_of_the_manifest(tiny: Path) -> None:
    """One bit of each, whatever it states; and it is the manifest that is refused."""
    path = tiny / MANIFEST
    whole = path.read_bytes()
    try:
        for byte in range(len(whole)):
            flip(path, byte, byte % 7)
            found = only(verify(tiny))
            assert (found.shard, found.severity) == (MANIFEST, REFUSED), byte
            path.write_bytes(whole)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "field", ["name", "classes", "class_types", "items", "keys", "shards", "source", "sample"]
)
def test_changed_manifest_is_said_to_be_changed(packed: Path, field: str) -> None:
    """Also where it states what nothing else in the data set can be compared with."""
    path = packed / MANIFEST
    values = json.loads(path.read_bytes())
    values[field] = None
    path.write_text(json.dumps(values))
    found = only(verify(packed), f"{MANIFEST} was changed after it was written")
    assert (found.shard, found.severity) == (MANIFEST, REFUSED)


def test_truncation_at_every_block_is_found(tiny: Path) -> None:
    """Faults 5 and 6: the shard and the images that are lost; whole ones are not named."""
    path = tiny / "train-000000.tar"
    whole = path.read_bytes()
    shards = open_shards(tiny)
    try:
        for cut in sorted({*range(0, len(whole), BLOCK), *range(1, len(whole), 97)}):
            path.write_bytes(whole[:cut])
            first, *rest = damages(verify(tiny))
            assert first.shard == path.name and f"{cut} bytes" in first.reason
            lost = [shards.index.key[row] for row in (0, 1) if locate(shards, row)[2] > cut]
            named = [f.key for f in rest if "end of the image" in f.reason]
            assert named == lost
            if lost:
                assert f"{len(lost)} of its 2" in first.reason
    finally:
        path.write_bytes(whole)
    assert verify(tiny).ok


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 1024, b"x" * 3000])
def test_longer_shard_is_found(packed: Path, extra: bytes) -> None:
    """Whatever is appended."""
    path = packed / "val-000000.tar"
    path.write_bytes(path.read_bytes() + extra)
    reasons = [f.reason for f in verify(packed).findings]
    assert any("bytes" in r and "images are whole" in r for r in reasons)
    assert any("behind its end" in r for r in reasons)


def test_missing_files_are_named(packed: Path) -> None:
    """Each one, and the others are still checked."""
    for path in sorted(p for p in packed.iterdir() if p.name != MANIFEST):
        moved = path.rename(packed.parent / "moved")
        found = only(verify(packed), "cannot be read")
        assert found.shard == path.name
        moved.rename(path)


def test_shard_that_is_no_file_is_refused(packed: Path) -> None:
    """A named pipe does not make it wait, a folder does not make it fail."""
    path = packed / "val-000000.tar"
    path.unlink()
    os.mkfifo(path)
    assert only(verify(packed), "not a regular file").shard == path.name
    path.unlink()
    path.mkdir()
    assert only(verify(packed)).shard == path.name


def test_damaged_index_leaves_the_shards_checked(packed: Path) -> None:
    """Without it, shards are compared with their hashes alone."""
    flip(packed / "index.h5", 900)
    assert only(verify(packed), "SHA-256").shard == "index.h5"
    shard = next(packed.glob("train-*.tar"))
    flip(shard, 5)
    names = [f.shard for f in verify(packed).findings]
    assert names == ["index.h5", shard.name]


def test_damaged_manifest_is_refused(packed: Path) -> None:
    """Nothing else can be trusted then."""
    (packed / MANIFEST).write_bytes((packed / MANIFEST).read_bytes()[:-9])
    found = only(verify(packed), "damaged")
    assert (found.shard, found.severity) == (MANIFEST, REFUSED)


def test_interrupted_copy_is_no_data_set_made_elsewhere(packed: Path) -> None:
    """Without the manifest, shards of ours lose their labels: that is said."""
    (packed / MANIFEST).unlink()
    found = only(verify(packed), "missing")
    assert (found.shard, found.severity) == (MANIFEST, REFUSED)


def test_unlisted_tar_is_noted(packed: Path) -> None:
    """It is nobody's damage."""
    shutil.copy(packed / "val-000000.tar", packed / "val-000009.tar")
    report = verify(packed)
    assert report.ok
    assert [(f.shard, f.severity) for f in report.findings] == [("val-000009.tar", NOTE)]


def test_what_is_no_data_set(tmp_path: Path) -> None:
    """Says what to do instead."""
    with pytest.raises(UsageError, match="does not exist"):
        verify(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="runs a program"):
        verify(Path("pipe:cat x.tar"))
    (tmp_path / "photos").mkdir()
    with pytest.raises(ShardError, match="fashionbatch shard"):
        verify(tmp_path / "photos")


def test_memory_is_flat(tmp_path: Path, write: Callable[..., Manifest]) -> None:
    """An image of 48 MiB is read in pieces."""
    import tracemalloc

    from fashionbatch.sources import Item

    write([Item(name="a", data=bytes(48 << 20)), Item(name="b", data=b"b")])
    tracemalloc.start()
    try:
        assert verify(tmp_path / "set").findings == ()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
