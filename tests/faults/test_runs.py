"""Faults 37 to 44: what happens to a run, and what is left of it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fashionbatch import api
from fashionbatch.builtin.engines import Eager
from fashionbatch.errors import ModelError, OutputExistsError, UsageError
from fashionbatch.inference import plan as plans
from fashionbatch.models.engine import EngineJob
from fashionbatch.store.reader import open_predictions
from tests.forks import one_core
from tests.inference.conftest import *  # noqa: F403  # its fixtures
from tests.inference.conftest import SAMPLE

#: runs predictions in forked children, which need not import torch anew; a line of JSON at the end
CHILDREN = """
import json, os, random, signal, sys, time
import torch
torch.set_num_threads(1)  # see tests/forks.py
os.sched_getaffinity = lambda process: {0}
from fashionbatch import api, errors
from fashionbatch.inference import job, predict, plan, stream
from fashionbatch.builtin import engines
plan.SLICE = 5
source, run, folder, task, count = sys.argv[1:6]

def start(name, **options):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        api.predict(source, model=run, output=os.path.join(folder, name), workers=1, device="cpu",
                    batch_size=4, engine="eager", **options)
        code = 0
    except errors.FashionbatchError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    finally:
        os._exit(code)

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def bytes_of(name):
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()

assert ended(start("whole.h5")) == 0
began = time.monotonic()
assert ended(start("again.h5")) == 0
length = time.monotonic() - began
whole = bytes_of("whole.h5")
random.seed(int(count))
said = {"kills": 0, "files": 0, "codes": []}
if task == "kills":
    number = 0
    while said["kills"] < int(count):
        name = f"cut{number}.h5"
        child = start(name)
        time.sleep(random.random() * length * 1.1)
        sent = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        os.kill(child, sent)
        code = ended(child)
        assert code in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM), code
        said["kills"] += code != 0
        if os.path.exists(os.path.join(folder, name)):  # never half of it
            assert bytes_of(name) == whole
            if code:  # its parts may be there still: the same command again tidies them away
                assert ended(start(name)) == 0
                assert bytes_of(name) == whole
            number += 1
    assert ended(start(name)) == 0
    assert bytes_of(name) == whole
    said["files"] = number
else:
    for number in range(int(count)):
        children = []
        for _ in range(2):
            children.append(start(f"raced{number}.h5"))
            time.sleep(random.random() * length * (number % 3) / 3)
        said["codes"] += [ended(child) for child in children]
        assert bytes_of(f"raced{number}.h5") == whole
        said["files"] += 1
