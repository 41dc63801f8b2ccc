"""A run that was stopped, or killed, goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from fashionbatch.errors import StoppedError, UsageError
from fashionbatch.training import checkpoint as checkpoints
from fashionbatch.training import job as jobs
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


@pytest.mark.slow
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
