"""Reading: the packed bytes, or an error that names the shard or the image."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import webdataset

from fashionbatch.errors import ImageError, ShardError, UnknownNameError, UsageError
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import MANIFEST
from fashionbatch.shards.read import ShardSet, is_shards, open_shards

INDEX = "index.h5"


@pytest.fixture
def folder(catalog: Callable[..., Path]) -> Path:
    return catalog({"dress": 10, "hat": 5})


@pytest.fixture
def packed(folder: Path, pack: Callable[..., tuple[Path, object]]) -> Path:
    return pack(folder)[0]


def shard_of(shards: ShardSet, row: int) -> Path:
    return shards.path / shards.manifest.shards[int(shards.index.shard[row])].file


def test_every_row_is_the_sources_file(folder: Path, packed: Path) -> None:
    """Bytes, name and label of each row belong together."""
    shards = open_shards(packed)
    assert len(shards) == 15
    seen = set()
    for row in range(len(shards)):
        name = shards.name(row)
        assert shards.read(row) == (folder / name).read_bytes()
        assert shards.classes[shards.labels[row]] == name.split("/")[0]
        seen.add(name)
    assert len(seen) == 15


def test_select_gives_each_split_once(packed: Path) -> None:
    """The splits are disjoint and make up the whole; an unknown one is refused."""
    shards = open_shards(packed)
    parts = [shards.select(s) for s in ("train", "val", "test")]
    assert np.concatenate(parts).tolist() == shards.select().tolist() == list(range(15))
    assert [len(p) for p in parts] == list(shards.manifest.splits.values())
    with pytest.raises(UnknownNameError, match="did you mean 'val'"):
        shards.select("vla")


def test_flipped_payload_bit_fails_that_image_alone(folder: Path, packed: Path) -> None:
    """Fault 8: the hash catches one bit; the neighbours stay readable."""
    shards = open_shards(packed)
    for bit in (0, 3, 8 * int(shards.index.size[4]) - 1):
        path = shard_of(shards, 4)
        data = bytearray(path.read_bytes())
        data[int(shards.index.offset[4]) + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        again = open_shards(packed)
        with pytest.raises(ImageError, match="SHA-256") as caught:
            again.read(4)
        assert caught.value.stage == "read"
        for row in (3, 5):
            assert again.read(row) == (folder / again.name(row)).read_bytes()
        data[int(shards.index.offset[4]) + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
    assert open_shards(packed).read(4)


@pytest.mark.parametrize("cut", [1, 512, 1024, 5000])
def test_truncated_shard_is_refused(packed: Path, cut: int) -> None:
    """Faults 5, 6: a shorter shard is named on opening, and on reading if it happens later."""
    shards = open_shards(packed)
    path = shard_of(shards, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(ShardError, match=path.name):
        open_shards(packed)
    path.write_bytes(whole[: int(shards.index.offset[0]) + 3])
    with pytest.raises(ShardError, match=path.name):
        shards.read(0)


def test_missing_shard_is_refused(packed: Path) -> None:
    """Named on opening, and on reading if it vanishes later."""
    shards = open_shards(packed)
    path = shard_of(shards, 0)
    path.unlink()
    with pytest.raises(ShardError, match=path.name):
        open_shards(packed)
    with pytest.raises(ShardError, match=path.name):
        shards.read(0)


@pytest.mark.parametrize("file", [INDEX, MANIFEST])
def test_missing_or_foreign_record_is_refused(packed: Path, file: str) -> None:
    """Index and manifest: missing, empty, cut and garbage are one clear error each."""
    whole = (packed / file).read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"\0" * len(whole), b"[1]", b'{"a": 1}'):
        (packed / file).write_bytes(data)
        with pytest.raises(ShardError, match=file) as caught:
            open_shards(packed)
        assert "\n" not in str(caught.value)
    (packed / INDEX).unlink()
    (packed / MANIFEST).write_bytes(whole if file == MANIFEST else (packed / MANIFEST).read_bytes())
    with pytest.raises(ShardError, match=INDEX):
        open_shards(packed)


def test_damaged_index_never_gives_another_image(folder: Path, packed: Path) -> None:
    """A flipped byte anywhere in the index: an error of ours, or rows that are still right."""
    path = packed / INDEX
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(0, len(whole), 150).tolist():
        data = bytearray(whole)
        data[position] ^= int(random.integers(1, 256))
        path.write_bytes(data)
        try:
            shards = open_shards(packed)
            for row in range(len(shards)):
                shards.read(row)
        except (ShardError, ImageError):
            pass


def test_index_of_another_data_set_is_refused(
    catalog: Callable[..., Path], pack: Callable[..., tuple[Path, object]], packed: Path
) -> None:
    """Counts of index and manifest must agree."""
    other, _ = pack(catalog({"shoe": 7, "bag": 7}, "others"), "shards/other")
    (packed / INDEX).write_bytes((other / INDEX).read_bytes())
    with pytest.raises(ShardError):
        open_shards(packed)


def test_other_version_says_so(packed: Path) -> None:
    """A newer format is not read as if it were ours."""
    values = json.loads((packed / MANIFEST).read_text())
    (packed / MANIFEST).write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(ShardError, match="99"):
        open_shards(packed)


def test_shard_set_can_be_pickled(folder: Path, packed: Path) -> None:
    """Also after files were opened; open files do not travel."""
    shards = open_shards(packed)
    shards.read(0)
    again = pickle.loads(pickle.dumps(shards))
    assert again.read(7) == (folder / shards.name(7)).read_bytes()
    assert again.manifest == shards.manifest


def test_other_processes_read_the_same(packed: Path) -> None:
    """After a fork, parent and child read at once without disturbing each other."""
    shards = open_shards(packed)
    expected = [shards.read(row) for row in range(15)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(shards.read, list(range(15)) * 3) == expected * 3
    assert [shards.read(row) for row in range(15)] == expected


def test_many_shards_keep_few_files_open(
    catalog: Callable[..., Path],
    pack: Callable[..., tuple[Path, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number of open files is bounded, and closed ones are opened again."""
    monkeypatch.setattr("fashionbatch.shards.shelf._OPEN_FILES", 2)
    folder = catalog({"bag": 6, "cap": 6}, "many")
    shards = open_shards(pack(folder, "shards/many", samples_per_shard=1)[0])
    for row in [*range(12), *range(12)]:
        assert shards.read(row) == (folder / shards.name(row)).read_bytes()
        assert len(open_below(shards.path)) <= 2


