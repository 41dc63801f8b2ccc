"""Damaged and hostile tar files: refused by name, or nothing is lost."""

from __future__ import annotations

import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.errors import ShardError
from fashionbatch.sources.tar import scan
from tests.sources.tars import failures, keys, refused, with_checksum


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


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        content += with_checksum(block) + payload.ljust(-(-len(payload) // 512) * 512, b"\0")
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
        path.write_bytes(with_checksum(block) + bytes(2048))
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
