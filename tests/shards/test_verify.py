"""Verify: every damaged byte of a data set is found, and no byte of a whole one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch import files
from fashionbatch.errors import ShardError, UsageError
from fashionbatch.shards import foreign as foreign_tars
from fashionbatch.shards.foreign import cached
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import MANIFEST, Manifest, ShardRecord
from fashionbatch.shards.ragged import Ragged, Texts
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.shards.verification import stream
from fashionbatch.shards.verification.findings import (
    DAMAGED,
    NOTE,
    REFUSED,
    SKIPPED,
    Finding,
    Report,
)
from fashionbatch.shards.verification.members import BLOCK, END
from fashionbatch.shards.verification.verify import verify

Photo = Callable[..., bytes]
SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


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


def make_tar(path: Path, content: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def flip(path: Path, byte: int, bit: int = 0, *, keep_time: bool = False) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def damages(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.severity in (DAMAGED, REFUSED)]


def only(report: Report, *words: str) -> Finding:
    """The one finding, which says what is wrong in one line."""
    (found,) = report.findings
    assert not report.ok
    assert "\n" not in found.reason
    for word in words:
        assert word in found.reason, found.reason
    return found


def signed(folder: Path, **changes: Any) -> None:
    """Makes the manifest state the files as they are now: the work of a writer with a bug."""
    manifest = replace(Manifest.load(folder), **changes)
    assert manifest.index is not None and manifest.failures is not None

    def record(old: Any) -> Any:
        data = (folder / old.file).read_bytes()
        size = {"bytes": len(data)} if hasattr(old, "bytes") else {}
        return replace(old, sha256=hashlib.sha256(data).hexdigest(), **size)

    replace(
        manifest,
        shards=tuple(record(s) for s in manifest.shards),
        index=record(manifest.index),
        failures=record(manifest.failures),
    ).save(folder)


def locate(shards: ShardSet, row: int) -> tuple[Path, int, int]:
    """File of a row, and where its image starts and ends."""
    start = shards.index.offset.item(row)
    return shards.file(shards.index.shard.item(row)), start, start + shards.index.size.item(row)


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


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


def test_failures_are_counted(packed: Path) -> None:
    """A line too many, and one that is no failure, though the hash fits."""
    path = packed / "failures.jsonl"
    whole = path.read_text()
    for text, words in (
        (whole * 2, "2 lines"),
        ("", "0 lines"),
        ('{"name": 1}\n', "line 1"),
        ("[[[[\n", "line 1"),
    ):
        path.write_text(text)
        assert only(verify(packed), "SHA-256").shard == path.name
        signed(packed)
        assert only(verify(packed), words).shard == path.name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"items": 11}, "add up"),
        ({"items": "10"}, "no number"),
        ({"failed": None}, "no number"),
        ({"name": 5}, "no text"),
    ],
)
def test_manifest_that_contradicts_itself(
    packed: Path, changes: dict[str, Any], words: str
) -> None:
    """Although every file is as it states."""
    signed(packed, **changes)
    found = [f for f in verify(packed).findings if f.shard == MANIFEST]
    assert len(found) == 1 and words in found[0].reason


def test_split_that_there_is_not(packed: Path) -> None:
    """A misspelt one would lose its images."""
    first, *rest = Manifest.load(packed).shards
    signed(packed, shards=(replace(first, split="trian"), *rest))
    assert "'trian'" in verify(packed).findings[0].reason
    assert verify(packed).findings[0].shard == MANIFEST


def test_shard_without_images(packed: Path) -> None:
    """Is whole where it is empty, and hides nothing."""
    path = packed / "test-000000.tar"
    path.write_bytes(bytes(END))
    shards = Manifest.load(packed).shards
    empty = ShardRecord(file=path.name, split="test", items=0, bytes=END, sha256="")
    signed(packed, shards=(*shards, empty))
    assert verify(packed).findings == ()
    path.write_bytes(_header("x.pyd", 3) + b"cos".ljust(BLOCK, b"\0") + bytes(END))
    signed(packed)
    assert only(verify(packed)).shard == path.name


def test_hostile_manifest_is_an_error_of_ours(packed: Path) -> None:
    """Absurd numbers and names end in findings, not in a traceback, though its SHA-256 fits."""
    path = packed / MANIFEST
    values = json.loads(path.read_bytes())
    del values["sha256"]
    for changes in (
        {"bytes": 1 << 80},
        {"bytes": -5},
        {"items": -1},
        {"items": 1 << 70},
        {"split": "trian"},
        {"file": "\ud800.tar"},
        {"file": "a\0b.tar"},
        {"file": ".."},
        {"sha256": None},
    ):
        first, *rest = values["shards"]
        made = {**values, "shards": [{**first, **changes}, *rest]}
        path.write_text(json.dumps({**made, "sha256": files.fingerprint(made)}))
        report = verify(packed)
        assert not report.ok, changes
        assert not any("was changed" in f.reason for f in report.findings), changes


def _reversed(index: Index) -> dict[str, Any]:
    return {"shard": index.shard[::-1].copy()}


INDEXES: dict[str, tuple[Callable[[Index], dict[str, Any]], str]] = {
    "order": (_reversed, "order"),
    "counts": (lambda i: {"shard": np.maximum(i.shard, 1)}, "items in"),
    "label": (lambda i: {"label": i.label + 2}, "no classes"),
    "negative": (lambda i: {"label": i.label - 9}, "no classes"),
    "kind": (lambda i: {"extension": i.extension + 9}, "kind"),
    "key": (lambda i: {"key": Texts.of_texts(["000000000"] * len(i))}, "key twice"),
    "empty key": (lambda i: {"key": Texts.of_texts([""] * len(i))}, "key twice"),
    "attribute": (
        lambda i: {"positive": Ragged.of([[7]] * len(i), np.uint16)},
        "no attributes",
    ),
    "outside": (lambda i: {"offset": i.offset + np.uint64(1 << 63)}, "outside"),
    "overlap": (lambda i: {"size": i.size + np.uint32(1 << 20)}, "overlap"),
    "shifted": (lambda i: {"offset": i.offset + np.uint64(BLOCK)}, "overlap"),
    "odd": (lambda i: {"offset": i.offset + (np.arange(len(i)) == 1).astype(np.uint64)}, "overlap"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_index_that_cannot_be_right(packed: Path, case: str) -> None:
    """Found before any shard is compared with it, although its hash fits."""
    change, words = INDEXES[case]
    path = packed / "index.h5"
    index = Index.load(path)
    index.to_arrays()
    index.replaced(**change(index)).save(path)
    signed(packed)
    assert only(verify(packed), words).shard == "index.h5"


@pytest.mark.parametrize("column", ["sha256", "label", "width", "box", "name", "key", "extension"])
def test_index_of_other_facts(packed: Path, column: str) -> None:
    """One wrong value, in an index and a manifest that agree: that item is named."""
    path = packed / "index.h5"
    index = Index.load(path)
    values = index.to_arrays()[column].copy()
    if column in ("name", "key"):
        names = list(getattr(index, column))
        names[4] = f"x{names[4][1:]}"
        value: Any = Texts.of_texts(names)
    else:
        values[4] = (values[4] + 1) % (2 if column in ("label", "extension") else 99)
        value = values
    index.replaced(**{column: value}).save(path)
    signed(packed)
    assert only(verify(packed)).key == (names[4] if column == "key" else index.key[4])


def test_index_without_a_column(packed: Path) -> None:
    """Or with one that is no text: an error of ours."""
    import h5py

    with h5py.File(packed / "index.h5", "a") as file:
        del file["width"]
    signed(packed)
    found = only(verify(packed), "width")
    assert (found.shard, found.severity) == ("index.h5", REFUSED)


def _header(name: str, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def test_shard_of_a_writer_with_a_bug(packed: Path) -> None:
    """Hashes that fit do not hide what contradicts the index."""
    shards = open_shards(packed)
    path, start, end = locate(shards, 1)
    name, key = shards.name(1).encode(), "000000001"
    after = end + -end % BLOCK
    size = end - start
    image = path.read_bytes()[start - BLOCK : start][:100].rstrip(b"\0").decode()
    json_size = int(path.read_bytes()[after + 124 : after + 135], 8)
    cases: dict[str, tuple[int, bytes]] = {
        "SHA-256": (start + 5, b"ABC"),
        f"header of {image} is of '{key}x'": (start - BLOCK, _header(f"{key}x", size)),
        f"states {size - 1} bytes": (start - BLOCK, _header(image, size - 1)),
        f"header of {image} is damaged": (start - BLOCK + 101, b"7"),
        "has the split": (after + path.read_bytes()[after:].index(b'"split":"') + 9, b"T"),
        "no plain file": (start - BLOCK, _header(image, size, b"2")),
        "has the name": (after + BLOCK + path.read_bytes()[after + BLOCK :].index(name), b"NAME"),
        "JSON is no object": (after + BLOCK, b"[" + b" " * (json_size - 2) + b"]"),
        "header of 000000001.json is of": (after, _header("000000001.jsom", json_size)),
        "label is": (after + 3 * BLOCK, b"7"),
        "is not empty": (end, b"hidden"),
    }
    whole = path.read_bytes()
    for words, (place, data) in cases.items():
        made = bytearray(whole)
        made[place : place + len(data)] = data
        path.write_bytes(made)
        signed(packed)
        found = only(verify(packed), words)
        assert (found.shard, found.key) == (path.name, key)
        path.write_bytes(whole)
    signed(packed)
    assert verify(packed).ok


def test_members_that_nobody_indexed(packed: Path) -> None:
    """Smuggled in behind the last sample, or behind the end."""
    path = packed / "val-000000.tar"
    whole = path.read_bytes()
    smuggled = _header("x.pyd", 3) + b"cos".ljust(BLOCK, b"\0")
    path.write_bytes(whole[:-END] + smuggled + whole[-END:])
    signed(packed)
    assert only(verify(packed), "other members").shard == path.name
    path.write_bytes(whole + smuggled)
    signed(packed)
    assert not verify(packed).ok


def test_json_bomb_is_not_followed(packed: Path) -> None:
    """Lists within lists, deeper than Python goes."""
    shards = open_shards(packed)
    path, _, end = locate(shards, 3)
    after = end + -end % BLOCK
    whole = path.read_bytes()
    bomb = b"[" * 200_000
    label = b"%d" % shards.labels[3]
    tail = _header("000000003.cls", 1) + label.ljust(BLOCK, b"\0") + bytes(END)
    made = whole[:after] + _header("000000003.json", len(bomb)) + bomb
    path.write_bytes(made + bytes(-len(bomb) % BLOCK) + tail)
    signed(packed)
    assert any("JSON is no object" in f.reason for f in verify(packed).findings)


def test_tar_files_made_elsewhere(foreign: Path) -> None:
    """Whole ones: in a folder, and one alone."""
    report = verify(foreign)
    assert report.findings == ()
    assert (report.items, report.shards) == (6, 2)
    assert report.bytes == sum(p.stat().st_size for p in foreign.iterdir())
    alone = verify(foreign / "a.tar")
    assert (alone.items, alone.shards, alone.findings) == (3, 1, ())


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that rots changes no times of the file, but a test's own write does."""
    monkeypatch.setattr(foreign_tars, "_state", lambda status: (status.st_size, status.st_mtime_ns))


