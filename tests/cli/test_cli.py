from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import torchvision
from PIL import Image

from fashionbatch import plugins, registry
from fashionbatch.cli import app
from fashionbatch.cli.console import safe
from fashionbatch.errors import UnknownNameError
from fashionbatch.store.reader import open_predictions

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
SMALL = (
    "train", "--data", SAMPLE, "--backbone", "small-resnet", "--weights", "none",
    "--limit", 16, "--epochs", 1, "-j", 0, "--device", "cpu", "-b", 8,
)  # fmt: skip
COMMANDS = [
    ["demo"], ["shard"], ["inspect"], ["verify"], ["train"], ["predict"], ["explain"],
    ["export"], ["merge"], ["search"],
    ["backbones"], ["backbones", "show"], ["recipes"], ["recipes", "show"],
    ["features"], ["features", "clear"], ["plugins", "list"], ["plugins", "show"],
    ["plugins", "check"], ["plugins", "new"],
]  # fmt: skip


def refused(result, code, *words):
    """One line on standard error, nothing on standard output."""
    assert result.code == code, result
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.err
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


def only(result, code, *words):
    assert refused(result, code, *words) == result.err.strip()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(cli, command):
    """Every command has a help with an example."""
    result = cli(*command, "--help")
    assert result.code == 0
    assert "Example: fashionbatch" in result.out
    assert cli(*command, "-h").out == result.out