print(json.dumps({**said, "left": sorted(os.listdir(folder))}))
"""


def children(catalogue: Path, run: Path, folder: Path, task: str, count: int) -> dict:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, catalogue, run, folder, task, str(count)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow(seconds=120)
def test_fault_37_killed_two_hundred_times(catalogue, run, tmp_path):
    """At any moment, by kill -9 or SIGTERM: the file is whole or not there, and always the same."""
    said = children(catalogue(40, (7, 21)), run, tmp_path / "out", "kills", 200)
    assert said["kills"] == 200
    assert not [name for name in said["left"] if not name.endswith(".h5")]


@pytest.mark.slow
def test_fault_37_two_writers(catalogue, run, tmp_path):
    """Two processes of the same run lose and duplicate nothing, and both say that it is done."""
    said = children(catalogue(40, (7, 21)), run, tmp_path / "out", "race", 12)
    assert said["codes"] == [0] * 24
    assert [name for name in said["left"] if not name.endswith(".h5")] == []


def test_fault_37_dies_before_any_change(catalogue, run, dying, monkeypatch, tmp_path):
    """Before each write, sync and rename of the commit, of the merge and of the tidying up."""
    monkeypatch.setattr(plans, "SLICE", 3)
    folder = catalogue(7, (2,))

    def go(name):
        one_core()
        api.predict(folder, model=run, output=tmp_path / name, workers=1, device="cpu",
                    batch_size=4, engine="eager")  # fmt: skip

    assert dying(lambda: go("whole.h5"), 0)
    whole = (tmp_path / "whole.h5").read_bytes()
    number, done = 0, False
    while not done:
        number += 1
        name = f"{number}.h5"
        done = dying(lambda name=name: go(name), number)
        if (tmp_path / name).exists():
            assert (tmp_path / name).read_bytes() == whole
        assert done or dying(lambda name=name: go(name), 0)
        assert (tmp_path / name).read_bytes() == whole
        assert not (tmp_path / f"{name}.parts").exists()
    assert number > 12


def test_fault_37_asked_to_stop(catalogue, predict, monkeypatch, tmp_path):
    """Ctrl-C keeps what is finished, and says how to go on."""
    from fashionbatch.errors import StoppedError

    monkeypatch.setattr(plans, "SLICE", 4)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    folder = catalogue(24)
    whole = predict(folder, "whole.h5").read_bytes()

    asked = []

    def ask(event, values):
        if event == "progress" and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGINT))

    try:
        with pytest.raises(StoppedError, match="same command goes on") as stopped:
            predict(folder, tell=ask)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.exit_code == 130
    assert len(list((tmp_path / "out.h5.parts").glob("part-*"))) == 2  # of a batch of 8
    assert predict(folder).read_bytes() == whole


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 KiB, and a function that gives it more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no small disk can be made here: {made.stderr.decode().strip()}")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("room", [30, 90, 150])
def test_fault_38_disk_full(catalogue, run, small_disk, monkeypatch, tmp_path, room):
    """One clear error; what was committed is there, nothing half-written is, and it goes on."""
    monkeypatch.setattr(plans, "SLICE", 6)
    disk, enlarge = small_disk
    folder = catalogue(30)
    options = {"model": run, "workers": 1, "device": "cpu", "batch_size": 6}
    api.predict(folder, output=tmp_path / "whole.h5", **options)
    (disk / "ballast").write_bytes(bytes((200 - room) << 10))
    with pytest.raises(OSError, match="No space left on device"):
        api.predict(folder, output=disk / "out.h5", **options)
    left = sorted(p.name for p in disk.rglob("*") if p.is_file() and p.name != "ballast")
    assert all(name.startswith(("part-", "about")) for name in left)
    enlarge()
    api.predict(folder, output=disk / "out.h5", **options)
    assert (disk / "out.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(p.name for p in disk.iterdir()) == ["ballast", "out.h5"]


def stopped_before_the_merge(predict, source, monkeypatch, **options):
    from fashionbatch.store import merge

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merge, "merge", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(source, **options)


def test_fault_39_something_else_is_resumed(catalogue, predict, monkeypatch, tmp_path):
    """Another configuration, input or content is refused, and named; the parts stay."""
    folder = catalogue(6)
    stopped_before_the_merge(predict, folder, monkeypatch)
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "out.h5.parts").iterdir())
    for options, named in (
        ({"topk": 2}, "topk"), ({"features": "blocks"}, "features"), ({"limit": 4}, "items"),
        ({"batch_size": 3}, "batch_size"), ({"feature_dtype": "float16"}, "feature_dtype"),
    ):  # fmt: skip
        with pytest.raises(OutputExistsError, match=named):
            predict(folder, **options)
    (folder / "003.png").write_bytes((folder / "004.png").read_bytes())
    with pytest.raises(OutputExistsError, match=r"\[0:6\] has changed since its part"):
        predict(folder)
    assert before == sorted((p.name, p.read_bytes()) for p in (tmp_path / "out.h5.parts").iterdir())
    made = predict(folder, incremental=True)
    assert made.read_bytes() == predict(folder, "fresh.h5").read_bytes()


def test_fault_41_out_of_memory(tmp_path):
    """A batch that does not fit is worked off in halves, and that is said."""
    sizes = []

    class Hungry(torch.nn.Module):
        def forward(self, images):
            sizes.append(len(images))
            if len(images) > 3:
                raise RuntimeError("could not create a primitive: out of memory")
            return images.float().mean(dim=(1, 2, 3)), images.float().amax(dim=(1, 2, 3))

    job = EngineJob(module=Hungry(), shape=(9, 3, 4, 4), device=torch.device("cpu"))
    engine = Eager(job)
    images = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8)
    for _ in range(2):
        mean, most = engine.run(images)
        assert torch.equal(mean, images.float().mean(dim=(1, 2, 3)))
        assert torch.equal(most, images.float().amax(dim=(1, 2, 3)))
    assert sizes == [9, 5, 3, 3, 3, 3, 3, 3]
    assert engine.notes == (
        "out of memory: going on with 5 images at a time",
        "out of memory: going on with 3 images at a time",
    )


def test_fault_41_nothing_fits():
    """An image that does not fit on its own is an error, not a loop."""

    class Never(torch.nn.Module):
        def forward(self, images):
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine = Eager(EngineJob(module=Never(), shape=(4, 3, 4, 4), device=torch.device("cpu")))
    with pytest.raises(torch.OutOfMemoryError):
        engine.run(torch.zeros(4, 3, 4, 4, dtype=torch.uint8))


def test_fault_42_left_over_from_torchrun(catalogue, predict, monkeypatch):
    """It is refused before any work, naming what is set."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE=2"):
        predict(catalogue(2))


