"""Tar files made elsewhere: every image found, or the file refused by name (faults 2-22)."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import ShardError
from fashionbatch.sources.base import from_text
from fashionbatch.sources.tar import Scan, scan

Photo = Callable[..., bytes]
Members = list[tuple[str, bytes]]


def make_tar(path: Path, members: Members, **options: object) -> Path:
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def keys(found: Scan) -> list[str]:
    return [s.key for s in found.samples]


def failures(found: Scan) -> dict[str, str]:
    assert {f.stage for f in found.failures} <= {"shard"}
    return {f.name: f.reason for f in found.failures}


def refused(path: Path, match: str) -> None:
    """One line that names the file; the folder's name, which holds the test's, is no match."""
    with pytest.raises(ShardError) as caught:
        scan(path)
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    assert re.search(match, text.replace(str(path.parent), "")), text


@pytest.fixture
def foreign(tmp_path: Path, photo: Photo) -> Path:
    """Four samples written by webdataset."""
    path = tmp_path / "foreign" / "part-000000.tar"
    path.parent.mkdir()
    with webdataset.ShardWriter(
        str(path.parent / "part-%06d.tar"), maxcount=100, mtime=0, verbose=0
    ) as sink:
        for number in range(4):
            image = photo(number, (8, 8), kind="PNG")
            about = {"n": number, "label": "hat"}
            sink.write({"__key__": f"item{number}", "png": image, "json": about, "cls": number})
    return path


def test_webdatasets_own_shards_are_read(foreign: Path, photo: Photo) -> None:
    """Every image with its place, hash, label and JSON."""
    found = scan(foreign)
    assert (found.failures, found.notes) == ([], [])
    data = foreign.read_bytes()
    for number, sample in enumerate(found.samples):
        image = photo(number, (8, 8), kind="PNG")
        assert data[sample.offset : sample.offset + sample.size] == image
        assert sample.sha256 == hashlib.sha256(image).digest()
        assert (sample.key, sample.name) == (f"item{number}", f"item{number}.png")
        assert (sample.extension, sample.label) == ("png", "hat")
        assert sample.about == {"n": number, "label": "hat"}
    assert len(found.samples) == 4


@pytest.mark.parametrize(
    ("about", "cls", "label"),
    [
        ({"label": "dress"}, b"3", "dress"),
        ({"label": 7}, b"3", "7"),
        ({"label": 7.0}, b"3", "7"),
        ({"label": True}, b"3", "3"),
        ({"label": None}, b"3", "3"),
        ({"label": ["a"]}, b"3", "3"),
        ({"label": ""}, b" 12\n", "12"),
        ({}, "Kleid ä".encode(), "Kleid ä"),
        ({}, b"caf\xe9", "caf\\xe9"),
        ({}, b"", None),
        ({}, b"a\nb", None),
        ({}, b"x" * 2000, None),
    ],
)
def test_label(
    tmp_path: Path, photo: Photo, about: dict[str, object], cls: bytes, label: str | None
) -> None:
    """The JSON's text or number, else the .cls member; what is no label is noted."""
    members = [("a.jpg", photo()), ("a.json", json.dumps(about).encode()), ("a.cls", cls)]
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert [s.label for s in found.samples] == [label]
    assert [n for n in found.notes if "a.cls" in n] == ([] if label else found.notes[:1])
    assert bool(found.notes) == (label is None)


def test_order_of_members_does_not_matter(tmp_path: Path, photo: Photo) -> None:
    """JSON and label in front of their image belong to it all the same."""
    members = [("a.cls", b"1"), ("a.json", b'{"x":1}'), ("a.jpg", photo()), ("b.jpg", photo(1))]
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert [(s.key, s.label, s.about) for s in found.samples] == [
        ("a", "1", {"x": 1}),
        ("b", None, {}),
    ]


def test_truncation_at_every_block_is_refused(foreign: Path) -> None:
    """Fault 5: cut at any 512 boundary, tarfile alone would read a shorter tar."""
    whole = foreign.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for cut in range(0, end + 1024, 512):
        foreign.write_bytes(whole[:cut])
        refused(foreign, "again")
    foreign.write_bytes(whole[: end + 1024])
    assert len(scan(foreign).samples) == 4