def test_start_up_is_light():
    """The help is shown without importing anything heavy."""
    code = (
        "import sys\nfrom fashionbatch.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = 'torch torchvision h5py matplotlib webdataset numpy'.split()\n"
        "print('HEAVY', [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "predict" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_whole_line(cli, photos):
    """shard, train, predict and explain, each told by one line of JSON on standard output."""

    def values(result, code=0):
        assert result.code == code, result.err
        [line] = result.out.splitlines()
        return json.loads(line)

    packed = values(cli("shard", "photos", "--json"))
    assert packed == {"output": "shards/photos", "items": 20, "shards": 3, "failed": 0}
    small = ["--backbone", "small-resnet", "--weights", "none", "--epochs", 1, "-j", 0, "--json"]
    plan = values(cli("train", *small, "--dry-run"))
    assert plan["plan"]["items"] == {"train": 16, "val": 2, "test": 2}
    assert not Path("runs").exists()
    trained = values(cli("train", *small))
    assert trained["run"] == "runs/photos-small-resnet-1"
    assert list(trained["val"]) == ["loss", "top1", "top3"]
    predicted = values(cli("predict", "photos", "-j", 1, "--json"))
    assert predicted["output"] == "predictions/photos-photos-small-resnet-1.h5"
    assert (predicted["items"], predicted["predicted"], predicted["failed"]) == (20, 20, 0)
    assert list(predicted) == [
        "output", "items", "predicted", "failed", "seconds", "images_per_second", "engine", "model",
    ]  # fmt: skip
    again = cli("predict", "photos", "-j", 1)
    assert again.code == 0
    assert "nothing to do" in again.err
    drawn = values(cli("explain", "grad-cam", "photos", "--limit", 3, "--json"))
    assert (drawn["pictures"], drawn["failed"]) == (3, 0)
    assert len(list(Path("explain").iterdir())) == 3


def test_tables(cli):
    """Lists are tables for people and one line of JSON for programs."""
    assert "small-resnet" in cli("backbones").out
    rows = json.loads(cli("backbones", "--json").out)
    assert "resnet50" in [r["name"] for r in rows]
    shown = json.loads(cli("backbones", "show", "small-resnet", "--json").out)
    assert shown["blocks"] == ["blocks.0", "blocks.1", "blocks.2"]
    assert cli("backbones", "show", "small-resnet").code == 0
    found = cli("backbones", "--match", "*net50*").out
    assert "resnet50" in found
    assert "small-resnet" not in found
    assert "builtin" in cli("plugins", "list").out
    assert "grad-cam" in cli("plugins", "show", "builtin").out


def test_a_package_with_many_backbones_is_one_line(cli, monkeypatch):
    """Unless names are asked for; programs get all."""
    (small,) = (c for c in registry.components("backbone") if c.spec.name == "small-resnet")
    many = [
        dataclasses.replace(
            small,
            spec=dataclasses.replace(
                small.spec, name=f"many-{n:03}", weights=dict.fromkeys("abcdef", "m:f")
            ),
            provider="a-package",
        )
        for n in range(201)
    ]
    monkeypatch.setattr(registry, "components", lambda kind: [*many, small])
    told = cli("backbones").out
    assert "small-resnet" in told
    assert "and 201 of a-package" in told
    assert "many-000 to many-200" in told
    assert "many-001" not in told
    told = cli("backbones", "--match", "many-00*").out
    assert "many-001" in told
    assert "many-011" not in told
    assert "a, b, c, 3 more, none" in told
    assert len(json.loads(cli("backbones", "--json").out)) == 202


@pytest.fixture
def fresh_plugins():
    plugins.discover.cache_clear()
    yield
    plugins.discover.cache_clear()


def test_no_plugins(cli, monkeypatch, fresh_plugins):
    """FASHIONBATCH_PLUGINS="" leaves the built-in plugin; the others are listed as disabled."""
    monkeypatch.setenv("FASHIONBATCH_PLUGINS", "")
    found = json.loads(cli("plugins", "list", "--json").out)
    assert found[0]["name"] == "builtin"
    assert {p["status"] for p in found[1:]} <= {"disabled"}
    assert cli("plugins", "list").code == 0


def test_missing_and_empty_folders(cli, tmp_path):
    """Missing and empty folders are refused in one line, and nothing is made."""
    Path("empty").mkdir()
    only(cli("shard", "nowhere"), 2, "nowhere")
    only(cli("shard", "empty"), 1, "no files")
    only(cli("train", "--data", "nowhere"), 2, "nowhere")
    only(cli("train", "--data", "empty"), 1, "fashionbatch shard")
    only(cli("train"), 2, "--data")
    only(cli("predict", "empty"), 2, "runs/ holds no trained model")
    only(cli("predict", "empty", "--model", "nix"), 2, "nix")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_predict_of_nothing(cli, run, tmp_path):
    """An input that is not there, or is empty, is refused."""
    Path("empty").mkdir()
    only(cli("predict", "nowhere", "--model", run), 2, "nowhere")
    only(cli("predict", "empty", "--model", run), 1, "no files")
    refused(cli("explain", "grad-cam", "nowhere", "--model", run, "-o", "w"), 2, "nowhere")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_class_in_one_split_only(cli, tmp_path):
    """A class that is in one split only is refused by name, unless it is accepted."""
    for folder in ("train/ant", "train/bee", "val/ant", "val/be"):
        (tmp_path / "p" / folder).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "p" / folder / "1.png")
    only(cli("shard", "p", "-o", "d"), 1, "'be", "--allow-missing-classes")
    assert not Path("d").exists()
    assert cli("shard", "p", "-o", "d", "--allow-missing-classes").code == 0


def broken(photos):
    good = (photos / "ant" / "3.png").read_bytes()
    data = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(data, "JPEG")
    (photos / "ant" / "text.jpg").write_text("I am no image")
    (photos / "bee" / "cut.jpg").write_bytes(data.getvalue()[:1500])
    damaged = bytearray(good)
    damaged[good.index(b"IDAT") + 8] ^= 0xFF
    (photos / "bee" / "damaged.png").write_bytes(damaged)
    (photos / "bee" / "empty.png").write_bytes(b"")
    return {"ant/text.jpg", "bee/cut.jpg", "bee/damaged.png", "bee/empty.png"}


