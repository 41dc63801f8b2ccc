from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.config import ExportConfig
from fashionbatch.errors import OutputExistsError, StoreError, UsageError
from fashionbatch.store import csv_table, table
from fashionbatch.store.export import export
from fashionbatch.store.reader import open_predictions
from tests.predictions import write

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=9)
hostile = st.sampled_from(["=1+1", "@a", "-a\n", "'x", "\\n", "\x1b[2J", '"', "a,b;\tc", "＝1"])
names = st.one_of(texts, hostile)
NEVER = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]")


def plain(cell):
    """What a cell of text stands for."""
    text = cell.removeprefix("'")
    return re.sub(
        r"\\(\\|n|r|t|x..|u....)",
        lambda found: found.group().encode().decode("unicode_escape"),
        text,
    )


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def exported(path, **options):
    return Path(export(path, ExportConfig(**options))["output"])


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.lists(names, max_size=4), st.lists(names, max_size=2)), max_size=3),
    st.lists(names, min_size=1, max_size=4, unique=True),
    st.lists(names, max_size=3, unique=True),
)
def test_csv_and_parquet_read_back_equal(plan, classes, attributes):
    """Whatever the names: both hold every row and every failure, and the same of each."""
    with tempfile.TemporaryDirectory() as folder:
        shards = {f"s{i}": entry for i, entry in enumerate(plan)}
        path = write(
            Path(folder) / "p.h5", shards, classes=classes, attributes=attributes,
            probabilities=True, hashed=True,
        )  # fmt: skip
        asked: dict[str, object] = {"probabilities": True}
        if attributes:
            asked |= {"attribute_threshold": 0.4, "top_attributes": 2}
        from_csv = rows_of(exported(path, **asked))
        made = pyarrow.parquet.read_table(exported(path, to="parquet", features=True, **asked))
        from_parquet = made.to_pylist()
        raw = path.with_suffix(".csv").read_bytes()
        assert not NEVER.search(raw.decode())
        assert raw.count(b"\r\n") == raw.count(b"\n") == len(from_csv) + 1
        with open_predictions(path) as found:
            wanted = [row.name for row in found] + [item["name"] for item in found.failures]
            assert [r["name"] for r in from_parquet] == wanted
            assert [plain(r["name"]) for r in from_csv] == wanted
            assert len(from_csv) == found.fingerprint["items"]
            features = found.features()[()]
            for row, r in zip(found, from_parquet, strict=False):
                assert (r["status"], r["label"]) == ("predicted", row.label)
                assert [r[f"class_{i + 1}"] for i in range(len(row.classes))] == list(row.classes)
                assert np.array_equal(np.float32(r["features_pooled"]), features[row.row])
                kept = [(n, p) for n, p in row.attributes if p >= np.float32(0.4)][:2]
                if attributes:
                    assert [(a["name"], a["probability"]) for a in r["attributes"]] == kept
        for r, s in zip(from_parquet, from_csv, strict=True):
            assert "features_pooled" not in s
            for field, value in r.items():
                if field == "features_pooled":
                    continue
                text = s[csv_table.cell(field)]
                if field == "attributes":
                    assert json.loads(text or "{}") == (
                        {a["name"]: pytest.approx(a["probability"], abs=1e-7) for a in value or ()}
                    )
                elif isinstance(value, float):
                    assert np.float32(text) == np.float32(value)
                else:
                    assert plain(text) == (value or "")


def test_numbers_round_trip(predictions, tmp_path):
    """A probability is the shortest decimal that is read back as the same float32."""
    path = predictions(topk=3)
    rows = rows_of(exported(path))
    with open_predictions(path) as found:
        stored = found.topk_probability[()]
    for i, row in enumerate(rows[:3]):
        for k in range(3):
            text = row[f"probability_{k + 1}"]
            assert np.float32(text) == stored[i, k] and len(text) <= 12
    assert rows[3]["probability_1"] == rows[3]["class_1"] == ""
    assert (rows[3]["status"], rows[3]["name"], rows[3]["reason"]) == ("failed", "bad", "why bad")


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_same_bytes(predictions, tmp_path, kind):
    """The same file makes the same bytes, wherever and whenever."""
    path = predictions(attributes=("red",))
    options = {} if kind == "csv" else {"features": True}
    one = exported(path, output=tmp_path / f"one.{kind}", **options)
    two = exported(path, output=tmp_path / "deep" / "er" / f"two.{kind}", **options)
    assert one.read_bytes() == two.read_bytes()


def test_npz(predictions):
    """NPZ holds the arrays as they are stored; nothing in it needs pickle."""
    shards = {"s": (["a", "日本/b.jpg"], ["bad"]), "t": (["c"], [])}
    path = predictions(
        shards=shards, attributes=("red", "blue"), width=(2, 3), dtype=np.float16, hashed=True
    )
    with np.load(exported(path, to="npz", features=True)) as z, open_predictions(path) as found:
        assert z["name"].tolist() == found.names
        assert z["shards"][z["shard"]].tolist() == ["s", "s", "t"]
        assert z["classes"].tolist() == list(found.classes)
        assert z["failure_reason"].tolist() == ["why bad"]
        assert z["shards"][z["failure_shard"]].tolist() == ["s"]
        for name, column in (
            ("topk_index", found.topk_index), ("topk_probability", found.topk_probability),
            ("attribute_probability", found.attribute_probability),
            ("features_pooled", found.features()), ("sha256", found.column("items/sha256")),
        ):  # fmt: skip
            assert z[name].dtype == column.dtype and np.array_equal(z[name], column[()])
        assert json.loads(json.loads(str(z["about"][0]))["fingerprint"]) == found.fingerprint
    with np.load(exported(path, to="npz", topk=1, failures=False, exist_ok=True)) as z:
        assert z["topk_index"].shape == (3, 1)
        assert not {"failure_name", "features_pooled"} & set(z.files)