def test_truncation_within_a_payload_is_refused(foreign: Path) -> None:
    """Fault 6: the member that is cut is not passed over."""
    whole = foreign.read_bytes()
    for sample in scan(foreign).samples:
        foreign.write_bytes(whole[: sample.offset + sample.size // 2])
        refused(foreign, f"ends within '{sample.name}'")
        foreign.write_bytes(whole)


def test_header_bit_flip_is_refused(foreign: Path) -> None:
    """Fault 7: a flipped bit in any member's header is named, never a shorter tar."""
    whole = foreign.read_bytes()
    for sample in scan(foreign).samples:
        for position, bit in ((0, 0), (5, 3), (100, 1), (130, 2), (156, 0), (300, 7), (510, 4)):
            data = bytearray(whole)
            data[sample.offset - 512 + position] ^= 1 << bit
            foreign.write_bytes(data)
            refused(foreign, "damaged|not a tar")


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
        found = scan(foreign)
    except ShardError:
        return
    assert keys(found) == [f"item{n}" for n in range(4)]


def _with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_hostile_headers_end_in_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a header with a sound checksum says, there is a result or a ShardError."""
    content = b""
    for _ in range(data.draw(st.integers(1, 3))):
        block = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT))
        block[156] = data.draw(st.sampled_from(b"0\0LKxgXS1257VMD"), label="type")
        size = data.draw(
            st.one_of(st.integers(0, 2048), st.sampled_from([-1, -512, -(1 << 60), 1 << 40])),
            label="size",
        )
        if 0 <= size < 8**11:
            block[124:136] = b"%011o\0" % size
        else:
            block[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(
                11, "big", signed=True
            )
        block[345:500] = data.draw(st.binary(max_size=155)).ljust(155, b"\0")
        block[482] = data.draw(st.integers(0, 1), label="more of a sparse map")
        payload = data.draw(
            st.one_of(
                st.binary(max_size=64),
                st.sampled_from([
                    b"30 path=" + b"z" * 20 + b".jpg\n",
                    b"12 size=-512\n",
                    b"20 size=99999999999\n",
                    b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
                    b"25 GNU.sparse.map=1,a,3\n",
                    b"11 path=a\0b\n",
                    b"21 hdrcharset=BINARY\n19 path=caf\xe9.jpg\n",
                ]),
            ),
            label="payload",
        )  # fmt: skip
        content += _with_checksum(block) + payload.ljust(-(-len(payload) // 512) * 512, b"\0")
    path = tmp_path / "x.tar"
    path.write_bytes(content + bytes(1024))
    try:
        found = scan(path)
    except ShardError as error:
        str(error).encode()
        return
    for text in (*failures(found), *(s.name for s in found.samples)):
        text.encode()
        assert "\0" not in text


def test_hole_of_zeros_is_refused(foreign: Path) -> None:
    """Fault 9: 1 KiB of zeros over headers looks like the end of the tar, but is not."""
    whole = bytearray(foreign.read_bytes())
    start = scan(foreign).samples[2].offset - 512
    whole[start : start + 1024] = bytes(1024)
    foreign.write_bytes(whole)
    refused(foreign, "no header, and not the end")


def test_two_tars_in_one_file_are_refused(foreign: Path) -> None:
    """Fault 9: what stands behind the end of a tar would be lost without a word."""
    foreign.write_bytes(foreign.read_bytes() * 2)
    refused(foreign, "not the end")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!doctype html><p>404" * 100, "not a tar"),
        (b"x" * 5000, "not a tar"),
        (b"\0" * 100, "not a tar"),
        (gzip.compress(b"x" * 9000), "gzip"),
        (bz2.compress(b"x" * 9000), "bzip2"),
        (lzma.compress(b"x" * 9000), "xz"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 900, "zstd"),
    ],
    ids=["fault-10", "fault-11-html", "text", "zeros", "fault-21-gzip", "bzip2", "xz", "zstd"],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    """Faults 10, 11, 21: not a tar file, by name; what is compressed is not unpacked."""
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    refused(path, reason)


def test_compressed_shard_is_told_what_to_do(foreign: Path) -> None:
    """Fault 21: a .tar.gz under the name of a .tar."""
    foreign.write_bytes(gzip.compress(foreign.read_bytes()))
    refused(foreign, "unpack it to a plain tar")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """An error of ours, not an OSError; a named pipe does not hang."""
    (tmp_path / "d.tar").mkdir()
    os.mkfifo(tmp_path / "p.tar")
    refused(tmp_path / "d.tar", "regular file")
    refused(tmp_path / "p.tar", "regular file")
    refused(tmp_path / "nowhere.tar", "No such file")


def test_name_of_the_file_is_shown_as_text(tmp_path: Path) -> None:
    """A path that is not UTF-8 can be printed; ``#`` in it is nothing special (fault 22)."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9#1.tar"))
    path.write_bytes(b"x" * 2000)
    with pytest.raises(ShardError) as caught:
        scan(path)
    assert "caf\\xe9#1.tar" in str(caught.value).encode().decode()
    assert scan(make_tar(path, [])).samples == []


def test_empty_tar_has_no_samples(tmp_path: Path) -> None:
    """Fault 12: a valid shard without members."""
    found = scan(make_tar(tmp_path / "e.tar", []))
    assert (found.samples, found.failures, found.notes) == ([], [], [])


def test_one_key_for_neighbouring_images_fails_both(tmp_path: Path, photo: Photo) -> None:
    """Fault 13: which of the two is meant cannot be known; the others go on."""
    members = [("a.jpg", photo(0)), ("a.PNG", photo(1, kind="PNG")), ("a.json", b"{}"),
               ("b.jpg", photo(2)), ("c.jpg", photo(3)), ("c.jpg", photo(4))]  # fmt: skip
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert keys(found) == ["b"]
    assert [f.name for f in found.failures] == ["a.jpg", "a.PNG", "c.jpg", "c.jpg"]
    assert "'a' stands for 2 images" in failures(found)["a.jpg"]


@pytest.mark.parametrize(
    "again", ["a.jpg", "a.png", "a.json", "a.cls"], ids=["same", "png", "json", "cls"]
)
def test_key_again_after_others_is_refused(tmp_path: Path, photo: Photo, again: str) -> None:
    """Fault 14: WebDataset would make two samples of it, so it is refused at indexing."""
    members = [("a.jpg", photo(0)), ("b.jpg", photo(1)), (again, photo(2))]
    refused(make_tar(tmp_path / "x.tar", members), "'a' again")


def test_two_jsons_of_one_image_fail_it(tmp_path: Path, photo: Photo) -> None:
    """Which of them is meant cannot be known."""
    members = [("a.jpg", photo()), ("a.json", b'{"label":"x"}'), ("a.json", b'{"label":"y"}')]
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert not found.samples and "twice" in failures(found)["a.jpg"]


def test_json_without_image_is_recorded(tmp_path: Path, photo: Photo) -> None:
    """Fault 15: a sample that lost its image; once, though it has a label too."""
    members = [("a.jpg", photo()), ("b.json", b"{}"), ("b.cls", b"1"), ("c.cls", b"1")]
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert keys(found) == ["a"]
    assert failures(found) == {
        "b.json": "has no image beside it",
        "c.cls": "has no image beside it",
    }


def test_pictures_of_other_kinds_are_recorded(tmp_path: Path, photo: Photo) -> None:
    """A photograph that cannot be read is not lost without a word, and its JSON not blamed."""
    members = [("a.tiff", photo()), ("a.json", b"{}"), ("b.gif", photo()), ("c.jpg", photo())]
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert keys(found) == ["c"] and list(failures(found)) == ["a.tiff", "b.gif"]


def test_dots_in_names_merge_and_lose_nothing(tmp_path: Path, photo: Photo) -> None:
    """Fault 16: keys that WebDataset would make one are told apart up to the last dot."""
    members = [("SKU-1.5kg.jpg", photo(0)), ("SKU-1.5kg.json", b'{"label":"five"}'),
               ("SKU-1.7kg.jpg", photo(1)), ("SKU-1.7kg.cls", b"seven"), ("SKU-2.jpg", photo(2)),
               ("SKU-1.9kg.jpg", photo(3)), ("V.front.jpg", photo(4)), ("V.back.jpg", photo(5)),
               ("V.json", b'{"label":"both"}')]  # fmt: skip
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert not found.failures
    assert [(s.key, s.label) for s in found.samples] == [
        ("SKU-1.5kg", "five"),
        ("SKU-1.7kg", "seven"),
        ("SKU-2", None),
        ("SKU-1.9kg", None),
        ("V.front", "both"),
        ("V.back", "both"),
    ]
    assert found.samples[0].name == "SKU-1.5kg.jpg"


def test_mask_beside_an_image_is_recorded(tmp_path: Path, photo: Photo) -> None:
    """A second picture of a sample is neither a photograph of its own nor passed over."""
    mask = photo(1, kind="PNG")
    members = [("a.jpg", photo()), ("a.mask.png", mask), ("a.mask.json", b"{}"), ("b.jpg", photo()),
               ("a.edge.png", mask)]  # fmt: skip
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert keys(found) == ["a", "b"]
    assert list(failures(found)) == ["a.mask.png", "a.edge.png"]
    assert all("mask of the sample 'a'" in reason for reason in failures(found).values())


def test_odd_names_are_opaque(tmp_path: Path, photo: Photo) -> None:
    """Faults 16, 17: ``..``, absolute and long names are keys, never paths."""
    names = ["../../x.jpg", "/etc/y.JPG", "./d.e/z.png", "q" * 300 + ".webp", "a\\b.jpeg"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        found = scan(make_tar(tmp_path / "x.tar", [(n, photo()) for n in names], format=form))
        assert [from_text(s.name) for s in found.samples] == names
        assert keys(found)[:3] == ["../../x", "/etc/y", "./d.e/z"]
        assert [s.extension for s in found.samples] == ["jpg", "jpg", "png", "webp", "jpeg"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tar"]


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["u", "gnu", "pax"]
)
def test_latin1_names_are_reversible(tmp_path: Path, photo: Photo, form: int) -> None:
    """Fault 18: bytes that are not UTF-8 stay in the name; it is valid UTF-8 all the same."""
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    path = make_tar(
        tmp_path / "x.tar", [(name, photo())], format=form, encoding="utf-8",
        errors="surrogateescape",
    )  # fmt: skip
    (sample,) = scan(path).samples
    assert sample.name == "caf\\xe9.jpg" and from_text(sample.name) == name


def test_pax_header_that_is_not_utf8(tmp_path: Path, photo: Photo) -> None:
    """Fault 18: GNU tar up to 1.23 wrote raw bytes into PAX headers; NUL can stand there too."""
    record = b" path=caf\xe9\0" + b"z" * 90 + b".jpg\n"
    data = b"%d%s" % (len(record) + 3, record)  # its own length is three digits
    head = tarfile.TarInfo("PaxHeader/x")
    head.type, head.size = tarfile.XHDTYPE, len(data)
    image = photo()
    info = tarfile.TarInfo("short.jpg")
    info.size = len(image)
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        for member, content in ((head, data), (info, image)):
            file.write(member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
        file.write(bytes(1024))
    (sample,) = scan(path).samples
    assert sample.name == "caf\\xe9\\x00" + "z" * 90 + ".jpg"
    assert sample.sha256 == hashlib.sha256(image).digest()


def test_v7_tar_is_read(tmp_path: Path, photo: Photo) -> None:
    """Tar files from before 1988 have no magic, and folders end in a slash."""
    image = photo()
    content = b""
    for name, data in (("d/", b""), ("d/a.jpg", image)):
        block = bytearray(512)
        block[: len(name)] = name.encode()
        for start, end, number in ((100, 108, 0o644), (108, 116, 0), (116, 124, 0),
                                   (124, 136, len(data)), (136, 148, 0)):  # fmt: skip
            block[start:end] = b"%0*o " % (end - start - 1, number)
        content += _with_checksum(block) + data + bytes(-len(data) % 512)
    path = tmp_path / "x.tar"
    path.write_bytes(content + bytes(1024))
    assert keys(scan(path)) == ["d/a"] and not scan(path).failures


def test_links_and_devices_are_recorded(tmp_path: Path, photo: Photo) -> None:
    """Fault 19: never followed, never opened; folders are passed over; the others go on."""
    path = tmp_path / "x.tar"
    kinds = {"b.jpg": tarfile.SYMTYPE, "c.jpg": tarfile.LNKTYPE, "d.jpg": tarfile.CHRTYPE,
             "e.jpg": tarfile.BLKTYPE, "f.jpg": tarfile.FIFOTYPE, "g.txt": tarfile.SYMTYPE,
             "h.jpg": b"V", "i": tarfile.DIRTYPE}  # fmt: skip
    with tarfile.open(path, "w") as tar:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
            if name == "b.jpg":
                about = tarfile.TarInfo("b.json")
                about.size = 2
                tar.addfile(about, io.BytesIO(b"{}"))
        info = tarfile.TarInfo("z.jpg")
        info.size = len(photo())
        tar.addfile(info, io.BytesIO(photo()))
    found = scan(path)
    assert keys(found) == ["z"]
    assert failures(found) == {
        "b.jpg": "is a symbolic link, not a file",
        "c.jpg": "is a hard link, not a file",
        "d.jpg": "is a device, not a file",
        "e.jpg": "is a device, not a file",
        "f.jpg": "is a named pipe, not a file",
        "g.txt": "is a symbolic link, not a file",
        "h.jpg": "is a member of an unknown kind, not a file",
    }


def test_sparse_member_is_recorded(tmp_path: Path, photo: Photo) -> None:
    """Its bytes do not lie together, so no offset and size can name them."""
    info = tarfile.TarInfo("a.jpg")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (4096, 512)
    block[483:495] = b"%011o\0" % (1 << 30)
    path = make_tar(tmp_path / "x.tar", [("b.jpg", photo())])
    path.write_bytes(_with_checksum(block) + b"x" * 512 + path.read_bytes())
    found = scan(path)
    assert keys(found) == ["b"] and "sparse" in failures(found)["a.jpg"]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_size_beyond_the_file_is_refused_without_memory(tmp_path: Path, kind: bytes) -> None:
    """Fault 20: an image, or a header of headers, that declares 1 TiB costs no memory."""
    info = tarfile.TarInfo("a.jpg")
    info.size, info.type = 1 << 40, kind
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048)
    tracemalloc.start()
    try:
        refused(path, "ends within|header")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_negative_size_does_not_go_round_in_circles(tmp_path: Path) -> None:
    """tarfile alone would read the same header for ever (CVE-2025-8194)."""
    block = bytearray(tarfile.TarInfo("a.bin").tobuf(tarfile.GNU_FORMAT))
    block[156:157] = b"V"
    for size in (-512, -1024, -(1 << 70)):
        block[124:136] = b"\xff" + size.to_bytes(11, "big", signed=True)
        path = tmp_path / "x.tar"
        path.write_bytes(_with_checksum(block) + bytes(2048))
        refused(path, "header|read")


def test_headers_of_headers_without_end_are_refused(tmp_path: Path) -> None:
    """Each PAX header is read within the one before it: no RecursionError gets out."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 0
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) * 5000 + bytes(1024))
    refused(path, "recursion")


def test_header_of_digits_is_refused(tmp_path: Path) -> None:
    """tarfile would take seconds for each (CVE-2024-6232), hours for a file of them."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 32 << 10
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + b"9" * (32 << 10) + bytes(1024))
    refused(path, "a header of digits")


@pytest.mark.parametrize(
    "name", ["a.pyd", "a.pyd.gz", "a.pkl", "a.pickle", "a.pth", "a.pt", "a.npy", "p.PYD", "d/.pkl"]
)
def test_pickles_are_noted_and_never_opened(tmp_path: Path, photo: Photo, name: str) -> None:
    """Faults 2-4: what webdataset would unpickle is named, and nothing of it runs."""
    witness = tmp_path / "ran"
    bomb = b"cos\nsystem\n(Vtouch %s\ntR." % os.fsencode(witness)
    found = scan(make_tar(tmp_path / "x.tar", [("a.jpg", photo()), (name, bomb)]))
    assert keys(found) == ["a"] and not found.failures
    (note,) = found.notes
    assert "unpickle" in note and name in note
    assert not witness.exists()


def test_other_members_are_noted(tmp_path: Path, photo: Photo) -> None:
    """What belongs to no image, or not to us, is counted, the first three by name."""
    names = ["README", ".hidden.jpg", "a.txt", "b.mp4"]
    members = [("a.jpg", photo()), *((name, b"x") for name in names)]
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert keys(found) == ["a"] and not found.failures
    assert found.notes == ["4 members are not used (README, .hidden.jpg, a.txt, ...)"]


@pytest.mark.parametrize(
    "data",
    [
        b"{", b"[1]", b"\xff{}", b'{"a":"\\ud800"}', b'{"\\udc80":1}', b'{"a":"\\u0000"}', b"",
        b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", b"[" * 900_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=["cut", "list", "latin1", "surrogate", "surrogate-key", "nul", "empty", "deep", "bomb",
         "digits"],
)  # fmt: skip
def test_damaged_json_is_noted_and_its_image_kept(
    tmp_path: Path, photo: Photo, data: bytes
) -> None:
    """Neither ends the scan nor hands on text that no file can hold."""
    members = [("a.jpg", photo()), ("a.json", data), ("a.cls", b"4")]
    found = scan(make_tar(tmp_path / "x.tar", members))
    assert [(s.about, s.label) for s in found.samples] == [({}, "4")]
    assert not found.failures
    assert len(found.notes) == 1 and "(a.json)" in found.notes[0]


def test_large_json_is_not_read(tmp_path: Path, photo: Photo) -> None:
    """Over 1 MiB it is noted; its image is kept."""
    data = json.dumps({"label": "x", "a": "y" * (1 << 20)}).encode()
    found = scan(make_tar(tmp_path / "x.tar", [("a.jpg", photo()), ("a.json", data)]))
    assert [(s.about, s.label) for s in found.samples] == [({}, None)]
    assert "over 1 MiB" in found.notes[0]


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path, photo: Photo) -> None:
    """pandas writes NaN; what is handed on can be written as JSON again. A BOM is no damage."""
    data = b'\xef\xbb\xbf{"a":NaN,"b":[-Infinity,1e999,1.5],"label":"hat"}'
    found = scan(make_tar(tmp_path / "x.tar", [("a.jpg", photo()), ("a.json", data)]))
    (sample,) = found.samples
    assert sample.about == {"a": None, "b": [None, None, 1.5], "label": "hat"}
    json.dumps(sample.about, allow_nan=False)


def test_large_image_is_recorded_and_not_read(tmp_path: Path, photo: Photo) -> None:
    """An image over 256 MiB is skipped; one of several MiB is hashed without holding it whole."""
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        for name, size in (("a.jpg", (256 << 20) + 1), ("b.jpg", 40 << 20)):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            file.seek(-(-size // 512) * 512, os.SEEK_CUR)  # a hole: no room on the disk
        file.write(bytes(1024))
    tracemalloc.start()
    try:
        found = scan(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert keys(found) == ["b"] and "over 256 MiB" in failures(found)["a.jpg"]
    assert found.samples[0].sha256 == hashlib.sha256(bytes(40 << 20)).digest()


_STEMS = st.sampled_from(["a", "b", "c.1", "c.2", "d/a", "e.x.y"])
_GROUPS = st.lists(
    st.tuples(_STEMS, st.sampled_from(["jpg", "png", "webp", "JPEG"]), st.sets(
        st.sampled_from(["json", "cls", "txt", "pyd"]))),
    max_size=6, unique_by=lambda g: g[0],
)  # fmt: skip


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_GROUPS, st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_every_image_is_found_once(
    tmp_path: Path, groups: list[tuple[str, str, set[str]]], form: int
) -> None:
    """Whatever stands beside the images, each comes back with its own bytes and JSON."""
    members: Members = []
    for stem, extension, beside in groups:
        contents = {"json": json.dumps({"stem": stem}).encode(), "cls": stem.encode()}
        members.append((f"{stem}.{extension}", stem.encode()))
        members += [(f"{stem}.{b}", contents.get(b, b"x")) for b in sorted(beside)]
    path = make_tar(tmp_path / "x.tar", members, format=form)
    data = path.read_bytes()
    found = scan(path)
    assert not found.failures
    assert [s.name for s in found.samples] == [f"{s}.{e}" for s, e, _ in groups]
    for sample, (stem, extension, beside) in zip(found.samples, groups, strict=True):
        assert data[sample.offset : sample.offset + sample.size] == stem.encode()
        assert (sample.key, sample.extension) == (stem, extension.lower())
        assert sample.about == ({"stem": stem} if "json" in beside else {})
        assert sample.label == (stem if "cls" in beside else None)