def test_broken_files(cli, photos, run):
    """Broken files among good ones are recorded, and the exit code says so."""
    names = broken(photos)
    result = cli("shard", "photos", "-o", "d", "--json")
    assert result.code == 3
    assert json.loads(result.out)["items"] == 20
    assert json.loads(result.out)["failed"] == 4
    lines = Path("d/failures.jsonl").read_text().splitlines()
    assert {json.loads(line)["name"] for line in lines} == names
    result = cli("predict", "photos", "--model", run, "-o", "o.h5", "-j", 1, "--json")
    assert result.code == 3
    assert json.loads(result.out)["predicted"] == 20
    assert "Warning: bee/cut.jpg: decode: " in result.err
    with open_predictions("o.h5") as found:
        assert {f["name"] for f in found.failures} == names
    result = cli("explain", "grad-cam", "photos/ant", "--model", run, "-o", "w")
    assert result.code == 3
    assert "Warning: text.jpg" in result.err


def test_only_broken_files(cli, tmp_path, run):
    """Where nothing can be used the job fails."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_text("no")
    only(cli("shard", "p", "-o", "d"), 1, "none of the 1 files")
    assert not Path("d").exists()
    refused(cli("predict", "p", "--model", run, "-o", "o.h5", "-j", 1), 1, "none of the 1 files")
    refused(cli("predict", "p", "--model", run, "-o", "o.h5", "-j", 1), 1, "none of the 1 files")


def test_existing_outputs(cli, photos, run):
    """What is there is not overwritten unasked."""
    assert cli("shard", "photos", "-o", "d").code == 0
    before = Path("d/dataset.json").read_bytes()
    only(cli("shard", "photos", "-o", "d", "--seed", 1), 2, "--exist-ok")
    assert Path("d/dataset.json").read_bytes() == before
    assert cli("shard", "photos", "-o", "d", "--exist-ok", "--seed", 1).code == 0
    Path("mine").mkdir()
    Path("mine/file").write_text("mine")
    only(cli("shard", "photos", "-o", "mine", "--exist-ok"), 2, "something else")
    only(cli(*SMALL, "-o", ".", "--name", "mine", "--exist-ok"), 2, "something else")
    assert Path("mine/file").read_text() == "mine"
    Path("runs/a").mkdir(parents=True)
    only(cli(*SMALL, "--name", "a"), 2, "--exist-ok", "--resume")
    assert cli("predict", "photos", "--model", run, "-o", "o.h5", "-j", 1).code == 0
    before = Path("o.h5").read_bytes()
    refused(cli("predict", "photos", "--model", run, "-o", "o.h5", "--topk", 1), 2, "--restart")
    assert Path("o.h5").read_bytes() == before


def test_a_changed_catalogue(cli, photos, run):
    """The plan is shown, and with --incremental how much was taken over."""
    call = ("predict", "photos", "--model", run, "-o", "o.h5", "-j", 1, "--device", "cpu")
    dry = cli(*call, "--dry-run")
    assert dry.code == 0 and not Path("o.h5").exists()
    assert "20 items in 1 batch of 20, 1 shard in all; about" in dry.out
    assert "engine eager on cpu, float32" in dry.out
    assert json.loads(cli(*call, "--dry-run", "--json").out)["batches"] == 1
    assert cli(*call).code == 0
    (photos / "x.png").write_bytes(next(photos.glob("*/1.png")).read_bytes())
    refused(cli(*call), 2, "--incremental")
    assert cli(*call, "-b", 20).code == 2
    grown = cli(*call, "-b", 20, "--incremental")
    assert grown.code == 0 and "21 items taken over from the file that was there" in grown.err
    only(cli(*call, "--max-failures", "x"), 2, "--max-failures")


def test_data_of_other_classes(cli, photos, run):
    """A data set of other classes than the model's is refused."""
    cli("shard", "photos", "-o", "d")
    refused(cli("predict", "d", "--model", run), 1, "'ant'", "--ignore-labels")
    assert not Path("predictions").exists()
    assert cli("predict", "d", "--model", run, "--ignore-labels", "-j", 1).code == 0


