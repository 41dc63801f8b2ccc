"""Tar files made elsewhere: indexed whole, or refused by name (faults 5-7, 9-14, 20)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import ShardError
from fashionbatch.shards.index import IndexRow, scan
from fashionbatch.shards.read import open_shards

Photo = Callable[..., bytes]


@pytest.fixture
def foreign(tmp_path: Path, photo: Photo) -> Path:
    """Four samples written by webdataset."""
    path = tmp_path / "foreign" / "part-000000.tar"
    path.parent.mkdir()
    with webdataset.ShardWriter(
        str(path.parent / "part-%06d.tar"), maxcount=100, mtime=0, verbose=0
    ) as sink:
        for number in range(4):
            sample = {"__key__": f"item{number}", "jpg": photo(number), "json": {"n": number}}
            sink.write(sample)
    return path


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_webdatasets_own_shards_are_read(foreign: Path, photo: Photo) -> None:
    """A folder of foreign shards, and one of them alone, give every image with label -1."""
    for path in (foreign, foreign.parent):
        shards = open_shards(path)
        assert [shards.read(row) for row in range(4)] == [photo(n) for n in range(4)]
        assert [shards.name(row) for row in range(4)] == [f"item{n}.jpg" for n in range(4)]
        assert shards.labels.tolist() == [-1] * 4 and shards.classes == ()
        assert shards.manifest.splits == {"all": 4}


def test_our_own_shards_can_be_scanned(
    catalog: Callable[..., Path], pack: Callable[..., tuple[Path, object]]
) -> None:
    """Without its manifest a shard of ours is a tar file like any other."""
    path, _ = pack(catalog({"hat": 4}))
    own = open_shards(path)
    rows = [r for n, s in enumerate(own.manifest.shards) for r in scan(path / s.file, n)]
    assert [r.offset for r in rows] == own.index.offset.tolist()
    assert [r.sha256 for r in rows] == [h.tobytes() for h in own.index.sha256]


def test_truncation_at_every_block_is_refused(foreign: Path) -> None:
    """Fault 5: cut at any 512 boundary, tarfile alone would read a shorter tar."""
    whole = foreign.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for cut in range(0, end + 1024, 512):
        foreign.write_bytes(whole[:cut])
        with pytest.raises(ShardError, match=foreign.name):
            scan(foreign)
    foreign.write_bytes(whole[: end + 1024])
    assert len(scan(foreign)) == 4


def test_truncation_within_a_payload_is_refused(foreign: Path) -> None:
    """Fault 6: the member that is cut is not passed over."""
    whole = foreign.read_bytes()
    for row in scan(foreign):
        foreign.write_bytes(whole[: row.offset + row.size // 2])
        with pytest.raises(ShardError, match=foreign.name):
            scan(foreign)
        foreign.write_bytes(whole)


def test_header_bit_flip_is_refused(foreign: Path) -> None:
    """Fault 7: a flipped bit in any member's header is named, never a shorter tar."""
    whole = foreign.read_bytes()
    rows = scan(foreign)
    for row in rows:
        for position, bit in ((0, 0), (5, 3), (100, 1), (130, 2), (156, 0), (300, 7), (510, 4)):
            data = bytearray(whole)
            data[row.offset - 512 + position] ^= 1 << bit
            foreign.write_bytes(data)
            with pytest.raises(ShardError, match=foreign.name):
                scan(foreign)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_refused_or_loses_nothing(foreign: Path, data: st.DataObject) -> None:
    """Faults 5-7: after a flip or a cut anywhere there is an error, or still every image."""
    whole = foreign.with_suffix(".whole")
    if not whole.exists():
        whole.write_bytes(foreign.read_bytes())
    content = bytearray(whole.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content)), label="at") :]
    else:
        position = data.draw(st.integers(0, len(content) - 1), label="position")
        content[position] ^= data.draw(st.integers(1, 255), label="mask")
    foreign.write_bytes(content)
    try:
        rows: list[IndexRow] = scan(foreign)
    except ShardError:
        return
    assert [r.key for r in rows] == [f"item{n}" for n in range(4)]


