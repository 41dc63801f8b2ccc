"""A run that was stopped, or killed, goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import torch

from fashionbatch import registry
from fashionbatch.errors import StoppedError, TrainingError, UsageError
from fashionbatch.specs import RegularizerSpec
from fashionbatch.training import checkpoint as checkpoints
from fashionbatch.training import job as jobs
from fashionbatch.training.regularizer import Regularizer
from tests.training.runs import SAMPLE, history, same, weights

#: five steps in each of three epochs, the first of them frozen; everything that draws draws
RECIPE = {
    "limit": 40, "epochs": 3, "freeze_epochs": 1, "unfreeze": "blocks:2", "head_dropout": 0.4,
    "head_hidden": "16", "augment": "paper", "patience": 5, "sched": "cosine",
}  # fmt: skip
STEPS = 5


def stop_at(number, kind=signal.SIGINT):
    """Asks for an end while step ``number`` (counted over all epochs) is made."""
    made = []

    def tell(event, values):
        if event == "step":
            made.append(values["step"])
            if len(made) == number:
                os.kill(os.getpid(), kind)

    return tell


@pytest.fixture(autouse=True)
def listening():
    """Ctrl-C is heard, also where a shell has started the tests in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run."""
    from fashionbatch import api

    folder = tmp_path_factory.mktemp("whole")
    api.train(
        name="whole", output=folder, data=SAMPLE, backbone="small-resnet", weights="none",
        batch_size=8, workers=0, device="cpu", **RECIPE,
    )  # fmt: skip
    return folder / "whole"


@pytest.mark.parametrize("number", [1, 4, 5, 7, 14])
def test_stopped_within_an_epoch(train, whole, tmp_path, number):
    """Ctrl-C ends the run behind the step, and --resume gives every bit of the whole run."""
    with pytest.raises(StoppedError, match="--resume --name cut") as stopped:
        train("cut", tell=stop_at(number), **RECIPE)
    assert stopped.value.exit_code == 130
    (last,) = sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1:]
    epoch, step = divmod(number, STEPS)
    # behind the last step of an epoch the validation is still to come
    expected = f"epoch-{epoch:04d}+{step:06d}" if step else f"epoch-{epoch - 1:04d}+{STEPS:06d}"
    assert last.name == expected
    events = []
    train("cut", resume=True, tell=lambda e, v: events.append((e, v)), **RECIPE)
    (resumed,) = [v for e, v in events if e == "resumed"]
    assert resumed == {"epoch": (number - 1) // STEPS + 1, "step": (number - 1) % STEPS + 1}
    assert sum(e == "step" for e, _ in events) == 3 * STEPS - number
    assert same(weights(whole), weights(tmp_path / "cut"))
    assert history(whole) == history(tmp_path / "cut")


def test_stopped_again_and_again(train, whole, tmp_path):
    """Five stops in one run, the second asked for by a scheduler's SIGTERM."""
    options = {**RECIPE}
    for time_, number in enumerate((2, 3, 1, 4, 2)):
        kind = signal.SIGTERM if time_ == 1 else signal.SIGINT
        with pytest.raises(StoppedError) as stopped:
            train("cut", tell=stop_at(number, kind), resume=time_ > 0, **options)
        assert stopped.value.exit_code == 128 + kind
    train("cut", resume=True, **options)
    assert same(weights(whole), weights(tmp_path / "cut"))
    assert history(whole) == history(tmp_path / "cut")


def test_checkpoint_leaves_out_what_is_frozen(train, tmp_path, monkeypatch):
    """The first block, trained at no time, is not saved; another one is noticed on resuming."""
    with pytest.raises(StoppedError):
        train("cut", tell=stop_at(7), **RECIPE)
    saved = checkpoints.load_last(tmp_path / "cut" / "checkpoints").part("model.")
    assert not any(name.startswith("backbone.blocks.0.") for name in saved)
    assert any(name.startswith("backbone.blocks.1.") for name in saved)
    seed = jobs.seed_everything
    monkeypatch.setattr(jobs, "seed_everything", lambda number: seed(number + 1))
    with pytest.raises(UsageError, match="begun with other frozen weights"):
        train("cut", resume=True, **RECIPE)


