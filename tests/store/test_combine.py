from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fashionbatch.config import MergeConfig
from fashionbatch.errors import OutputExistsError, StoreError, UsageError
from fashionbatch.store.combine import combine
from fashionbatch.store.reader import open_predictions
from tests.predictions import write

COLUMNS = ("items/label", "predictions/topk_index", "predictions/topk_probability",
           "predictions/attribute_probability", "features/pooled", "items/sha256")  # fmt: skip
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=9)


def merged(*paths, output=None, **options):
    output = output or paths[0].with_name("all.h5")
    return output, combine(paths, MergeConfig(output=output, **options))


def told(path):
    """Every item by name: the shard, and all that is known of it."""
    with open_predictions(path) as found:
        known = [n for g in ("items", "predictions", "features") for n in found.columns(g)]
        columns = [found.column(name)[()] for name in COLUMNS if name in known]
        keys = [k for b in found.batches() for k in b.keys]
        shards = [found.shard_names[s] for b in found.batches() for s in b.shards]
        rows = [
            (name, shards[i], keys[i], *(c[i].tobytes() for c in columns))
            for i, name in enumerate(found.names)
        ]
        return rows, [tuple(f.values()) for f in found.failures]


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.lists(st.tuples(st.lists(texts, max_size=4), st.lists(texts, max_size=2)), max_size=3),
        min_size=2,
        max_size=3,
    )
)
def test_everything_comes_along(plans):
    """Whatever the files hold: every row and failure, in order, each with its own shard."""
    with tempfile.TemporaryDirectory() as temporary:
        paths = []
        for number, plan in enumerate(plans):
            shards = {f"{number}-{i}": entry for i, entry in enumerate(plan)}
            paths.append(
                write(
                    Path(temporary) / f"{number}.h5", shards, attributes=("red",), hashed=True,
                    device="cuda" if number else "cpu",
                )
            )  # fmt: skip
        # the same name with the same bytes is the same item, wherever it lies
        output, result = merged(*paths, duplicates="first")
        rows, failures, names, counts = [], [], set(), 0
        for path in paths:
            mine = told(path)
            counts += len(mine[0]) + len(mine[1])
            rows += [r for r in mine[0] if r[0] not in names]
            failures += [f for f in mine[1] if f[0] not in names]
            names |= {r[0] for r in mine[0]} | {f[0] for f in mine[1]}
        assert told(output) == (rows, failures)
        assert (result["predicted"], result["failed"]) == (len(rows), len(failures))
        assert result["items"] + result["duplicates"] == counts
        with open_predictions(output) as found:
            assert sum(count for _, _, count in found.shards) == result["items"]
            assert found.fingerprint["items"] == result["items"]
            assert [i["device"] for i in found.fingerprint["inputs"]] == [
                "cuda" if n else "cpu" for n in range(len(paths))
            ]
            assert "device" not in found.fingerprint and found.model["sha256"] == "m" * 64


def test_same_bytes_and_again(predictions, tmp_path):
    """Merging is deterministic, and a merged file can be merged again: its inputs stay named."""
    paths = [predictions(f"{i}.h5", {f"s{i}": ([f"{i}-a", f"{i}-b"], [])}) for i in range(3)]
    one, _ = merged(*paths[:2], output=tmp_path / "one.h5")
    two, _ = merged(*paths[:2], output=tmp_path / "two.h5")
    assert one.read_bytes() == two.read_bytes()
    step, result = merged(one, paths[2], output=tmp_path / "step.h5")
    whole, _ = merged(*paths, output=tmp_path / "whole.h5")
    assert told(step) == told(whole) and result["predicted"] == 6
    with open_predictions(step) as a, open_predictions(whole) as b:
        assert a.fingerprint == b.fingerprint and len(a.fingerprint["inputs"]) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "n" * 64}, r"other model \(nnnnnnnnnnnn\.\.\. instead of mmmm"),
        ({"model": "n" * 64, "classes": ("a", "b", "c")}, "other model"),
        ({"classes": ("a", "b", "c")}, "other classes"),
        ({"topk": 1}, r"other topk \(1 instead of 2\)"),
        ({"features": None}, r"other features \(none instead of pooled\)"),
        ({"engine": "onnx"}, r"other engine \(onnx instead of eager\)"),
        ({"engine": {"name": "eager"}}, "other engine"),
        ({"precision": "bfloat16"}, r"other precision \(bfloat16 instead of None\)"),
        ({"dtype": np.float16}, r"other features/pooled \(float16 \[4\] instead of float32 \[4\]"),
        ({"width": (5,)}, r"other features/pooled \(float32 \[5\]"),
        ({"hashed": True}, r"other items/sha256"),
        ({"probabilities": True}, r"other predictions/probability"),
    ],
)
def test_files_that_do_not_belong_together(predictions, tmp_path, changes, words):
    """What two files differ in is named, with both values, and nothing is made."""
    paths = [predictions("a.h5", {"s": (["x"], [])})]
    paths.append(predictions("b.h5", {"t": (["y"], [])}, **changes))
    with pytest.raises(UsageError, match=words):
        merged(*paths)
    assert sorted(tmp_path.iterdir()) == paths


