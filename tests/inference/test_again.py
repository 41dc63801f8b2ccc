"""The same command again, after something else has happened in between."""

from __future__ import annotations

import os
import signal

import pytest

from fashionbatch import api
from fashionbatch.errors import ModelError, OutputExistsError, SourceError, StoppedError
from fashionbatch.inference import job as jobs
from fashionbatch.inference import plan as plans
from fashionbatch.models.engine import Engine
from fashionbatch.store import merge
from fashionbatch.store.reader import open_predictions
from tests.inference.conftest import picture


class Died(Exception):
    pass


def after(count):
    """Tells nothing, and ends a run in which so many items are done."""
    done = []

    def tell(event, values):
        if event == "progress":
            done.append(values["items"])
            if sum(done) >= count:
                raise Died

    return tell


def test_stopped_restart_is_gone_on_with(catalogue, predict, monkeypatch, ran, tmp_path):
    """The old file stays until the new one is whole, and is no reason to refuse the rest of it."""
    monkeypatch.setattr(plans, "SLICE", 8)
    folder = catalogue(40)
    before = predict(folder).read_bytes()
    with pytest.raises(Died):
        predict(folder, topk=2, restart=True, tell=after(24))
    assert (tmp_path / "out.h5").read_bytes() == before
    with pytest.raises(OutputExistsError, match=r"parts is of another run \(other topk\)"):
        predict(folder)
    ran.clear()
    assert predict(folder, topk=2, keep_parts=True) == tmp_path / "out.h5"
    assert 0 < sum(ran) < 40
    made = (tmp_path / "out.h5").read_bytes()
    assert made == predict(folder, "fresh.h5", topk=2).read_bytes()
    events = []
    predict(folder, topk=2, keep_parts=True, tell=lambda e, v: events.append(e))
    assert "complete" in events  # nothing is replaced any more


def test_restart_stopped_before_its_first_part(catalogue, predict, monkeypatch, tmp_path):
    """It is gone on with, too: the old file does not count as what was asked for."""
    folder = catalogue(24)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    asked = []

    def ask(event, values):
        if event == "progress" and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGINT))

    try:
        predict(folder)
        with pytest.raises(StoppedError, match="no part was finished.*without --restart"):
            predict(folder, restart=True, tell=ask)
    finally:
        signal.signal(signal.SIGINT, before)
    events = []
    predict(folder, tell=lambda e, v: events.append(e))
    assert "complete" not in events and "plan" in events
    assert not (tmp_path / "out.h5.parts").exists()


def test_mended_image_is_retried(catalogue, predict, ran):
    """The file of an image that failed has changed: --retry-failed takes it."""
    folder = catalogue(16, (9,))
    predict(folder)
    (folder / "009.png").write_bytes(picture(9))
    ran.clear()
    path = predict(folder, retry_failed=True)
    assert sum(ran) == 1
    assert path.read_bytes() == predict(folder, "fresh.h5").read_bytes()


def test_dry_run_of_a_restart_keeps_nothing(catalogue, predict, monkeypatch, run, tmp_path):
    """What is going to be discarded does not count as done; and is there still."""
    monkeypatch.setattr(plans, "SLICE", 8)
    folder = catalogue(24)
    with pytest.raises(Died):
        predict(folder, tell=after(16))
    options = {"model": run, "output": tmp_path / "out.h5", "device": "cpu", "batch_size": 8}
    assert api.predict(folder, dry_run=True, restart=True, **options)["kept"] == 0
    assert api.predict(folder, dry_run=True, **options)["kept"] > 0


@pytest.mark.parametrize("merged", [True, False])
def test_unreadable_image_that_can_be_read_now(catalogue, predict, monkeypatch, ran, merged):
    """It is no change of the catalogue: --retry-failed tries it, and so does going on."""
    monkeypatch.setattr(plans, "SLICE", 8)
    folder = catalogue(24)
    (folder / "011.png").unlink()
    (folder / "011.png").symlink_to(folder.parent / "nothing")
    with monkeypatch.context() as patch:
        if not merged:
            patch.setattr(merge, "merge", lambda *args, **options: 1 / 0)
        try:
            predict(folder)
        except ZeroDivisionError:
            assert not merged
    (folder.parent / "nothing").write_bytes(picture(11))
    ran.clear()
    if merged:
        with pytest.raises(OutputExistsError, match="1 unreadable in part then and readable now"):
            predict(folder)
    path = predict(folder, retry_failed=merged)
    assert sum(ran) == (1 if merged else 8)
    with open_predictions(path) as found:
        assert len(found) == 24 and not len(found.failures)
    assert path.read_bytes() == predict(folder, "fresh.h5").read_bytes()