BAD_OPTIONS = [
    (("--backbone", "resnet5O"), "did you mean 'resnet50'"),
    (("--backbone", "small-resnt"), "did you mean 'small-resnet'"),
    (("--unfreeze", "3"), "blocks:N"),
    (("--unfreeze", "blocks:99"), "at most blocks:3"),
    (("--opt", "adagard"), "did you mean 'adagrad'"),
    (("--sched", "steps"), "did you mean 'step'"),
    (("--regularizer", "l2-kernal"), "l2-kernel"),
    (("--regularizer", "l2-kernel:weight"), "l2-kernel"),
    (("--mode", "offline"), "finetune, bottleneck"),
    (("--augment", "all"), "paper, flip, trivial, rand, none"),
    (("--epochs", 0), "at least 1"),
    (("--name", "../x"), "--name"),
    (("--head-hidden", "a"), "--head-hidden"),
    (("--device", "tpu"), "tpu"),
    (("--weights", "nowhere/w.pth"), "no such file"),
    (("--weights", "imagenett"), "comes without weights"),
    (("--resume",), "--name"),
    (("--resume", "--name", "nix"), "does not exist"),
]


@pytest.mark.parametrize(("options", "word"), BAD_OPTIONS, ids=lambda v: str(v)[:30])
def test_bad_options(cli, tmp_path, options, word):
    """A value that cannot work is refused in one line before anything is written."""
    only(cli(*SMALL, *options), 2, word)
    assert not list(tmp_path.iterdir())


def test_click_errors(cli, tmp_path):
    """Options that there are not, and words for numbers, end with code 2."""
    for extra in (("--epoch", 3), ("--epochs", "many")):
        result = cli(*SMALL, *extra)
        assert result.code == 2
        assert "Error: " in result.err
        assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


def test_foreign_weights(cli, tmp_path):
    """A weights file that is none is refused."""
    Path("w.pth").write_bytes(b"no weights")
    only(cli(*SMALL, "--weights", "w.pth"), 1, "w.pth", "state_dict")
    assert not Path("runs").exists()


def test_no_network(cli, tmp_path, monkeypatch):
    """Without a network the message names the file to fetch and where to pass it."""

    def fail(self, **options):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", fail)
    result = cli(*SMALL, "--backbone", "resnet18", "--weights", "imagenet")
    only(result, 1, "https://", "resnet18-", "--weights", "no route")
    assert not list(tmp_path.iterdir())


def test_several_data_sets(cli, photos):
    """Where several data sets could be meant, one must be named."""
    cli("shard", "photos", "-o", "shards/a")
    cli("shard", "photos", "-o", "shards/b")
    only(cli("train", "--epochs", 1), 2, "--data", "shards/a", "shards/b")


def test_debug(monkeypatch):
    """FASHIONBATCH_DEBUG=1 shows the traceback."""
    monkeypatch.setenv("FASHIONBATCH_DEBUG", "1")
    with pytest.raises(UnknownNameError):
        app.main(["backbones", "show", "nix"])


def test_subprocess(tmp_path):
    """As a process: one line and the exit code; with FASHIONBATCH_DEBUG=1 a traceback."""
    command = [sys.executable, "-m", "fashionbatch", "backbones", "show", "resnet5O"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")


def test_names_are_inert(cli, tmp_path, run):
    """Escape sequences and markup in names reach the terminal as plain text."""
    folder = tmp_path / "p[bold]x"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "[red]good.png")
    (folder / "\x1b[2Jbad\n.png").write_text("no")
    for arguments in (
        ("predict", folder, "--model", run, "-o", "o.h5", "-j", 1),
        ("explain", "grad-cam", folder, "--model", run, "-o", "w"),
    ):
        result = cli(*arguments)
        assert result.code == 3
        assert "\x1b" not in result.out + result.err
        assert r"\x1b[2Jbad\n.png" in result.err
    result = cli("shard", folder, "-o", "d[/bold]")
    assert result.code == 3
    assert "d[/bold]" in result.err
    result = cli("train", "--data", "\x1b[31m[red]")
    only(result, 2, r"\x1b[31m[red]")
    assert safe("a\x1b\u202e\udce9\n") == r"a\x1b\u202e\udce9\n"


def test_version(cli):
    """--version says the version."""
    from fashionbatch import __version__

    assert cli("--version").out == f"fashionbatch {__version__}\n"
