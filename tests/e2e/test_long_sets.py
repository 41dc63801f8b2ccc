"""Long sets of predictions: commands read them block by block, and keep a few bytes of each row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashionbatch import api
from fashionbatch.evaluation.audit import probe
from fashionbatch.evaluation.audit import run as auditing
from fashionbatch.store import part as parts
from fashionbatch.store import parts_set, publish
from fashionbatch.store.merge import ShardEntry

#: rows that are ever read at a time
MOST = 16_384


def make(folder: Path, rows: int, classes: int, width: int, part: int) -> Path:
    """A folder of parts, by the store's own writers; one label of twenty is wrong.

    Args:
        width: of the features; 0 for none.
        part: rows of a part.
    """
    work = folder.with_name("parts")
    work.mkdir(parents=True)
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(classes, width)).astype(np.float32)
    names = [f"class {number}" for number in range(classes)]
    shards = []
    for number, start in enumerate(range(0, rows, part)):
        label = (np.arange(start, start + part) % classes).astype(np.int32)
        best = np.stack([label, (label + 1) % classes], axis=1).astype(np.int32)
        chances = np.full((part, 2), 0.3, np.float32)
        chances[:, 0] = draw.uniform(0.5, 1, part)
        values = centres[label] + draw.normal(size=(part, width))
        wrong = draw.random(part) < 0.05
        said = np.where(wrong, draw.integers(0, classes, part), label).astype(np.int32)
        features = {"features/pooled": values.astype(np.float16)} if width else {}
        made = parts.Part(
            fingerprint="f",
            shard=number,
            sha256=f"{number:064d}",
            names=[f"{i:09d}.jpg" for i in range(start, start + part)],
            keys=[f"{i:09d}" for i in range(start, start + part)],
            labels=said,
            hashes=draw.integers(0, 256, (part, 32), dtype=np.uint8),
            arrays={
                "predictions/topk_index": best,
                "predictions/topk_probability": chances,
                **features,
            },
        )
        parts.commit(work, made)
        shards.append(ShardEntry(name=f"val-{number:06d}.tar", count=part))
    about = {
        "fingerprint": {"model": "m" * 64},
        "model_card": {"sha256": "m" * 64, "classes": names},
        "configuration": {},
        "components": [],
    }
    publish.publish(work, folder, shards, names, about, fingerprint="f", replace=False)
    return folder


COMMANDS: dict[str, Callable[[Path, Path], Any]] = {
    "evaluate": lambda path, out: api.evaluate(path),
    "export csv": lambda path, out: api.export(path, output=out / "x.csv"),
    "export npz": lambda path, out: api.export(path, output=out / "x.npz", features=True),
    "search": lambda path, out: api.search(path, "000000007.jpg", sheet=False),
    "audit": lambda path, out: api.audit(path, output=out / "audit", sheets=False, folds=2),
    # laying out a map takes the most time, and no more rows
    "report": lambda path, out: api.report(path, output=out / "r.html", items=100),
    "explain": lambda path, out: api.explain("confusion", predictions=path, output=out / "why"),
}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More rows than any block has."""
    return make(tmp_path_factory.mktemp("long") / "set", 20_000, 4, 160, 2000)


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("name", COMMANDS)
def test_blocks_and_no_columns(
    name: str, long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No read is of more rows than a block has, and all together are of all rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(auditing, "_MOST_PAIRS", 1000)
    monkeypatch.setattr(probe, "_MOST", 1000)
    taken: dict[str, list[int]] = {}
    for kind in (parts_set._Concatenated, parts_set._Numbers):

        def read(self: Any, start: int, stop: int, whole: Any = kind.read) -> Any:
            taken.setdefault(self.name, []).append(stop - start)
            return whole(self, start, stop)

        monkeypatch.setattr(kind, "read", read)
    COMMANDS[name](long, tmp_path)
    assert {column: max(rows) for column, rows in taken.items() if max(rows) > MOST} == {}
    assert max(sum(rows) for rows in taken.values()) >= 20_000


def test_few_parts_are_in_memory(long: Path) -> None:
    """Parts that are open are read from the disk: in memory as a whole is one, to be checked."""
    found = parts_set.PartSet(long)
    for number in range(10):
        assert found.part(number).driver != "core"
    found.close()
