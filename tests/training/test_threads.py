"""Small steps take one thread, whatever the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fashionbatch import api
from fashionbatch.models.threads import limited

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        ({"mode": "bottleneck"}, 1),
        ({"mode": "bottleneck", "head_hidden": "2000,2000", "batch_size": 8}, 2),
        ({"unfreeze": "blocks:1"}, 2),
    ],
)
def test_a_head_on_cached_features_takes_one_thread(
    tmp_path: Path, options: dict, threads: int
) -> None:
    """A head with more to compute, and whatever trains more than a head, takes what torch has."""
    seen = set()
    with limited(2):
        api.train(
            data=SAMPLE, backbone="small-resnet", weights="none", per_class=2, epochs=1,
            workers=0, device="cpu", output=tmp_path, name="run",
            tell=lambda event, values: event == "step" and seen.add(torch.get_num_threads()),
            **options,
        )  # fmt: skip
        assert torch.get_num_threads() == 2
    assert seen == {threads}