def test_file_without_rows(predictions):
    """A file in which all failed knows no shape of its features, and is no other kind of file."""
    a = predictions("a.h5", {"s": ([], ["x"])}, width=(0,))
    b = predictions("b.h5", {"t": (["y"], [])})
    for paths in ((a, b), (b, a)):
        output, result = merged(*paths, exist_ok=True)
        assert (result["predicted"], result["failed"]) == (1, 1)
        with open_predictions(output) as found, open_predictions(b) as own:
            assert np.array_equal(found.features()[()], own.features()[()])


def test_the_same_item_twice(predictions, tmp_path):
    """An item of two files is refused by name; ``first`` keeps what the first file says."""
    a = predictions("a.h5", {"s": (["x", "y"], ["z"]), "t": (["x"], [])})
    b = predictions("b.h5", {"s": (["z", "new", "y"], []), "u": (["x"], ["w"])})
    with pytest.raises(UsageError, match=r"b\.h5 holds 2 items.*'z', 'y'.*--duplicates first"):
        merged(a, b)
    assert sorted(tmp_path.iterdir()) == [a, b]
    output, result = merged(a, b, duplicates="first")
    assert result == {
        "output": str(output), "files": 2, "items": 7, "predicted": 5, "failed": 2, "duplicates": 2,
    }  # fmt: skip
    with open_predictions(output) as found:
        assert found.names == ["x", "y", "x", "new", "x"]
        assert [f["name"] for f in found.failures] == ["z", "w"]
        assert [(n, c) for n, _, c in found.shards] == [("s", 3), ("t", 1), ("s", 1), ("u", 2)]


def test_the_same_bytes_in_another_shard(predictions):
    """A catalogue that has grown is cut into other parts: the name and the bytes tell."""
    a = predictions("a.h5", {"c[0:2]": (["x", "y"], [])}, hashed=True)
    b = predictions("b.h5", {"c[0:3]": (["x", "y", "z"], [])}, hashed=True)
    with pytest.raises(UsageError, match="holds 2 items"):
        merged(a, b)
    output, _ = merged(a, b, duplicates="first")
    with open_predictions(output) as found:
        assert found.names == ["x", "y", "z"]


def test_misuse(predictions, tmp_path):
    """One file, a file twice, no output, an output that is there or is an input."""
    a, b = predictions("a.h5", {"s": (["x"], [])}), predictions("b.h5", {"t": (["y"], [])})
    with pytest.raises(UsageError, match="at least two"):
        merged(a)
    (tmp_path / "link.h5").symlink_to(a)
    with pytest.raises(UsageError, match="named twice"):
        merged(a, b, tmp_path / "link.h5")
    with pytest.raises(UsageError, match="-o"):
        combine([a, b], MergeConfig())
    before = a.read_bytes()
    with pytest.raises(UsageError, match="is an input"):
        merged(a, b, output=a, exist_ok=True)
    with pytest.raises(OutputExistsError, match="--exist-ok"):
        merged(a, b, output=shutil.copy(b, tmp_path / "c.h5"))
    assert a.read_bytes() == before
    with pytest.raises(UsageError, match="does not exist"):
        merged(a, tmp_path / "nowhere.h5")


def test_source_stays_where_it_is_one(predictions):
    """Where the catalogue lay is told if all files tell the same."""
    a = predictions("a.h5", {"s": (["x"], [])}, attrs={"source": "/c"})
    b = predictions("b.h5", {"t": (["y"], [])}, attrs={"source": "/c"})
    c = predictions("c.h5", {"u": (["z"], [])}, attrs={"source": "/d"})
    for paths, wanted in (((a, b), Path("/c")), ((a, c), None)):
        with open_predictions(merged(*paths, exist_ok=True)[0]) as found:
            assert found.source == wanted


def test_damaged_input(predictions, tmp_path):
    """A damaged input is named, and what was there before stays."""
    b = predictions("b.h5", {"t": ([f"{i}" for i in range(400)], [])}, width=(800,))
    with open_predictions(b) as found:
        place = b.read_bytes().index(found.features()[399].tobytes())
    data = bytearray(b.read_bytes())
    data[place] ^= 4
    b.write_bytes(data)
    c = predictions("c.h5", {"v": (["w"], [])}, width=(800,))
    with pytest.raises(StoreError, match=r"b\.h5 is damaged: features/pooled"):
        merged(c, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.h5", "c.h5"]


def test_namesakes_are_never_dropped(predictions):
    """Folders of one name on two machines: another image is no duplicate, whatever is asked for."""
    a = predictions("a.h5", {"c[0:2]": (["x", "y"], [])}, hashed=True)
    b = predictions("b.h5", {"c[0:2]": (["x", "y"], [])}, hashed=True)
    with h5py.File(b, "r+") as file:
        hashes = file["items/sha256"][()]
        hashes[1] ^= 1
        file["items/sha256"][...] = hashes
    for duplicates in ("error", "first"):
        with pytest.raises(UsageError, match=r"b\.h5 holds 1 item of a name.*'y'"):
            merged(a, b, duplicates=duplicates)
