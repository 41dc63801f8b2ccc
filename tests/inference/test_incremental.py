"""A catalogue that has changed: what is known of the same bytes is taken over, the rest is new."""

from __future__ import annotations

import numpy as np
import pytest

from fashionbatch import api
from fashionbatch.errors import OutputExistsError, StoreError, UsageError
from fashionbatch.inference import plan as plans
from fashionbatch.store.reader import open_predictions
from tests.inference.conftest import picture


def change(folder):
    """New, changed, removed and renamed images; returns how many bytes are new."""
    (folder / "000a.png").write_bytes(picture(100))
    (folder / "999.png").write_bytes(picture(101))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "003.png").write_bytes(picture(102))
    (folder / "004.png").unlink()
    (folder / "005.png").rename(folder / "b.png")
    return 4


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_equals_a_fresh_run(catalogue, predict, monkeypatch, ran, tmp_path, kind):
    """Only what is new is predicted, and the file is that of a run from nothing."""
    monkeypatch.setattr(plans, "SLICE", 7)
    folder = source = catalogue(23, (7,))

    def packed():
        if kind == "shards":
            api.shard(folder, output=tmp_path / "set", samples_per_shard=7, exist_ok=True,
                      check="none", split="train=1")  # fmt: skip
            return tmp_path / "set"
        return folder

    source = packed()
    options = {"probabilities": True, "feature_dtype": "float16"}
    predict(source, **options)
    fresh = change(folder)
    source = packed()
    with pytest.raises(OutputExistsError, match="--incremental"):
        predict(source, **options)
    ran.clear()
    events = []
    predict(source, incremental=True, tell=lambda e, v: events.append((e, v)), **options)
    assert sum(ran) == fresh
    assert sum(v.get("reused", 0) for e, v in events if e == "progress") == 25 - fresh
    ran.clear()
    whole = predict(source, "fresh.h5", **options)
    assert sum(ran) == 25
    assert (tmp_path / "out.h5").read_bytes() == whole.read_bytes()
    ran.clear()
    predict(source, incremental=True, **options)
    assert not ran


def test_goes_on_after_a_stop(catalogue, predict, monkeypatch, ran, tmp_path):
    """An incremental run that dies leaves the old file, and is gone on with."""
    monkeypatch.setattr(plans, "SLICE", 4)
    folder = catalogue(23)
    before = predict(folder).read_bytes()
    for number in range(23, 43):
        (folder / f"{number:03d}.png").write_bytes(picture(number))

    class Died(Exception):
        pass

    def die(event, values):
        if event == "progress" and "reused" not in values and len(ran) > 1:
            raise Died

    ran.clear()
    with pytest.raises(Died):
        predict(folder, incremental=True, tell=die)
    assert (tmp_path / "out.h5").read_bytes() == before
    ran.clear()
    path = predict(folder, incremental=True)
    assert 0 < sum(ran) < 20
    assert path.read_bytes() == predict(folder, "fresh.h5").read_bytes()


def test_without_an_earlier_file(catalogue, predict):
    """It is a run like any other."""
    folder = catalogue(5)
    first = predict(folder, incremental=True)
    assert first.read_bytes() == predict(folder, "b.h5").read_bytes()


def test_fewer_than_a_batch_grow_to_more(catalogue, predict, ran):
    """Rows of smaller batches are rounded in another way: they are computed again."""
    folder = catalogue(5)
    predict(folder)
    for number in range(5, 12):
        (folder / f"{number:03d}.png").write_bytes(picture(number))
    ran.clear()
    path = predict(folder, incremental=True)
    assert sum(ran) == 12
    assert path.read_bytes() == predict(folder, "fresh.h5").read_bytes()


def test_other_runs_are_refused(catalogue, predict):
    """Only the catalogue may have changed."""
    folder = catalogue(9)
    predict(folder)
    (folder / "x.png").write_bytes(picture(77))
    with pytest.raises(OutputExistsError, match="other topk"):
        predict(folder, incremental=True, topk=2)
    with pytest.raises(UsageError, match="--restart"):
        predict(folder, incremental=True, restart=True)


def test_damaged_earlier_file(catalogue, predict, tmp_path):
    """A flipped bit in what would be taken over is found out."""
    folder = catalogue(16)
    path = predict(folder)
    with open_predictions(path) as found:
        wanted = found.features()[5].tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(wanted)] ^= 1
    path.write_bytes(data)
    (folder / "x.png").write_bytes(picture(77))
    with pytest.raises(StoreError, match="damaged"):
        predict(folder, incremental=True)


def test_retry_failed(catalogue, predict, spoilt, monkeypatch, ran, tmp_path):
    """What failed is tried again, and nothing else."""
    folder = catalogue(16, (9,))
    with monkeypatch.context() as patch:
        spoilt(float("nan"), patch)
        predict(folder)
    with open_predictions(tmp_path / "out.h5") as found:
        assert [f["name"] for f in found.failures] == ["001.png", "009.png"]
    ran.clear()
    events = []
    predict(folder, tell=lambda e, v: events.append(e))
    assert "complete" in events
    path = predict(folder, retry_failed=True)
    assert sum(ran) == 2
    with open_predictions(path) as found:
        assert [f["name"] for f in found.failures] == ["009.png"]
        assert len(found) == 15 and np.isfinite(found.topk_probability[()]).all()
    assert path.read_bytes() == predict(folder, "fresh.h5").read_bytes()


def test_retry_failed_of_parts(catalogue, predict, spoilt, monkeypatch, ran, tmp_path):
    """Also before the parts are merged: those with failures are made again."""
    monkeypatch.setattr(plans, "SLICE", 8)
    folder = catalogue(24)

    def stop(*args, **options):
        raise KeyboardInterrupt

    from fashionbatch.store import merge

    with monkeypatch.context() as patch:
        spoilt(float("nan"), patch, only=0)
        patch.setattr(merge, "merge", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(folder)
    ran.clear()
    path = predict(folder, retry_failed=True)
    assert sum(ran) == 8
    assert path.read_bytes() == predict(folder, "fresh.h5").read_bytes()
