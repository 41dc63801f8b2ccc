"""Faults 43 and 46 in prediction files: damage on the disk, and names that want to be obeyed."""

from __future__ import annotations

import csv
import json
import random
import re

import h5py
import numpy as np
import pytest

import fashionbatch
from fashionbatch import api
from fashionbatch.cli import app
from fashionbatch.errors import StoreError
from fashionbatch.store.csv_table import FORMULA, cell

#: what terminals obey, spreadsheets calculate, and rich takes for markup
HOSTILE = [
    "=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "\u3000=1", "'=1", "＝1",
    "＋1", "－1", "＠1", "\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "[/]", "[red]x", "<script>",
    "a\u202egnp.exe", '"=1', "a,=1", "a\r\n=1", "\\x1b", "\ufeff=1",
]  # fmt: skip


def flipped(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << (place % 8)
    path.write_bytes(data)
    return bytes(data)


def chunks(path):
    """Name, and first and last byte, of every checksummed piece of the file."""
    found = []

    def add(name, item):
        if isinstance(item, h5py.Dataset) and item.fletcher32:
            for number in range(item.id.get_num_chunks()):
                info = item.id.get_chunk_info(number)
                found.append((name, info.byte_offset, info.byte_offset + info.size))

    with h5py.File(path) as file:
        file.visititems(add)
    return found


def read_all(path, name):
    """Reads one dataset in the way that the reader offers for it."""
    with fashionbatch.open_predictions(path) as found:
        if name.startswith("failures/"):
            list(found.failures)
        elif name.startswith("shards/"):
            _ = found.shards
            found.column(name)[()]
        elif name.startswith("features/"):
            found.features()[()]
        elif name == "predictions/probability":
            found.probability[()]
        elif name in ("items/shard", "items/sha256"):
            for batch in found.batches(2):
                _ = batch.shards, batch.sha256
        else:
            list(found)


def test_fault_43_flipped_bit_in_a_chunk(predictions):
    """E: any flipped bit of any number is found out on reading: one line, with file and dataset."""
    names = [f"{i:03d}" for i in range(60)]
    path = predictions(
        shards={"s": (names, ["bad"] * 9)}, attributes=("red", "blue"), probabilities=True,
        hashed=True, width=(900,),
    )  # fmt: skip
    whole = path.read_bytes()
    pieces = chunks(path)
    assert len({name for name, _, _ in pieces}) == 13
    draw = random.Random(1)
    for name, first, last in pieces:
        for place in {first, last - 1, *(draw.randrange(first, last) for _ in range(4))}:
            flipped(path, place)
            with pytest.raises(StoreError) as error:
                read_all(path, name)
            message = str(error.value)
            assert str(path) in message and name in message and "\n" not in message
            path.write_bytes(whole)


@pytest.mark.parametrize("command", ["export", "merge", "search"])
def test_fault_43_damage_ends_every_command(predictions, tmp_path, capsys, command):
    """E: the command says what is damaged, exits with 1 and leaves no output."""
    names = [f"{i}" for i in range(50)]
    path = predictions("a.h5", {"s": (names, [])}, width=(900,))
    other = predictions("b.h5", {"t": (["x"], [])}, width=(900,))
    dataset = "predictions/topk_index" if command == "export" else "features/pooled"
    flipped(path, next(last - 9 for name, _, last in chunks(path) if name == dataset))
    arguments = {
        "export": ["export", str(path)],
        "merge": ["merge", str(other), str(path), "-o", str(tmp_path / "c.h5")],
        "search": ["search", str(path), "1", "-o", str(tmp_path / "found")],
    }
    with pytest.raises(SystemExit) as end:
        app.main(arguments[command])
    out, err = capsys.readouterr()
    assert end.value.code == 1 and out == ""
    [line] = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert f"{path} is damaged: {dataset}" in line and "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]


@pytest.mark.parametrize("damage", ["short", "empty", "gone", "folder"])
def test_fault_43_cut_off(predictions, tmp_path, damage):
    """E: a file that is cut off, empty, gone or none at all is refused in one line."""
    path = predictions()
    if damage == "short":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    with pytest.raises(fashionbatch.errors.FashionbatchError, match=re.escape(str(path))) as error:
        fashionbatch.open_predictions(path)
    assert "\n" not in str(error.value)


def test_fault_46_cells():
    """OK: no cell of text begins as a formula does, or holds what a terminal obeys."""
    cells = [cell(text) for text in (*HOSTILE, *(sign + "1" for sign in FORMULA))]
    for text in cells:
        assert text.lstrip()[:1] not in FORMULA
        assert all(c.isprintable() or c == "\u3000" for c in text)
    assert len(set(cells)) == len(set(HOSTILE) | {sign + "1" for sign in FORMULA})


def test_fault_46_names_are_inert_in_csv(predictions, tmp_path):
    """OK: as name, class, attribute, shard, key or reason: each item is one line of plain text."""
    path = predictions(
        shards={name: ([name], [name]) for name in HOSTILE},
        classes=HOSTILE, attributes=HOSTILE, topk=3,
    )  # fmt: skip
    made = api.export(path, attribute_threshold=0.0, probabilities=False)
    raw = (tmp_path / "p.csv").read_bytes().decode()
    assert made["predicted"] == made["failed"] == len(HOSTILE)
    lines = raw.split("\r\n")
    assert len(lines) == 2 * len(HOSTILE) + 2
    for line in lines:
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\ufeff]", line)
    for row in csv.DictReader(lines):
        for name, text in row.items():
            if not name.startswith("probability"):
                assert text.lstrip()[:1] not in tuple(FORMULA), (name, text)
        if row["attributes"]:
            assert set(json.loads(row["attributes"])) == set(HOSTILE)


def test_fault_46_names_are_inert_in_a_search(predictions, tmp_path, monkeypatch, capsys):
    """OK: the table and the messages hold no escapes, markup is shown, and the sheet is drawn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    path = predictions(
        shards={"s": ([*HOSTILE, "query"], [])}, classes=HOSTILE, attrs={"source": "photos"}
    )
    with pytest.raises(SystemExit) as end:
        app.main(["search", str(path), "query", HOSTILE[14], "-k", "40"])
    out, err = capsys.readouterr()
    assert end.value.code == 3  # no image of them is there
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out + err)
    assert "[/]" in out and "[red]x" in out
    assert len(list((tmp_path / "search" / "p").iterdir())) == 2


def test_fault_46_every_other_export_keeps_names_as_they_are(predictions, tmp_path):
    """OK: Parquet and NPZ are not opened by spreadsheets, and lose nothing."""
    path = predictions(shards={"s": (HOSTILE, [])})
    api.export(path, to="npz")
    with np.load(tmp_path / "p.npz") as found:
        assert found["name"].tolist() == HOSTILE
