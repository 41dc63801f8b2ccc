"""What workers on other machines are sent of a data set, and what they make of it there."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fashionbatch
from fashionbatch import files
from fashionbatch.address import located
from fashionbatch.errors import ShardError
from fashionbatch.execution.lease import Lease
from fashionbatch.inference import plan as plans
from fashionbatch.inference.plan import Plan
from fashionbatch.shards.read import open_shards
from fashionbatch.shards.select import Selection
from tests.conftest import Photo
from tests.remote.conftest import BUCKET
from tests.remote.hosts import Host

ADDRESS = f"s3://{BUCKET}/set"
SHARDS = 4


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, this process has the disk of another machine."""

    def go() -> None:
        shutil.rmtree(tmp_path / "cache")
        monkeypatch.setenv("FASHIONBATCH_CACHE", str(tmp_path / "other"))

    return go


@pytest.fixture
def of_size(tmp_path: Path, photo: Photo) -> Callable[[int], Path]:
    """``of_size(24)`` packs so many photographs into four shards."""

    def make(count: int) -> Path:
        source = tmp_path / f"photos{count}"
        for number in range(count):
            file = (
                source / "train" / ("dress", "hat")[number % 2] / f"a-photograph-{number:06d}.jpg"
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photo(number, (8, 8)))
        output = tmp_path / f"packed{count}"
        fashionbatch.shard(source, output=str(output), samples_per_shard=count // SHARDS, workers=1)
        return output

    return make


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_plan_does_not_grow_with_the_items(
    ours: bool, there: bool, of_size: Callable[[int], Path], upload: Any, bucket: Any
) -> None:
    """But for the digits of larger numbers; what goes with a lease is of its own rows."""
    plan_sizes, lease_sizes = [], []
    for count in (24, 240):
        folder = of_size(count)
        if not ours:
            (folder / "dataset.json").unlink()
        if there:
            upload(folder, f"set{count}")
        path = located(f"s3://{BUCKET}/set{count}" if there else folder)
        plan = plans.make(path, split=None, limit=None)
        assert len(plan.units) == SHARDS and plan.items == count
        plan_sizes.append(len(pickle.dumps(plan.absolute())))
        lease = Lease([0], lambda tasks, plan=plan: plan.catalogue.parcel(np.arange(12)))
        lease_sizes.append(len(pickle.dumps(lease)))
    assert plan_sizes[1] - plan_sizes[0] < 40 * SHARDS
    assert lease_sizes[1] - lease_sizes[0] < 16
    assert lease_sizes[0] < (200 if ours else 4000)


def test_a_worker_fetches_the_index_itself(
    elsewhere: Callable[[], None], packed: Path, upload: Any
) -> None:
    """To its own disk; with the labels of the selection. A second one finds it there."""
    upload(packed, "set")
    here = open_shards(packed).restricted(Selection(classes=("hat",)))
    shards = open_shards(ADDRESS, whole=False).restricted(Selection(classes=("hat",)))
    sent = pickle.dumps(shards.absolute())
    elsewhere()
    for _ in range(2):
        with ExitStack() as stack:
            there = pickle.loads(sent).here(stack)
            for row in range(24):
                assert there.read(row) == here.read(row)
                assert (there.name(row), there.key(row)) == (here.name(row), here.key(row))
            rows = np.arange(24)
            assert there.index.take("label", rows).tolist() == here.labels.tolist()
            assert len(there) == 24
        fetched = files.cache_folder() / "remote" / "folders"
        assert len(list(fetched.rglob("index.h5"))) == 1
        assert not list(fetched.rglob("dataset.json"))


def test_another_index_than_was_planned_with(
    elsewhere: Callable[[], None], packed: Path, upload: Any, bucket: Any
) -> None:
    """It was replaced, or is gone: rows would be other images."""
    upload(packed, "set")
    sent = pickle.dumps(open_shards(ADDRESS, whole=False).absolute())
    elsewhere()
    wrong = "index.h5 is not the file any more that this run was planned with .SHA-256.: run the"
    bucket.put_object(Bucket=BUCKET, Key="set/index.h5", Body=b"another")
    for _ in range(2):
        with ExitStack() as stack, pytest.raises(ShardError, match=f"^{ADDRESS}/{wrong} command"):
            pickle.loads(sent).here(stack)
        bucket.delete_object(Bucket=BUCKET, Key="set/index.h5")


@pytest.mark.parametrize("there", [True, False])
def test_rows_of_tar_files_made_elsewhere(
    there: bool,
    elsewhere: Callable[[], None],
    data_set: Path,
    upload: Any,
    bucket: Any,
) -> None:
    """The index is in the cache of whoever planned; a worker reads what it was sent, only."""
    (data_set / "dataset.json").unlink()
    upload(data_set, "set")
    path = f"{ADDRESS}/*.tar" if there else data_set
    shards = open_shards(path, whole=False)
    expected = [(shards.read(row), shards.name(row), shards.key(row)) for row in range(24)]
    sent = pickle.dumps(shards.absolute())
    rows = np.array([3, 4, 17])
    parcel = pickle.dumps(shards.parcel(rows))
    elsewhere()
    with ExitStack() as stack:
        shards = pickle.loads(sent).here(stack)
        shards.unpack(pickle.loads(parcel))
        for row in rows.tolist():
            assert (shards.read(row), shards.name(row), shards.key(row)) == expected[row]
        with pytest.raises(LookupError, match="rows 5 to 5 some were not sent"):
            shards.read(5)


def test_what_is_open_is_not_opened_again(packed: Path) -> None:
    """Workers of this machine have the plan as it is."""
    plan: Plan = plans.make(packed, split=None, limit=None)
    with ExitStack() as stack:
        assert plan.here(stack).catalogue.shards is plan.catalogue.shards  # type: ignore[attr-defined]
        assert plan.catalogue.parcel(np.arange(3)) is None


def test_several_processes_fetch_an_index_once(packed: Path, host: Host) -> None:
    """The others wait for the first."""
    shutil.copytree(packed, host.root / "set")
    shards = open_shards(f"{host.url}/set", whole=False)
    sent = pickle.dumps(shards.absolute())
    (shards.folder / "index.h5").unlink()
    host.asked.clear()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_names, [sent] * 4, chunksize=1) == [[shards.name(0)]] * 4
    assert len(host.of("index.h5")) == 2  # a look, and all of it


def _names(sent: bytes) -> list[str]:
    with ExitStack() as stack:
        return [pickle.loads(sent).here(stack).name(0)]