def test_what_stands_in_a_table(predictions):
    """--topk, --no-failures, --top-attributes and the threshold leave out what they say."""
    path = predictions(attributes=("red", "blue", "green"), topk=3)
    header = list(rows_of(exported(path, topk=1, exist_ok=True))[0])
    assert header == [
        "name", "status", "label", "class_1", "probability_1", "attributes", "shard", "key",
        "stage", "reason",
    ]  # fmt: skip
    rows = rows_of(exported(path, failures=False, exist_ok=True))
    assert [r["status"] for r in rows] == ["predicted"] * 3 and "reason" not in rows[0]

    def tags(**options):
        rows = rows_of(exported(path, failures=False, exist_ok=True, **options))
        return [list(json.loads(r["attributes"]).items()) for r in rows]

    with open_predictions(path) as found:
        ranked = [row.attributes for row in found]
    assert [[n for n, _ in t] for t in tags(top_attributes=2)] == [
        [n for n, _ in r[:2]] for r in ranked
    ]
    assert [len(t) for t in tags()] == [sum(p >= 0.5 for _, p in r) for r in ranked]
    assert [len(t) for t in tags(attribute_threshold=1.0)] == [0, 0, 0]
    assert [len(t) for t in tags(attribute_threshold=0.0)] == [3, 3, 3]


def test_format_and_place(predictions, tmp_path):
    """The ending of -o says the format, --to goes before it, and the default is CSV beside it."""
    path = predictions("catalog.h5")
    assert exported(path) == tmp_path / "catalog.csv"
    assert exported(path, output=tmp_path / "x.parquet").read_bytes()[:4] == b"PAR1"
    assert exported(path, to="npz") == tmp_path / "catalog.npz"
    assert exported(path, to="csv", output=tmp_path / "t.npz").read_bytes()[:4] == b"name"
    assert (
        exported(path, bom=True, output=tmp_path / "e.csv").read_bytes()[:7] == b"\xef\xbb\xbfname"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": True}, "--to parquet"),
        ({"to": "npz", "bom": True}, "--bom"),
        ({"to": "npz", "top_attributes": 1}, "leave them out"),
        ({"to": "xlsx"}, "csv, parquet, npz"),
        ({"probabilities": True}, "predict with --probabilities"),
        ({"to": "npz", "probabilities": True}, "predict with --probabilities"),
        ({"to": "parquet", "features": True}, "--features none"),
        ({"top_attributes": 3}, "holds no attributes"),
        ({"to": "npz", "features": True}, "--features none"),
    ],
)
def test_refused(predictions, tmp_path, options, words):
    """What cannot be exported is refused with what to do, and nothing is left behind."""
    path = predictions(features=None)
    with pytest.raises(UsageError, match=words):
        exported(path, **options)
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_overwritten(predictions, tmp_path):
    """An existing file is replaced when that is asked for; the prediction file never is."""
    path = predictions()
    (tmp_path / "p.csv").write_text("mine")
    with pytest.raises(OutputExistsError, match="--exist-ok"):
        exported(path)
    assert (tmp_path / "p.csv").read_text() == "mine"
    exported(path, exist_ok=True)
    assert (tmp_path / "p.csv").read_text().startswith("name,")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is an input"):
        exported(path, output=tmp_path / "." / "p.h5", exist_ok=True)
    with pytest.raises(OutputExistsError, match="folder"):
        exported(path, output=tmp_path, exist_ok=True)
    assert path.read_bytes() == before


def test_damage_leaves_the_old_file(predictions, tmp_path):
    """Damage that shows halfway ends in one line, with what was there before."""
    path = predictions(shards={"s": ([f"{i}" for i in range(300)], [])}, width=(900,))
    old = exported(path, to="npz", features=True).read_bytes()
    data = bytearray(path.read_bytes())
    with open_predictions(path) as found:
        place = bytes(data).index(found.features()[299].tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="features/pooled"):
        exported(path, to="npz", features=True, exist_ok=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.h5", "p.npz"]
    assert (tmp_path / "p.npz").read_bytes() == old


def test_without_pyarrow(predictions, monkeypatch, tmp_path):
    """Without pyarrow, it is said what to install."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = predictions()
    with pytest.raises(UsageError, match=r"pip install 'fashionbatch\[parquet\]'"):
        exported(path, to="parquet")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_bounded_memory(predictions, tmp_path, kind, monkeypatch):
    """Ten times the rows take no more memory."""
    monkeypatch.setattr(table, "_MOST_ROWS", 200)
    monkeypatch.setattr("fashionbatch.store.npz_arrays.BATCH", 200)
    monkeypatch.setattr("fashionbatch.store.reader.BATCH", 200)
    monkeypatch.setattr("fashionbatch.store.rows.BATCH", 200)

    def peak(rows: int) -> int:
        names = [f"{i:08d}" for i in range(rows)]
        path = predictions(f"{rows}.h5", {"s": (names, names)}, width=(8,))
        tracemalloc.start()
        try:
            exported(path, to=kind)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(400)  # what is imported on the way
    few, many = peak(600), peak(6_000)
    # the writer of Parquet keeps some hundred bytes of each row group
    assert many < 1.2 * few + (400_000 if kind == "parquet" else 60_000)


def test_lone_surrogates():
    """A text that is not even Unicode gives a cell that is."""
    cell = csv_table.cell("a\udce9\\")
    assert cell == "a\\udce9\\\\"
    io.BytesIO().write(cell.encode("utf-8"))
