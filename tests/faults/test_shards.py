"""Faults 1 to 24: damaged and hostile shards, in every place where they show.

R: refused before work. E: the shard fails by name, the others go on. S: the sample is skipped and
recorded. OK: nothing is lost. ``verify``, ``open_shards`` and ``predict`` are asked for each, the
training's loader where it reads the same bytes in another way.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

import fashionbatch
from fashionbatch import api
from fashionbatch.cli import app
from fashionbatch.errors import ImageError, ShardError, UsageError
from fashionbatch.pipeline.batches import Order, batches
from fashionbatch.shards import foreign
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.shards.verification.findings import DAMAGED, NOTE, REFUSED, SKIPPED, Report
from fashionbatch.shards.verification.verify import verify
from fashionbatch.sources.base import from_text
from fashionbatch.specs import Preprocessing
from fashionbatch.store.reader import open_predictions

Photo = Callable[..., bytes]
Member = tuple[str, bytes]

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
BLOCK = 512
SMALL = Preprocessing(size=8, resize=8, crop_mode="squash")
#: what would leave a trace if anything unpickled it
BOMB = b"cos\nmkdir\n(S'unpickled'\ntR."


class Predicted(NamedTuple):
    """What a prediction left.

    Attributes:
        code: exit code of the command.
        names: of all rows.
        failed: name and stage of all failures.
        shards: of each: name, predicted, failed.
    """

    code: int
    names: list[str]
    failed: list[tuple[str, str]]
    shards: list[tuple[str, int, int]]


Predict = Callable[[Path], Predicted]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model trained on the sample."""
    folder = tmp_path_factory.mktemp("runs")
    api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", limit=16, epochs=1, workers=0,
        device="cpu", output=folder, name="run", batch_size=16,
    )  # fmt: skip
    return folder / "run"


@pytest.fixture
def predict(run: Path, tmp_path: Path) -> Predict:
    """``predict(path)`` with the command; every shard's counts are checked to add up."""

    def go(path: Path) -> Predicted:
        output = tmp_path / "predictions" / "out.h5"
        arguments = ["predict", path, "--model", run, "-o", output, "-j", 1, "--device", "cpu"]
        with pytest.raises(SystemExit) as end:
            app.main([str(a) for a in (*arguments, "--restart", "--ignore-labels")])
        with h5py.File(output) as file:
            counts = {c: file[f"shards/{c}"][()].tolist() for c in ("count", "predicted", "failed")}
        for count, good, bad in zip(*counts.values(), strict=True):
            assert good + bad == count
        with open_predictions(output) as found:
            names = [name for name, _, _ in found.shards]
            return Predicted(
                code=int(end.value.code or 0),
                names=found.names,
                failed=[(f["name"], f["stage"]) for f in found.failures],
                shards=list(zip(names, counts["predicted"], counts["failed"], strict=True)),
            )

    return go


@pytest.fixture
def shelf(tmp_path: Path, photo: Photo) -> Path:
    """A folder of tar files with a whole one in it: ``good.tar``, of ``g0.jpg`` and ``g1.jpg``."""
    (tmp_path / "shelf").mkdir()
    tar_of(tmp_path / "shelf" / "good.tar", [(f"g{n}.jpg", photo(n)) for n in range(2)])
    return tmp_path / "shelf"


@pytest.fixture
def own(catalog: Callable[..., Path], pack: Callable[..., tuple[Path, Manifest]]) -> Path:
    """A data set of ours: three shards, of four, four and two images."""
    photos = catalog({"train/dress": 4, "train/hat": 4, "val/dress": 1, "val/hat": 1})
    return pack(photos, samples_per_shard=4, workers=1)[0]