def test_saved_by_the_clock(train, whole, tmp_path):
    """--checkpoint-minutes saves within an epoch, and what it saves is exact."""

    class Killed(Exception):
        pass

    def die(event, values):
        if event == "step":
            made.append(1)
            if len(made) == 8:
                raise Killed

    made: list[int] = []
    with pytest.raises(Killed):
        train("cut", tell=die, checkpoint_minutes=1e-9, **RECIPE)
    kept = sorted(p.name for p in (tmp_path / "cut" / "checkpoints").iterdir())
    assert kept == ["epoch-0001+000001", "epoch-0001+000002"]
    train("cut", resume=True, **RECIPE)
    assert same(weights(whole), weights(tmp_path / "cut"))


def test_optimizer_state_is_laid_out_as_its_parameters(tmp_path):
    """Convolutions' weights are channels last, and so is what belongs to them after a resume."""

    def made():
        torch.manual_seed(0)
        net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return net, torch.optim.Adam(net.parameters())

    net, adam = made()
    net(torch.ones(1, 3, 5, 5)).square().sum().backward()
    adam.step()
    checkpoints.save(
        tmp_path, 1, 0, net.state_dict(), adam, {}, extra={}, randoms=[checkpoints.Random.now()]
    )  # fmt: skip
    other, restored = made()
    checkpoints.restore_optimizer(checkpoints.load_last(tmp_path), restored)
    for key in ("exp_avg", "exp_avg_sq"):
        found, expected = restored.state[other.weight][key], adam.state[net.weight][key]
        assert torch.equal(found, expected) and found.any()
        assert found.stride() == other.weight.stride() == (27, 1, 9, 3)


def test_what_an_optimizer_has_of_a_group_comes_back(tmp_path):
    """Tensors, numbers that JSON has no words for, and tuples, which it has none for either."""

    def made():
        sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
        empty = {"range": (0, 0), "pairs": [(0, 0)], "distance": torch.zeros(1), "most": 0.0}
        sgd.param_groups[0] |= empty
        return sgd

    sgd, restored = made(), made()
    distance = torch.tensor([0.1])
    given = {"range": (1, 2), "pairs": [(3, 4)], "distance": distance, "most": float("inf")}
    sgd.param_groups[0] |= given
    checkpoints.save(
        tmp_path, 1, 0, {}, sgd, {}, extra={}, randoms=[checkpoints.Random.now()]
    )  # fmt: skip
    checkpoints.restore_optimizer(checkpoints.load_last(tmp_path), restored)
    assert {k: restored.param_groups[0][k] for k in given} == given