def test_bit_rot_since_the_first_scan(foreign: Path, silent: None) -> None:
    """Fault 8: a payload flip keeps size and time, and is found by the first scan's hash."""
    shards = open_shards(foreign)
    path, start, _ = locate(shards, 4)
    flip(path, start + 20, keep_time=True)
    shard, image = verify(foreign).findings
    assert (shard.shard, shard.key) == ("b.tar", "")
    assert (image.shard, image.key, image.name) == ("b.tar", "b1", shards.name(4))
    assert not verify(foreign).ok, "it stays found"
    flip(path, start + 20, keep_time=True)
    assert verify(foreign).ok
    place = path.read_bytes().index(b"hat")
    flip(path, place, keep_time=True)
    (found,) = damages(verify(foreign))
    assert (found.shard, found.key) == ("b.tar", "")


def test_first_verify_is_the_first_scan(
    foreign: Path, silent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is scanned once, and what rots later differs from what was found then."""
    scanned: list[str] = []
    scan = foreign_tars.scan
    monkeypatch.setattr(foreign_tars, "scan", lambda p: scanned.append(p.name) or scan(p))
    assert cached(foreign) is None
    assert verify(foreign).findings == ()
    assert scanned == ["a.tar", "b.tar"]
    shards = open_shards(foreign)
    assert scanned == ["a.tar", "b.tar"], "it is in the cache"
    known = cached(foreign)
    assert known is not None and known.manifest == shards.manifest
    path, start, _ = locate(shards, 4)
    flip(path, start + 20, keep_time=True)
    assert [f.key for f in damages(verify(foreign))] == ["", "b1"]
    assert scanned == ["a.tar", "b.tar"] * 2
    flip(path, start + 20)
    os.utime(path, ns=(0, 0))
    assert cached(foreign) is None, "it has another time"


def test_labels_of_several_tar_files(tmp_path: Path, photo: Photo) -> None:
    """Classes are sorted over all files, and each image keeps its own."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    labels = {"a.tar": [b"10", b"", b"2"], "b.tar": [b"hat", b"2"], "c.tar": []}
    for name, texts in labels.items():
        content = []
        for number, text in enumerate(texts):
            key = f"{name[0]}{number}"
            content += [(f"{key}.jpg", photo(number)), *([(f"{key}.cls", text)] if text else [])]
        make_tar(folder / name, content)
    shards = open_shards(folder)
    assert shards.manifest.classes == ("2", "10", "hat")
    assert shards.index.label.tolist() == [1, -1, 0, 2, 0]
    assert shards.index.shard.tolist() == [0, 0, 0, 1, 1]


def test_link_to_nowhere_is_refused(foreign: Path) -> None:
    """By name; the others are read."""
    (foreign / "c.tar").symlink_to(foreign / "nowhere")
    found = only(verify(foreign), "c.tar cannot be read", "No such file")
    assert (found.shard, found.severity) == ("c.tar", REFUSED)
    assert len(open_shards(foreign, strict=False)) == 6


def test_lost_sample_since_the_first_scan(foreign: Path, silent: None) -> None:
    """A file that was replaced by a shorter one of the same length and time."""
    shards = open_shards(foreign)
    status = (foreign / "b.tar").stat()
    _, start, _ = locate(shards, 5)
    data = (foreign / "b.tar").read_bytes()
    data = data[: start - BLOCK].ljust(len(data), b"\0")
    (foreign / "b.tar").write_bytes(data)
    os.utime(foreign / "b.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [f.key for f in damages(verify(foreign))] == ["", "b2"]


def test_damaged_and_skipped_and_noted(foreign: Path, photo: Photo) -> None:
    """Each with its file; the others are still read."""
    flip(foreign / "a.tar", 3)
    make_tar(
        foreign / "c.tar",
        [("x.jpg", photo(1)), ("y.json", b"{}"), ("z.pyd", b"cos")],
    )
    report = verify(foreign, workers=3)
    assert [(f.shard, f.severity, f.name) for f in report.findings] == [
        ("a.tar", REFUSED, ""),
        ("c.tar", SKIPPED, "c/y.json"),
        ("c.tar", NOTE, ""),
    ]
    assert (report.items, report.shards, report.ok) == (4, 3, False)
    (foreign / "a.tar").unlink()
    assert verify(foreign).ok


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
