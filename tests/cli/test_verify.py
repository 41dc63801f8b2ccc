"""``fashionbatch verify``: the verdict in one line, the findings in a table or as JSON."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashionbatch import api
from fashionbatch.shards.read import open_shards

Cli = Callable[..., Any]


@pytest.fixture
def packed(photos: Path, tmp_path: Path) -> Path:
    """Twenty images in three shards: ``shards/photos``."""
    (tmp_path / "catalogue").mkdir()
    photos.rename(tmp_path / "catalogue" / "train")
    output = tmp_path / "shards" / "photos"
    api.shard(tmp_path / "catalogue", output=output, samples_per_shard=8, workers=1)
    return output


def spoil(folder: Path, rows: range) -> None:
    """Flips a bit of some images."""
    shards = open_shards(folder)
    for row in rows:
        path = shards.file(int(shards.index.shard[row]))
        data = bytearray(path.read_bytes())
        data[int(shards.index.offset[row])] ^= 1
        path.write_bytes(data)


def tar_of(path: Path, names: list[str], data: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_whole(cli: Cli, packed: Path) -> None:
    """One line on standard output, exit code 0."""
    result = cli("verify", "shards/photos")
    assert (result.code, result.out) == (0, "20 items in 3 shards: whole\n")
    assert result.err == ""


def test_notes_are_no_damage(cli: Cli, packed: Path) -> None:
    """They are shown, and the exit code stays 0."""
    (packed / "old.tar").write_bytes(b"")
    result = cli("verify", packed)
    assert result.code == 0
    assert "old.tar" in result.out and "note" in result.out
    assert result.out.splitlines()[-1] == "20 items in 3 shards: whole"


def test_damaged(cli: Cli, packed: Path) -> None:
    """A row for each finding, the number of damaged shards last, exit code 1."""
    spoil(packed, range(2))
    (packed / "failures.jsonl").unlink()
    result = cli("verify", packed)
    assert result.code == 1
    name = open_shards(packed).name(1)
    assert any("000000001" in r and name in r and "damaged" in r for r in result.out.splitlines())
    assert result.out.splitlines()[-1] == (
        "20 items in 3 shards: failures.jsonl damaged, 1 shard damaged"
    )


def test_skipped(cli: Cli, tmp_path: Path) -> None:
    """Samples that are left out of tar files made elsewhere: exit code 3."""
    tar_of(tmp_path / "x.tar", ["a.jpg", "b.json", "c.json"], b"{}")
    result = cli("verify", "x.tar")
    assert result.code == 3
    assert result.out.splitlines()[-1] == "1 item in 1 shard: 2 samples skipped"


def test_long_lists_are_cut(cli: Cli, tmp_path: Path) -> None:
    """Twenty findings are shown; as JSON all of them, on one line."""
    tar_of(tmp_path / "x.tar", [f"{n:03d}.json" for n in range(31)], b"{}")
    result = cli("verify", tmp_path)
    shown = [line for line in result.out.splitlines() if ".json " in line]
    assert len(shown) == 20
    assert "and 11 more (--json lists all)" in result.out.splitlines()
    result = cli("verify", tmp_path, "--json")
    assert result.code == 3
    [line] = result.out.splitlines()
    values = json.loads(line)
    assert list(values) == ["path", "items", "shards", "bytes", "ok", "findings"]
    assert values["ok"] is True and len(values["findings"]) == 31
    assert values["findings"][30]["name"] == "x/030.json"


def test_json(cli: Cli, packed: Path) -> None:
    """The same facts, with the exit code of the damage."""
    values = json.loads(cli("verify", packed, "--json", "-j", 2).out)
    assert (values["items"], values["shards"], values["ok"]) == (20, 3, True)
    assert values["findings"] == []
    spoil(packed, range(1))
    result = cli("verify", packed, "--json")
    assert result.code == 1
    found = json.loads(result.out)["findings"][1]
    assert list(found) == ["shard", "reason", "severity", "key", "name"]
    assert (found["key"], found["severity"]) == ("000000000", "damaged")


def test_hostile_names_are_inert(cli: Cli, tmp_path: Path) -> None:
    """Fault 46: escape sequences and markup in names do not reach the terminal."""
    tar_of(tmp_path / "x.tar", ["\x1b[31m[/]caf\udce9.json"], b"{}")
    result = cli("verify", tmp_path)
    assert result.code == 3
    assert "\x1b" not in result.out and "[/]caf" in result.out
    json.loads(cli("verify", tmp_path, "--json").out)


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("nowhere", 2, "does not exist"),
        ("pipe:touch ran", 2, "runs a program"),
        ("ftp://example.org/a.tar", 2, "ftp: addresses are not read"),
        ("photos", 1, "fashionbatch shard"),
    ],
)
def test_nothing_to_check(cli: Cli, photos: Path, what: str, code: int, words: str) -> None:
    """One line on standard error."""
    result = cli("verify", what)
    assert (result.code, result.out) == (code, "")
    [line] = result.err.splitlines()
    assert line.startswith("Error: ") and words in line
    assert not Path("ran").exists()


def test_help(cli: Cli) -> None:
    """With an example and the exit codes."""
    result = cli("verify", "--help")
    assert result.code == 0
    assert "Example: fashionbatch verify" in result.out and "--workers" in result.out