def test_hole_of_zeros_is_refused(foreign: Path) -> None:
    """Fault 9: 1 KiB of zeros over headers looks like the end of the tar, but is not."""
    whole = bytearray(foreign.read_bytes())
    start = scan(foreign)[2].offset - 512
    whole[start : start + 1024] = bytes(1024)
    foreign.write_bytes(whole)
    with pytest.raises(ShardError, match=foreign.name):
        scan(foreign)


def test_two_tars_in_one_file_are_refused(foreign: Path) -> None:
    """Fault 9: what stands behind the end of a tar would be lost without a word."""
    foreign.write_bytes(foreign.read_bytes() * 2)
    with pytest.raises(ShardError, match=foreign.name):
        scan(foreign)


@pytest.mark.parametrize(
    "data",
    [b"", b"<!doctype html><p>404" * 100, b"x" * 5000, b"\x1f\x8b\x08" + b"\0" * 600, b"\0" * 100],
    ids=["fault-10-zero-bytes", "fault-11-html", "text", "fault-21-gzip", "zeros"],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    """Faults 10, 11, 21: not a tar file, by name."""
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(ShardError, match="x.tar"):
        scan(path)
    with pytest.raises(ShardError, match="x.tar"):
        open_shards(path)


def test_missing_file_and_folder_named_tar_are_refused(tmp_path: Path) -> None:
    """An error of ours, not an OSError."""
    (tmp_path / "d.tar").mkdir()
    for name in ("d.tar", "nowhere.tar"):
        with pytest.raises(ShardError, match=name):
            scan(tmp_path / name)


def test_empty_tar_has_no_rows(tmp_path: Path) -> None:
    """Fault 12: a valid shard without members."""
    assert scan(make_tar(tmp_path / "e.tar", [])) == []
    assert len(open_shards(tmp_path / "e.tar")) == 0


@pytest.mark.parametrize("distant", [False, True], ids=["fault-13", "fault-14"])
def test_duplicate_key_is_refused(tmp_path: Path, photo: Photo, distant: bool) -> None:
    """Faults 13, 14: one key for two images, next to each other or far apart."""
    between = [("b.jpg", photo(1))] if distant else []
    members = [("a.jpg", photo(0)), *between, ("a.png", photo(2, kind="PNG"))]
    with pytest.raises(ShardError, match="'a' twice"):
        scan(make_tar(tmp_path / "x.tar", members))


def test_members_that_are_no_images_are_passed_over(tmp_path: Path, photo: Photo) -> None:
    """Faults 2-4, 15, 19: pickles, links, devices and lone JSON are never read or decoded."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("a.jpg", photo()), ("a.pyd", b"cos\nsystem\n"), ("b.json", b"{}")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind in (("c.jpg", tarfile.SYMTYPE), ("d.jpg", tarfile.LNKTYPE),
                           ("e.jpg", tarfile.CHRTYPE), ("f.jpg", tarfile.DIRTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert [r.name for r in scan(path)] == ["a.jpg"]


def test_odd_names_are_opaque(tmp_path: Path, photo: Photo) -> None:
    """Faults 16-18: dots, ``..``, absolute and long names are keys, never paths."""
    names = ["../../x.jpg", "/etc/y.JPG", "SKU-1.5kg.jpg", "d.e/z.png", "q" * 300 + ".webp"]
    rows = scan(make_tar(tmp_path / "x.tar", [(name, photo()) for name in names]))
    # WebDataset's rule: the extension starts at the first dot, so 5kg.jpg is no image's
    assert [r.name for r in rows] == [n for n in names if not n.startswith("SKU")]
    assert [r.key for r in rows][:3] == ["../../x", "/etc/y", "d.e/z"]


def test_size_beyond_the_file_is_refused_without_reading(tmp_path: Path) -> None:
    """Fault 20: a member that declares 1 TiB costs no memory."""
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 40
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048)
    with pytest.raises(ShardError, match="x.tar"):
        scan(path)
