"""Training on images that cannot be used, and on those that stop whoever tries."""

from __future__ import annotations

import ctypes
import json

import numpy as np
import pytest

from fashionbatch.pipeline import batches
from fashionbatch.pipeline.load import load
from fashionbatch.pipeline.pool import Limits, worker
from fashionbatch.shards.read import open_shards
from tests.training.runs import SAMPLE


def hang() -> None:
    """In C, for ever, holding the interpreter: as a decoder may, and no Python code ends it."""
    ctypes.PyDLL(None).pause()


def hoard() -> None:
    """Takes 4 GiB; untouched, so that the machine does not suffer."""
    kept = [np.empty(16 << 20, np.uint8) for _ in range(256)]
    assert len(kept) == 256


@pytest.mark.parametrize("mode", ["finetune", "bottleneck"])
def test_fault_36_hanging_decoder_in_training(train, tmp_path, monkeypatch, mode):
    """A hang and a memory hog cost themselves; the run comes to its end, and names them."""
    with open_shards(SAMPLE) as shards:
        # of a split the first is always among those that a limit leaves
        rows = [int(shards.select(split)[0]) for split in ("train", "val")]
        names = [shards.name(row) for row in rows]
        acts = dict(zip(map(shards.read, rows), (hang, hoard), strict=True))

    def decoder(data, preprocessing):
        acts.get(bytes(data), int)()
        return load(data, preprocessing)

    monkeypatch.setattr(worker, "load", decoder)
    monkeypatch.setattr(batches, "Limits", lambda: Limits(seconds=0.5, memory=1 << 30))
    told = {}
    result = train(
        epochs=1, mode=mode, workers=1,
        tell=lambda event, values: told.update({values["name"]: values["reason"]})
        if event == "failed" else None,
    )  # fmt: skip
    assert result["epochs"] == 1
    assert told == {
        names[0]: "decode: took over 0.5 s", names[1]: "decode: took over 1 GiB of memory",
    }  # fmt: skip
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["lineage"]["unusable_images"] == 2