def open_below(folder: Path) -> list[str]:
    """The files below a folder that this process has open."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one of the listing itself
            names.append(str(entry.readlink()))
    return [name for name in names if name.startswith(str(folder.resolve()))]


def test_files_are_closed(folder: Path, packed: Path) -> None:
    """By ``close``, at the end of ``with``, or with the object; a later read opens them again."""
    with open_shards(packed) as shards:
        for row in range(15):
            shards.read(row)
        assert len(open_below(packed)) == len(shards.manifest.shards)
    assert open_below(packed) == []
    assert shards.read(3) == (folder / shards.name(3)).read_bytes()
    again = pickle.loads(pickle.dumps(shards))
    again.read(3)
    assert len(open_below(packed)) == 2
    shards.close()
    assert len(open_below(packed)) == 1
    del again
    gc.collect()
    assert open_below(packed) == []
    for _ in range(5):
        open_shards(packed).read(0)
    gc.collect()
    assert open_below(packed) == []


def test_forked_child_closes_nothing_of_its_parent(packed: Path) -> None:
    """Numbers of its parent's files may be those of other files in the child."""
    shards = open_shards(packed)
    shards.read(0)
    number = int(next(iter(shards._shelf._open.values())))
    child = os.fork()
    if not child:
        try:
            shards.close()
            os.fstat(number)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_index_reads_back_what_it_wrote(packed: Path, tmp_path: Path) -> None:
    """Columns keep values and types."""
    index = Index.load(packed / INDEX)
    index.save(tmp_path / "copy.h5")
    again = Index.load(tmp_path / "copy.h5")
    assert (tmp_path / "copy.h5").read_bytes() == (packed / INDEX).read_bytes()
    first, second = index.to_arrays(), again.to_arrays()
    assert len(first) == 10 + 2 * 4
    for name, array in first.items():
        assert array.dtype == second[name].dtype and (array == second[name]).all(), name


def test_damaged_column_that_is_used_later_is_one_line(packed: Path) -> None:
    """Names are loaded when they are asked for; what is wrong with them is said then."""
    with h5py.File(packed / INDEX, "r+") as file:
        del file["name_end"]
    shards = open_shards(packed)
    assert shards.read(0)
    with pytest.raises(ShardError, match=INDEX) as caught:
        shards.name(0)
    assert "\n" not in str(caught.value)


def test_shards_of_webdataset_open_here(tmp_path: Path, photo: Callable[..., bytes]) -> None:
    """Written by webdataset itself: every image, with its label as the class."""
    (tmp_path / "made").mkdir()
    with webdataset.ShardWriter(
        str(tmp_path / "made" / "part-%06d.tar"), maxcount=2, mtime=0, verbose=0
    ) as sink:
        for number in range(5):
            sink.write({"__key__": f"item{number}", "jpg": photo(number), "cls": number % 2})
    shards = open_shards(tmp_path / "made")
    assert [shards.read(row) for row in range(5)] == [photo(n) for n in range(5)]
    assert [shards.classes[n] for n in shards.labels.tolist()] == ["0", "1", "0", "1", "0"]


def test_opening_what_is_no_data_set(tmp_path: Path, folder: Path) -> None:
    """Says what to do instead."""
    assert not is_shards(folder)
    with pytest.raises(UsageError, match="does not exist"):
        open_shards(tmp_path / "nowhere")
    with pytest.raises(ShardError, match="fashionbatch shard"):
        open_shards(folder)


def test_real_catalogue_survives_packing(
    clothing: Path, pack: Callable[..., tuple[Path, object]]
) -> None:
    """Hats of the clothing data set: every photograph comes back to the byte."""
    path, _ = pack(clothing / "validation" / "hat", "shards/hat", samples_per_shard=10)
    shards = open_shards(path)
    files = sorted(p.name for p in (clothing / "validation" / "hat").iterdir())
    assert [shards.name(row) for row in range(len(shards))] == files
    for row, name in enumerate(files):
        assert shards.read(row) == (clothing / "validation" / "hat" / name).read_bytes()