@pytest.mark.parametrize(
    "variables",
    [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "x"}, {
        "WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511",
    }],
)  # fmt: skip
def test_fault_42_left_over_from_torchrun_in_training(variables, monkeypatch, tmp_path):
    """Whoever waited for the other processes would wait for hours."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="torchrun did not start this process"):
        api.train(data=SAMPLE, backbone="small-resnet", weights="none", output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_output_that_cannot_be_written(catalogue, predict, monkeypatch, tmp_path):
    """It is said before any work. Root may write everywhere: the system's answer is replaced."""
    monkeypatch.setattr("fashionbatch.inference.output.os.access", lambda path, mode: False)
    with pytest.raises(PermissionError) as error:
        predict(catalogue(2))
    assert error.value.filename == str(tmp_path)
    assert not (tmp_path / "out.h5.parts").exists()


@pytest.mark.parametrize("damage", ["flip", "delete", "truncate"])
def test_fault_43_damaged_part(catalogue, predict, monkeypatch, tmp_path, damage):
    """It is made again, and the file is what it would have been."""
    monkeypatch.setattr(plans, "SLICE", 4)
    folder = catalogue(12)
    whole = predict(folder, "whole.h5").read_bytes()
    stopped_before_the_merge(predict, folder, monkeypatch)
    path = tmp_path / "out.h5.parts" / "part-000001.h5"
    data = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        flipped = bytearray(data)
        flipped[data.index(b"005.png")] ^= 4
        path.write_bytes(flipped if damage == "flip" else data[:-900])
    events = []
    assert predict(folder, tell=lambda e, v: events.append((e, v))).read_bytes() == whole
    assert dict(events)["resumed"] == {"parts": 2, "items": 8, "of": 12}


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("damage", ["flip", "pickle", "torch"])
def test_fault_44_checkpoint(catalogue, predict, run, monkeypatch, tmp_path, damage):
    """Weights that are not those of the card are refused, and nothing in them is run."""
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    weights = copy / "model.safetensors"
    if damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
    elif damage == "pickle":
        weights.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"x": Evil()}, weights)
    with pytest.raises(ModelError, match="SHA-256"):
        predict(catalogue(2), model=copy)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "out.h5").exists()


def test_shard_deleted_while_running(catalogue, predict, tmp_path):
    """Its images fail by name; the others are predicted."""
    api.shard(catalogue(40), output=tmp_path / "set", samples_per_shard=4, split="train=1")
    last = sorted((tmp_path / "set").glob("*.tar"))[-1]

    def delete(event, values):
        if event == "progress":
            last.unlink(missing_ok=True)

    made = predict(tmp_path / "set", batch_size=2, tell=delete)
    with open_predictions(made) as found:
        assert len(found) == 36
        assert {f["stage"] for f in found.failures} == {"shard"}
        assert len(found.failures) == 4
        assert last.name in found.failures[0]["reason"]
        assert str(tmp_path) not in found.failures[0]["reason"]


def test_too_many_failures(catalogue, predict, tmp_path):
    """The run ends when one too many has failed, and goes on with a higher limit."""
    from fashionbatch.errors import SourceError

    folder = catalogue(40, (3, 9, 17, 33))
    for limit in ("3", "9%"):
        with pytest.raises(SourceError, match="4 items failed.*--max-failures allows 3"):
            predict(folder, max_failures=limit, batch_size=4)
    assert not (tmp_path / "out.h5").exists()
    with open_predictions(predict(folder, max_failures="10%")) as found:
        assert (len(found), len(found.failures)) == (36, 4)
    for wrong in ("x", "-1", "101%", "3.5", "%"):
        with pytest.raises(UsageError, match="--max-failures"):
            predict(folder, max_failures=wrong)