def test_handlers_are_given_back(train):
    """After a training Ctrl-C means what it meant before."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(epochs=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


#: forks saving children, kills each after a moment, and looks at what it left
SAVING = """
import json, os, random, select, signal, sys, time
from pathlib import Path
import torch
from fashionbatch.training import checkpoint
torch.set_num_threads(1)  # threads do not survive a fork
folder = Path(sys.argv[1])
draw = random.Random(0)
begin = 0
for _ in range(50):
    told, say = os.pipe()
    child = os.fork()
    if not child:
        net = torch.nn.Linear(300, 300)
        adam = torch.optim.Adam(net.parameters())
        net(torch.ones(1, 300)).sum().backward()
        adam.step()
        for number in range(begin, 10**6):
            with torch.no_grad():
                net.weight.fill_(number)
            checkpoint.save(folder, number, number % 3, net.state_dict(), adam, {"number": number},
                            extra={}, randoms=[checkpoint.Random.now()])
            os.write(say, b"%d\\n" % number)
    os.close(say)
    pipe = os.fdopen(told)
    done = int(pipe.readline())
    time.sleep(draw.random() * 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = max([done, *(int(line) for line in pipe if line.endswith("\\n"))])
    found = checkpoint.load_last(folder)
    assert found.state["number"] >= done, (found.state["number"], done)
    assert (found.tensors["model.weight"] == found.state["number"]).all()
    begin = found.state["number"] + 1
visible = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
assert len(visible) <= 3, visible  # two, and the third that was to be removed
print("whole each time")
"""


@pytest.mark.slow(seconds=120)
def test_killed_while_saving(tmp_path):
    """kill -9 fifty times: the last checkpoint that was reported, or a later one, is whole."""
    command = [sys.executable, "-c", SAVING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "whole each time\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_stopped_process(tmp_path, kind):
    """The command, its workers and its words: one line, the shell's exit code, and it goes on."""
    command = [
        sys.executable, "-m", "fashionbatch", "train", "--data", str(SAMPLE), "--backbone",
        "small-resnet", "--weights", "none", "--limit", "400", "--epochs", "2", "--workers", "1",
        "--device", "cpu", "--output", str(tmp_path), "--augment", "none", "-b", "4",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*command, "--name", "cut"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "cut" / "config.toml").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(2)
    if kind == signal.SIGINT:
        os.killpg(process.pid, kind)  # as a terminal does
    else:
        process.send_signal(kind)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + kind, said
    assert said.strip().splitlines()[-1].startswith("Error: stopped "), said
    assert "Traceback" not in said
    subprocess.run([*command, "--name", "cut", "--resume"], check=True)
    subprocess.run([*command, "--name", "whole"], check=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_damaged_checkpoint_of_the_middle(train, whole, tmp_path):
    """One flipped byte: the checkpoint before it serves."""
    with pytest.raises(StoppedError):
        train("cut", tell=stop_at(8), checkpoint_minutes=1e-9, **RECIPE)
    older, newer = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    damaged = bytearray((newer / "state.safetensors").read_bytes())
    damaged[-5] ^= 1
    (newer / "state.safetensors").write_bytes(damaged)
    assert checkpoints.load_last(newer.parent).state == json.loads(
        (older / "state.json").read_text()
    )
    train("cut", resume=True, **RECIPE)
    assert same(weights(whole), weights(tmp_path / "cut"))


def test_killed_before_anything_was_saved(train, whole, tmp_path):
    """There is nothing to go on from, so --resume begins: scripts always say --resume."""
    train("cut", **RECIPE)
    for path in (tmp_path / "cut").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.name == "config.toml" or path.unlink()
    told = []
    train("cut", resume=True, tell=lambda e, v: told.append(v) if e == "warn" else None, **RECIPE)
    assert "saved nothing yet" in told[0]["text"]
    assert same(weights(whole), weights(tmp_path / "cut"))


def test_name_alone_is_enough(train, whole, tmp_path):
    """What else it was begun with is in the run's folder; what is given goes before it."""
    from fashionbatch import api

    with pytest.raises(StoppedError):
        train("cut", tell=stop_at(4), recipe=None, **RECIPE)
    api.train(name="cut", output=tmp_path, resume=True)
    assert same(weights(whole), weights(tmp_path / "cut"))
    api.train(name="cut", output=tmp_path, resume=True, epochs=4)
    assert len(history(tmp_path / "cut")) == 4
    with pytest.raises(UsageError, match="other options .--unfreeze"):
        api.train(name="cut", output=tmp_path, resume=True, unfreeze="all")


def drop_after(folder, epoch):
    """Leaves what a run that was killed behind ``epoch`` leaves."""
    for path in (folder / "checkpoints").iterdir():
        if int(path.name[-4:]) > epoch:
            shutil.rmtree(path)
    for name in ("model.json", "model.safetensors", "curves.png"):
        (folder / name).unlink()


class Killed(Exception):
    pass


def interrupted(train, epoch, **options):
    """A run that dies in the epoch after ``epoch``."""

    def die(event, values):
        if event == "step" and done and done[-1] == epoch:
            raise Killed
        if event == "epoch":
            done.append(values["epoch"])

    done: list[int] = []
    with pytest.raises(Killed):
        train(tell=die, **options)


TRAININGS = {
    "adam": {},
    "sgd": {"opt": "sgd", "sched": "cosine"},
    "dropout, freeze, stopping": {
        "head_dropout": 0.4, "head_hidden": "16", "freeze_epochs": 1, "patience": 5,
        "unfreeze": "blocks:2", "opt": "rmsprop",
    },
    "frozen throughout": {"unfreeze": "none", "opt": "adamw"},
    "bottleneck": {"mode": "bottleneck", "head_dropout": 0.4},
    "prefix cache": {"prefix_cache": True, "augment_copies": 2, "unfreeze": "blocks:1"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "epoch"),
    [*((recipe, 1) for recipe in TRAININGS), ("dropout, freeze, stopping", 2), ("bottleneck", 2)],
)
def test_resume_is_exact(train, tmp_path, recipe, epoch):
    """A run that was killed and resumed equals the uninterrupted one, bit for bit."""
    options = {"epochs": 3, **TRAININGS[recipe]}
    whole = train("whole", **options)
    interrupted(train, epoch, name="cut", **options)
    assert not (tmp_path / "cut" / "model.json").exists()
    resumed = train("cut", resume=True, **options)
    assert {**resumed, "run": 0} == {**whole, "run": 0}
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert history(tmp_path / "whole") == history(tmp_path / "cut")


def test_damaged_checkpoint_falls_back(train, tmp_path):
    """A damaged last checkpoint is passed over for the one before, without a difference."""
    train("whole", epochs=3)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    drop_after(tmp_path / "cut", 3)
    path = tmp_path / "cut" / "checkpoints" / "epoch-0003" / "state.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    rows = []
    train("cut", epochs=3, resume=True, tell=lambda e, v: rows.append(v) if e == "epoch" else None)
    assert [row["epoch"] for row in rows] == [3]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_no_whole_checkpoint(train, tmp_path):
    """Without a whole checkpoint resuming says so."""
    train(epochs=1)
    (tmp_path / "run" / "checkpoints" / "epoch-0001" / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="no whole checkpoint"):
        train(epochs=2, resume=True)


def test_resume_of_finished_run(train, tmp_path):
    """Resuming a finished run says so and changes nothing; with more epochs it goes on."""
    events = []
    first = train(epochs=1)
    before = weights(tmp_path / "run")
    assert train(epochs=1, resume=True, tell=lambda *e: events.append(e)) == first
    assert ("finished", {"epochs": 1, "stopped_early": False}) in events
    assert not {"resumed", "epoch"} & {event for event, _ in events}
    assert same(before, weights(tmp_path / "run"))
    train("two", epochs=2)
    train(epochs=2, resume=True, tell=lambda *e: events.append(e))
    assert ("resumed", {"epoch": 2, "step": 0}) in events
    assert same(weights(tmp_path / "two"), weights(tmp_path / "run"))


def test_resume_with_other_options_is_refused(train, tmp_path):
    """A run is resumed with the options it was begun with, and is left alone otherwise."""
    train(epochs=1)
    before = (tmp_path / "run" / "config.toml").read_bytes()
    with pytest.raises(UsageError, match="--opt, --lr"):
        train(epochs=2, resume=True, lr=0.5, opt="sgd")
    with pytest.raises(UsageError, match="--backbone"):
        train(epochs=2, resume=True, backbone="resnet18")
    assert (tmp_path / "run" / "config.toml").read_bytes() == before


def test_resume_keeps_the_stop(train, tmp_path):
    """What early stopping has counted survives the resume, and so does that it has stopped."""
    events = []
    options = {"epochs": 6, "lr": 1e-30, "patience": 2, "unfreeze": "none"}
    whole = train("whole", **options)
    assert whole["epochs"] == 3
    interrupted(train, 2, name="cut", **options)
    assert train("cut", resume=True, **options)["epochs"] == 3
    again = train("cut", resume=True, tell=lambda *e: events.append(e), **options)
    assert again["epochs"] == 3
    assert ("finished", {"epochs": 3, "stopped_early": True}) in events
    assert "resumed" not in {event for event, _ in events}


def test_resume_with_other_weights_is_refused(train, tmp_path):
    """A file of weights that has changed since is another run."""
    train("a", epochs=1)
    file = tmp_path / "base.safetensors"
    shutil.copy(tmp_path / "a" / "model.safetensors", file)
    train("b", epochs=1, weights=str(file), unfreeze="blocks:1", prefix_cache=True, augment="none")
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({k: v + v.abs() for k, v in tensors.items()}, file)
    with pytest.raises(UsageError, match="other weights"):
        train("b", epochs=2, weights=str(file), unfreeze="blocks:1", prefix_cache=True,
              augment="none", resume=True)  # fmt: skip


def test_stopped_replacement_can_be_gone_on_with(train, tmp_path):
    """With --exist-ok the new run's checkpoint is kept, not the old run."""
    train(epochs=1, seed=1)
    interrupted(train, 1, name="run", epochs=3, exist_ok=True)
    assert not (tmp_path / ".run.old").exists()
    train("whole", epochs=3)
    train(epochs=3, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_numpy_random_state_is_kept(train, tmp_path, monkeypatch):
    """A regularizer that draws from numpy's or Python's global generator resumes exactly too."""
    import random

    class Noise(Regularizer):
        def on_batch(self, images, targets):
            factor = 0.5 + 0.3 * np.random.rand() + 0.2 * random.random()
            return images.float() * factor, targets

    real = registry.components
    spec = RegularizerSpec(name="noise", factory=Noise, summary="noise")
    mine = registry.Component(kind="regularizer", spec=spec, provider="x", version="1")
    monkeypatch.setattr(
        registry, "components", lambda kind: real(kind) + ([mine] if kind == "regularizer" else [])
    )
    options = {"epochs": 2, "regularizer": ("noise",)}
    train("whole", **options)
    interrupted(train, 1, name="cut", **options)
    train("cut", resume=True, **options)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
