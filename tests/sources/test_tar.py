"""Tar files made elsewhere: every image found, or the file refused by name (faults 2-22)."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import ShardError
from fashionbatch.sources.base import from_text
from fashionbatch.sources.tar import scan
from tests.sources.tars import Members, failures, keys, make_tar, refused, with_checksum

Photo = Callable[..., bytes]


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
        content += with_checksum(block) + data + bytes(-len(data) % 512)
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
    path.write_bytes(with_checksum(block) + b"x" * 512 + path.read_bytes())
    found = scan(path)
    assert keys(found) == ["b"] and "sparse" in failures(found)["a.jpg"]


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