def test_repaired_shard_is_retried(catalogue, predict, tmp_path, ran):
    """--retry-failed is enough; what was whole is not predicted again."""
    api.shard(catalogue(12), output=tmp_path / "set", samples_per_shard=4)
    shard = tmp_path / "set" / "all-000001.tar"
    whole = shard.read_bytes()
    shard.unlink()
    predict(tmp_path / "set")
    shard.write_bytes(whole)
    ran.clear()
    path = predict(tmp_path / "set", retry_failed=True)
    assert sum(ran) == 4
    assert path.read_bytes() == predict(tmp_path / "set", "fresh.h5").read_bytes()


def test_failures_of_before_count(catalogue, predict, monkeypatch):
    """--max-failures is of all items, also of those that are taken over or finished."""
    monkeypatch.setattr(plans, "SLICE", 8)
    folder = catalogue(24, (1, 2, 3))
    with pytest.raises(Died):
        predict(folder, tell=after(16))
    with pytest.raises(SourceError, match="3 items failed so far.*allows 2"):
        predict(folder, max_failures="2")
    predict(folder, max_failures="3")
    (folder / "x.png").write_bytes(picture(99))
    with pytest.raises(SourceError, match="3 items failed so far.*allows 2"):
        predict(folder, incremental=True, max_failures="2")
    predict(folder, incremental=True, max_failures="3")


def test_too_little_memory_for_a_batch(catalogue, predict, monkeypatch, tmp_path):
    """One line, whatever the engine; what is finished is kept."""
    monkeypatch.setattr(plans, "SLICE", 8)
    folder = catalogue(32)
    ran = []

    class Greedy(Engine):
        def __init__(self, engine):
            self.engine = engine

        @property
        def details(self):
            return self.engine.details

        def run(self, images):
            ran.append(1)
            if len(ran) == 3:
                raise RuntimeError("bfc_arena.cc Failed to allocate memory for requested buffer")
            return self.engine.run(images)

    from fashionbatch.models import choice

    create = choice.make
    with monkeypatch.context() as patch:
        patch.setattr(choice, "make", lambda *args: Greedy(create(*args)))
        with pytest.raises(ModelError, match="8 images at a time: use a smaller --batch-size"):
            predict(folder, engine="eager")
    assert len(list((tmp_path / "out.h5.parts").glob("part-*.h5"))) == 2
    predict(folder, engine="eager")


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_large_features_make_small_parts(catalogue, predict, monkeypatch, tmp_path, kind):
    """A part is built in memory: its bytes are bounded, not only its images."""
    source = catalogue(20, (4,))
    if kind == "shards":
        api.shard(source, output=tmp_path / "set", check="none", split="train=1")
        source = tmp_path / "set"
    whole = predict(source, features="stem.3")
    with open_predictions(whole) as found:
        row = found.features()[0].nbytes
    monkeypatch.setattr(jobs, "_PART_BYTES", 7 * row + row // 2)
    with open_predictions(predict(source, "b.h5", features="stem.3")) as found:
        assert [count for *_, count in found.shards] == [7, 7, 6]
        [first, *_] = [name for name, *_ in found.shards]
        assert first.endswith("[0:7]")
        with open_predictions(whole) as one:
            assert one.names == found.names
            assert (one.features()[()] == found.features()[()]).all()
            assert [f["name"] for f in one.failures] == [f["name"] for f in found.failures]


def test_few_foreign_images_beside_other_files(catalogue, predict, tmp_path, ran):
    """Fewer images than a batch, and members that are none: still the file of the same run."""
    import tarfile

    folder = catalogue(5)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"a/{path.name}")
        (tmp_path / "empty.png").write_bytes(b"")
        tar.add(tmp_path / "empty.png", "a/empty.png")
    predict(tmp_path / "x.tar", batch_size=32)
    ran.clear()
    predict(tmp_path / "x.tar", batch_size=32)
    predict(tmp_path / "x.tar", batch_size=32, incremental=True)
    assert not ran