def tar_of(path: Path, content: Sequence[Member | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in content:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def flip(path: Path, byte: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def found(report: Report, *severities: str) -> list[tuple[str, str]]:
    """File and name of the findings."""
    return [(f.shard, f.name) for f in report.findings if f.severity in severities]


def place(shards: ShardSet, row: int) -> tuple[Path, int, int]:
    """File of a row, and where its image starts and how long it is."""
    index = shards.index
    return shards.file(index.shard.item(row)), index.offset.item(row), index.size.item(row)


def refused_beside_good(shelf: Path, predict: Predict) -> None:
    """E of ``bad.tar``, made elsewhere: it fails by name, the other tar file is used."""
    report = verify(shelf)
    assert not report.ok
    assert found(report, REFUSED) == [("bad.tar", "")]
    (reason,) = (f.reason for f in report.findings)
    assert "bad.tar" in reason and "\n" not in reason
    with pytest.raises(ShardError, match=r"bad\.tar"):
        fashionbatch.open_shards(shelf)
    some = fashionbatch.open_shards(shelf, strict=False)
    assert list(some.damaged) == [0]
    assert [some.name(row) for row in range(len(some))] == ["good/g0.jpg", "good/g1.jpg"]
    predicted = predict(shelf)
    assert predicted.code == 3
    assert predicted.names == ["good/g0.jpg", "good/g1.jpg"]
    assert predicted.failed == [("bad.tar", "shard")]
    assert predicted.shards == [("bad.tar", 0, 1), ("good.tar", 2, 0)]


def damaged_beside_good(own: Path, file: str, predict: Predict) -> None:
    """E of a shard of ours: all its images fail, those of the others are predicted."""
    assert file in {f.shard for f in verify(own).findings if f.severity == DAMAGED}
    with pytest.raises(ShardError, match=file):
        fashionbatch.open_shards(own)
    some = fashionbatch.open_shards(own, strict=False)
    (number,) = some.damaged
    shard = some.manifest.shards[number]
    assert shard.file == file
    inside = {some.name(row) for row in np.flatnonzero(some.index.shard == number).tolist()}
    predicted = predict(own)
    assert predicted.code == 3
    assert set(predicted.failed) == {(name, "shard") for name in inside}
    assert inside.isdisjoint(predicted.names) and len(predicted.names) == 10 - len(inside)
    assert (file, 0, shard.items) in predicted.shards
    with pytest.raises(ShardError, match=file):
        list(batches(some, Order.sequential(some.select(), 4), SMALL, workers=0))


def skipped(shelf: Path, predict: Predict, names: list[str]) -> Report:
    """S in ``odd.tar``: these are recorded, everything else there is used."""
    names = [f"odd/{name}" for name in names]
    report = verify(shelf)
    assert report.ok
    assert found(report, SKIPPED) == [("odd.tar", name) for name in names]
    shards = fashionbatch.open_shards(shelf)
    assert [f.name for f in shards.skipped[1]] == names
    assert {f.stage for f in shards.skipped[1]} == {"shard"}
    assert all(f.reason for f in shards.skipped[1])
    predicted = predict(shelf)
    assert predicted.code == 3
    assert predicted.failed == [(name, "shard") for name in names]
    assert ("good.tar", 2, 0) in predicted.shards
    return report


def whole(path: Path, predict: Predict, names: list[str]) -> ShardSet:
    """OK: nothing is found, and all are predicted under their names."""
    assert found(verify(path), REFUSED, DAMAGED, SKIPPED) == []
    shards = fashionbatch.open_shards(path)
    files = [shards.manifest.shards[n].file for n in shards.index.shard.tolist()]
    full = [f"{f.removesuffix('.tar')}/{n}" for f, n in zip(files, names, strict=True)]
    assert [shards.name(row) for row in range(len(shards))] == full
    predicted = predict(path)
    assert (predicted.code, predicted.names, predicted.failed) == (0, full, [])
    return shards


@pytest.mark.parametrize(
    "address",
    [
        "pipe:mkdir ran",
        "PIPE:mkdir ran",
        "ftp://example.org/a.tar",
        "simplecache::s3://b/a.tar",
        "s3://b/a.tar::pipe:mkdir ran",
    ],
)
def test_fault_01_pipe_and_other_addresses(
    address: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R: no program is run, nothing is fetched."""
    monkeypatch.chdir(tmp_path)
    for use in (verify, open_shards):
        with pytest.raises(UsageError, match="address"):
            use(Path(address))
    with pytest.raises(UsageError, match="address"):
        api.predict(address, model=run)
    with pytest.raises(UsageError, match="address"):
        api.train(data=address, backbone="small-resnet", weights="none")
    assert [p.name for p in tmp_path.iterdir()] == []


def pickles(
    shelf: Path, photo: Photo, predict: Predict, monkeypatch: pytest.MonkeyPatch, content: Member
) -> None:
    monkeypatch.chdir(shelf.parent)
    tar_of(shelf / "odd.tar", [("a.jpg", photo(5)), content, ("b.jpg", photo(6))])
    whole(shelf, predict, ["g0.jpg", "g1.jpg", "a.jpg", "b.jpg"])
    ((shard, note),) = [(f.shard, f.reason) for f in verify(shelf).findings if f.severity == NOTE]
    assert shard == "odd.tar" and content[0] in note and "never opened" in note
    assert not (shelf.parent / "unpickled").exists()


def test_fault_02_pickle_member(
    shelf: Path, photo: Photo, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never opened, and noted: webdataset would unpickle it."""
    pickles(shelf, photo, predict, monkeypatch, ("a.pyd", BOMB))


def test_fault_03_compressed_pickle_member(
    shelf: Path, photo: Photo, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same behind gzip."""
    pickles(shelf, photo, predict, monkeypatch, ("a.pyd.gz", gzip.compress(BOMB)))


def test_fault_04_torch_member(
    shelf: Path, photo: Photo, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in a file of weights."""
    pickles(shelf, photo, predict, monkeypatch, ("a.pth", BOMB))


def test_fault_02_to_04_in_shards_of_ours(own: Path, predict: Predict) -> None:
    """A member smuggled in is damage."""
    path = own / "val-000000.tar"
    data = path.read_bytes()
    info = tarfile.TarInfo("000000009.pyd")
    info.size = len(BOMB)
    extra = info.tobuf(tarfile.USTAR_FORMAT) + BOMB.ljust(BLOCK, b"\0")
    path.write_bytes(data[: -2 * BLOCK] + extra + data[-2 * BLOCK :])
    damaged_beside_good(own, path.name, predict)


def test_fault_05_truncated_at_a_block_border(
    shelf: Path, own: Path, photo: Photo, predict: Predict
) -> None:
    """E: what other programs take for a shorter tar file."""
    bad = tar_of(shelf / "bad.tar", [(f"b{n}.jpg", photo(n)) for n in range(3)])
    data = bad.read_bytes()
    end = len(data.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK
    for cut in (BLOCK, end // 2 // BLOCK * BLOCK, end, end + BLOCK):
        bad.write_bytes(data[:cut])
        assert found(verify(shelf), REFUSED) == [("bad.tar", "")], cut
    bad.write_bytes(data[:end])
    refused_beside_good(shelf, predict)
    path = own / "train-000001.tar"
    path.write_bytes(path.read_bytes()[: -4 * BLOCK])
    damaged_beside_good(own, path.name, predict)


def test_fault_06_truncated_within_an_image(
    shelf: Path, own: Path, photo: Photo, predict: Predict
) -> None:
    """E: the images before the cut are not used either."""
    bad = tar_of(shelf / "bad.tar", [(f"b{n}.jpg", photo(n)) for n in range(3)])
    _, start, size = place(open_shards(bad), 1)
    bad.write_bytes(bad.read_bytes()[: start + size // 2])
    refused_beside_good(shelf, predict)
    path, start, size = place(open_shards(own), 2)
    path.write_bytes(path.read_bytes()[: start + size // 2])
    damaged_beside_good(own, path.name, predict)
    lost = [f.key for f in verify(own).findings if f.key]
    assert lost == ["000000002", "000000003"]


@pytest.mark.parametrize(("byte", "bit"), [(0, 0), (100, 1), (130, 2), (156, 0), (300, 7)])
def test_fault_07_header_bit_flip(
    shelf: Path, own: Path, photo: Photo, predict: Predict, byte: int, bit: int
) -> None:
    """E; in a shard of ours the index still finds every image, so that only verify sees it."""
    bad = tar_of(shelf / "bad.tar", [(f"b{n}.jpg", photo(n)) for n in range(3)])
    _, start, _ = place(open_shards(bad), 1)
    flip(bad, start - BLOCK + byte, bit)
    refused_beside_good(shelf, predict)
    shards = open_shards(own)
    path, start, _ = place(shards, 2)
    flip(path, start - BLOCK + byte, bit)
    report = verify(own)
    assert found(report, DAMAGED) == [(path.name, ""), (path.name, shards.name(2))]
    assert "images are whole" in report.findings[0].reason
    assert predict(own).code == 0


def test_fault_08_payload_bit_flip(
    shelf: Path, own: Path, photo: Photo, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S: that image alone fails, by its hash; in other tar files by the hash of the first scan."""
    # a disk that rots changes no times of the file, but the write below does
    monkeypatch.setattr(foreign, "_state", lambda status: (status.st_size, status.st_mtime_ns))
    tar_of(shelf / "bad.tar", [(f"b{n}.jpg", photo(n)) for n in range(3)])
    for path, spoilt, total in ((own, 2, 10), (shelf, 1, 5)):
        shards = open_shards(path)
        file, start, size = place(shards, spoilt)
        status = file.stat()
        flip(file, start + size // 2, 4)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert found(verify(path), DAMAGED) == [(file.name, ""), (file.name, shards.name(spoilt))]
        again = open_shards(path)
        with pytest.raises(ImageError, match="SHA-256") as caught:
            again.read(spoilt)
        assert caught.value.stage == "read"
        predicted = predict(path)
        assert predicted.code == 3
        assert predicted.failed == [(shards.name(spoilt), "read")]
        assert len(predicted.names) == total - 1
        (batch,) = batches(again, Order.sequential(again.select(), 16), SMALL, workers=0)
        assert [row for row, _ in batch.failures] == [spoilt]
        assert len(batch.rows) == total - 1


def test_fault_09_hole_of_zeros(shelf: Path, own: Path, photo: Photo, predict: Predict) -> None:
    """E: 1 KiB of zeros over a header reads as the end of a tar file."""
    bad = tar_of(shelf / "bad.tar", [(f"b{n}.jpg", photo(n)) for n in range(3)])
    _, start, _ = place(open_shards(bad), 1)
    for path, hole in ((bad, start - BLOCK), (own / "train-000000.tar", 0)):
        data = bytearray(path.read_bytes())
        data[hole : hole + 1024] = bytes(1024)
        path.write_bytes(data)
    refused_beside_good(shelf, predict)
    shards = open_shards(own)
    name = shards.name(0)
    assert found(verify(own), DAMAGED) == [("train-000000.tar", ""), ("train-000000.tar", name)]
    assert predict(own).failed == [(name, "read")]


def test_fault_10_empty_file(shelf: Path, own: Path, predict: Predict) -> None:
    """E."""
    (shelf / "bad.tar").write_bytes(b"")
    refused_beside_good(shelf, predict)
    (own / "train-000001.tar").write_bytes(b"")
    damaged_beside_good(own, "train-000001.tar", predict)


def test_fault_11_web_page_named_tar(shelf: Path, own: Path, predict: Predict) -> None:
    """E: what a failed download leaves."""
    page = b"<!doctype html><title>404</title>" * 99
    (shelf / "bad.tar").write_bytes(page)
    refused_beside_good(shelf, predict)
    (own / "train-000001.tar").write_bytes(page)
    damaged_beside_good(own, "train-000001.tar", predict)


def test_fault_12_empty_shard(shelf: Path, predict: Predict) -> None:
    """OK: it has no rows."""
    tar_of(shelf / "none.tar", [])
    shards = whole(shelf, predict, ["g0.jpg", "g1.jpg"])
    assert [s.items for s in shards.manifest.shards] == [2, 0]
    assert len(open_shards(shelf / "none.tar")) == 0
    assert verify(shelf / "none.tar").ok


def test_fault_13_adjacent_duplicate_key(shelf: Path, photo: Photo, predict: Predict) -> None:
    """S, both: nobody knows which of them the label belongs to."""
    twins = [("a.jpg", photo(5)), ("a.png", photo(6, kind="PNG"))]
    tar_of(shelf / "odd.tar", [*twins, ("b.jpg", photo(7))])
    skipped(shelf, predict, ["a.jpg", "a.png"])
    assert predict(shelf).names == ["good/g0.jpg", "good/g1.jpg", "odd/b.jpg"]


def test_fault_14_distant_duplicate_key(shelf: Path, photo: Photo, predict: Predict) -> None:
    """R at indexing: the shard names the key."""
    names = ("twin.jpg", "b.jpg", "twin.jpg")
    tar_of(shelf / "bad.tar", [(name, photo(n)) for n, name in enumerate(names)])
    refused_beside_good(shelf, predict)
    with pytest.raises(ShardError, match="'twin'"):
        open_shards(shelf)


def test_fault_15_image_missing(shelf: Path, photo: Photo, predict: Predict) -> None:
    """S: a JSON member alone."""
    tar_of(shelf / "odd.tar", [("a.json", b"{}"), ("b.jpg", photo(7)), ("b.json", b"{}")])
    skipped(shelf, predict, ["a.json"])


def test_fault_16_dots_in_names(shelf: Path, photo: Photo, predict: Predict) -> None:
    """OK: names are kept, and two that share a start are not merged."""
    names = ["SKU-1.5kg.jpg", "SKU-1.7kg.jpg", "v1.2/x.jpg"]
    tar_of(shelf / "odd.tar", [(name, photo(n)) for n, name in enumerate(names)])
    shards = whole(shelf, predict, ["g0.jpg", "g1.jpg", *names])
    for number, name in enumerate(names, 2):
        assert shards.read(number) == photo(number - 2), name


def test_fault_17_hostile_paths(shelf: Path, photo: Photo, predict: Predict) -> None:
    """OK as opaque keys: nothing is written or read where they point."""
    names = ["../../x.jpg", "/tmp/absolute.jpg", "a/../../b.jpg"]
    before = sorted(p.name for p in shelf.parent.iterdir())
    tar_of(shelf / "odd.tar", [(name, photo(n)) for n, name in enumerate(names)])
    shards = whole(shelf, predict, ["g0.jpg", "g1.jpg", *names])
    assert [shards.read(row) for row in (2, 3, 4)] == [photo(n) for n in range(3)]
    assert sorted({p.name for p in shelf.parent.iterdir()} - {"predictions"}) == before


def test_fault_18_names_that_are_not_utf8(shelf: Path, photo: Photo, predict: Predict) -> None:
    """OK, reversible: in members, and in the name of the tar file."""
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    data = photo(5)
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    tar = header + data + bytes(-len(data) % BLOCK + 1024)
    (shelf / b"z\xe9.tar".decode("utf-8", "surrogateescape")).write_bytes(tar)
    shards = whole(shelf, predict, ["g0.jpg", "g1.jpg", r"caf\xe9.jpg"])
    assert shards.read(2) == data
    assert from_text(shards.name(2)).rpartition("/")[2] == name
    assert verify(shelf).items == 3


def test_fault_19_links_and_devices(shelf: Path, photo: Photo, predict: Predict) -> None:
    """S: nothing that they point to is read."""
    members: list[Member | tarfile.TarInfo] = [("a.jpg", photo(5))]
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    for number, kind in enumerate(kinds):
        info = tarfile.TarInfo(f"l{number}.jpg")
        info.type, info.linkname = kind, "a.jpg"
        members.append(info)
    tar_of(shelf / "odd.tar", members)
    skipped(shelf, predict, [f"l{n}.jpg" for n in range(5)])


def test_fault_20_member_of_a_tebibyte(shelf: Path, predict: Predict) -> None:
    """E, without asking for the memory."""
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 40
    (shelf / "bad.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 4096)
    tracemalloc.start()
    try:
        assert not verify(shelf).ok
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    refused_beside_good(shelf, predict)


def test_fault_21_gzip_posing_as_tar(shelf: Path, predict: Predict) -> None:
    """R by its first bytes: 300 MiB that never come to be."""
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    (shelf / "bad.tar").write_bytes(bomb.getvalue())
    tracemalloc.start()
    try:
        with pytest.raises(ShardError, match="gzip"):
            open_shards(shelf)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    refused_beside_good(shelf, predict)


def test_fault_22_number_sign_in_a_name(shelf: Path, photo: Photo, predict: Predict) -> None:
    """OK: names are no addresses: nothing is cut off at ``#`` or ``?``, no brace unfolds."""
    names = ["sh#1.tar", "sh#2.tar", "sh::x.tar", "sh?x=1.tar", "sh{0..9}.tar"]
    for number, name in enumerate(names):
        tar_of(shelf / name, [(f"a{number}.jpg", photo(number))])
    shards = whole(shelf, predict, ["g0.jpg", "g1.jpg", *(f"a{n}.jpg" for n in range(5))])
    assert [s.file for s in shards.manifest.shards[1:]] == names
    for number, name in enumerate(names):
        assert whole(shelf / name, predict, [f"a{number}.jpg"]).read(0) == photo(number)


def test_fault_23_same_base_name_twice(tmp_path: Path, photo: Photo, predict: Predict) -> None:
    """OK: tar files of one name in two folders are two shards, each read for itself."""
    for number, folder in enumerate(("train", "val")):
        (tmp_path / "wds" / folder).mkdir(parents=True)
        tar_of(tmp_path / "wds" / folder / "part.tar", [("a.jpg", photo(number))])
    shards = whole(tmp_path / "wds", predict, ["a.jpg", "a.jpg"])
    assert [s.file for s in shards.manifest.shards] == ["train/part.tar", "val/part.tar"]
    assert [shards.read(row) for row in (0, 1)] == [photo(0), photo(1)]
    for number, folder in enumerate(("train", "val")):
        alone = open_shards(tmp_path / "wds" / folder / "part.tar")
        assert alone.read(0) == photo(number)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_fault_24_fewer_shards_than_workers(shelf: Path, photo: Photo, workers: int) -> None:
    """OK: two shards and three workers give every row once, in the order of no workers."""
    tar_of(shelf / "more.tar", [(f"m{n}.jpg", photo(n + 9)) for n in range(9)])
    shards = open_shards(shelf)
    assert len(shards.manifest.shards) == 2
    for order in (
        Order.sequential(shards.select(), 2),
        Order(batches=Order.sequential(shards.select()[::-1], 2).batches),
    ):
        alone = list(batches(shards, order, SMALL, workers=0))
        made = list(batches(shards, order, SMALL, workers=workers))
        rows = [b.rows.tolist() for b in made]
        assert sorted(np.concatenate(rows).tolist()) == list(range(11))
        assert rows == [b.rows.tolist() for b in alone]
        assert all((a.images == b.images).all() for a, b in zip(alone, made, strict=True))
