"""``fashionbatch shard``: options, exit codes, what is printed, and what is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import open_shards

Cli = Callable[..., Any]


def one_line(result: Any, code: int, *words: str) -> None:
    assert (result.code, result.out) == (code, ""), result
    lines = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in result.err
    assert all(word in lines[0] for word in words), lines[0]


def test_folder_becomes_a_data_set(cli: Cli, photos: Path) -> None:
    """In shards/, with one line that says what and where; exit code 0."""
    result = cli("shard", "photos", "-j", 1)
    assert result.code == 0 and "20 images in 3 shards: shards/photos" in result.err + result.out
    assert Manifest.load(Path("shards/photos")).splits == {"train": 16, "val": 2, "test": 2}


def test_json_is_one_line(cli: Cli, photos: Path) -> None:
    """On standard output alone; failures are exit code 3, and named there."""
    (photos / "ant/broken.png").write_bytes(b"no image")
    result = cli("shard", "photos", "-o", "set", "-j", 2, "--json")
    assert result.code == 3
    assert json.loads(result.out) == {"output": "set", "items": 20, "shards": 3, "failed": 1}
    assert "1 entry is not in it: set/failures.jsonl says why" in result.err


def test_selection_and_split_are_options(cli: Cli, photos: Path) -> None:
    """Each of them, as they are documented; the choice is recorded."""
    code = cli(
        "shard", "photos", "-o", "set", "-j", 1, "--classes", "ant", "--per-class", 3,
        "--split", "train=0.5,test=0.5", "--limit-per-split", "test=2", "--seed", 4,
    ).code  # fmt: skip
    manifest = Manifest.load(Path("set"))
    assert code == 0 and manifest.splits == {"train": 3, "test": 2}
    assert manifest.classes == ("ant",)
    assert manifest.source["options"] == {
        "classes": ["ant"], "per_class": 3, "split": "train=0.5,test=0.5",
        "limit_per_split": "test=2", "seed": 4,
    }  # fmt: skip


def test_append_and_exist_ok(cli: Cli, photos: Path) -> None:
    """Refused without either; nothing new to append is exit code 0."""
    pack = ("shard", "photos", "-o", "set", "-j", 1)
    assert cli(*pack).code == 0
    before = {p.name: p.read_bytes() for p in Path("set").iterdir()}
    one_line(cli(*pack), 2, "--append", "--exist-ok")
    assert cli(*pack, "--append").code == 0
    assert {p.name: p.read_bytes() for p in Path("set").iterdir()} == before
    (photos / "ant/new.png").write_bytes((photos / "bee/3.png").read_bytes())
    assert cli(*pack, "--append").code == 0 and len(open_shards(Path("set"))) == 21
    assert cli(*pack, "--exist-ok", "--drop-duplicates").code == 3
    one_line(cli(*pack, "--exist-ok", "--append"), 2, "leave one of them out")
    one_line(cli("shard", "photos", "-o", "none", "--append"), 2, "leave --append out")


def test_warnings_are_said(cli: Cli, photos: Path) -> None:
    """Duplicates and classes that differ in case only; the exit code stays 0."""
    (photos / "ANT").mkdir()
    for number in range(10):
        (photos / "ANT" / f"{number}.png").write_bytes((photos / "ant/1.png").read_bytes())
    result = cli("shard", "photos", "-o", "set", "-j", 1)
    assert result.code == 0
    assert "'ANT' and 'ant' differ only in case" in result.err
    assert "have the same bytes as an earlier one" in result.err


def test_resize_and_check_are_options(cli: Cli, photos: Path) -> None:
    """The size of what is packed."""
    pack = ("shard", "photos", "-j", 1)
    assert cli(*pack, "-o", "a", "--resize", 6, "--resize-side", "longer").code == 0
    shards = open_shards(Path("a"))
    assert set(zip(shards.index.width.tolist(), shards.index.height.tolist(), strict=True)) == {
        (6, 4)
    }
    assert cli(*pack, "-o", "b", "--check", "none").code == 0
    assert set(open_shards(Path("b")).index.width.tolist()) == {0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--classes", "bea"), ("'bea'", "did you mean 'bee'")),
        (("--category-type", "upper"), ("have no types",)),
        (("--split", "train=1", "--group-by", "product"), ("no column", "'product'")),
        (("--label-column", "x"), ("label_column",)),
        (("--fraction", "0"), ("--fraction",)),
    ],
)
def test_misuse_is_one_line(
    cli: Cli, photos: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Exit code 2; nothing is made."""
    one_line(cli("shard", "photos", "-o", "set", "-j", 1, *options), 2, *words)
    assert sorted(p.name for p in Path().iterdir()) == ["photos"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_stopped_command_goes_on(cli: Cli, photos: Path, tmp_path: Path, kind: int) -> None:
    """The real program, stopped in the middle: no output, no worker, then the same bytes."""
    for number in range(3000):
        (photos / "bee" / f"more{number}.png").write_bytes((photos / "bee/1.png").read_bytes())
    command = [
        sys.executable, "-m", "fashionbatch", "shard", "photos", "-j", "2",
        "--samples-per-shard", "20", "--check", "decode", "-o",
    ]  # fmt: skip
    subprocess.run([*command, "whole/set"], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, "set"],
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs us in its background has interrupts ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(Path(".set.partial/work").glob("*.part")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(kind)
    _, err = process.communicate()
    assert process.returncode in (-kind, 128 + kind), err
    assert "Traceback" not in err and not Path("set").exists()
    subprocess.run([*command, "set"], check=True, capture_output=True)
    for path in Path("whole/set").iterdir():
        assert (Path("set") / path.name).read_bytes() == path.read_bytes()
    assert not Path(".set.partial").exists()


def test_output_inside_the_source_is_refused(cli: Cli, photos: Path) -> None:
    """The next run would take the shards for photographs."""
    result = cli("shard", "photos", "-o", "photos/packed")
    assert result.code == 2 and "lies inside" in result.err
    assert not (photos / "packed").exists()
