"""The command features: what trainings have kept, shown and cleared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fashionbatch import api
from fashionbatch.training.activations.kept import Hold

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


def test_kept_features_are_listed_and_cleared(cli: Callable[..., Any], tmp_path: Path) -> None:
    """By network and size; what a training uses stays, and so does what is not ours."""
    assert json.loads(cli("features", "--json").out) == []
    told: list[dict[str, Any]] = []
    for limit in (16, 17):
        api.train(
            data=SAMPLE, backbone="small-resnet", weights="none", limit=limit, epochs=1, workers=0,
            device="cpu", mode="bottleneck", name=f"run{limit}",
            tell=lambda event, values: told.append(values) if event == "disk" else None,
        )  # fmt: skip
    folder = tmp_path / "runs/.features"
    (folder / "mine").mkdir()
    first, second = (Path(values["path"]) for values in told)
    sizes = [sum(p.stat().st_size for p in path.iterdir()) for path in (first, second)]
    assert [values["kept"] for values in told] == [0, sizes[0]]
    hold = Hold(second)
    listed = {Path(each["path"]): each for each in json.loads(cli("features", "--json").out)}
    assert {path: (each["bytes"], each["used"]) for path, each in listed.items()} == {
        first: (sizes[0], False),
        second: (sizes[1], True),
    }
    out = cli("features").out
    assert "small-resnet of fashionbatch" in out
    assert "bottleneck 128" in out
    done = json.loads(cli("features", "clear", "--json").out)
    assert done == {"removed": 1, "bytes": sizes[0], "used": 1}
    assert sorted(p.name for p in folder.iterdir()) == sorted(["mine", second.name])
    assert "1 in use by running trainings stay" in cli("features", "clear").out
    del hold
    assert "removed from runs/.features" in cli("features", "clear", "-o", "runs").out
    assert [p.name for p in folder.iterdir()] == ["mine"]
