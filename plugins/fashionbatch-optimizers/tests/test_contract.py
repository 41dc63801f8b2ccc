"""The contract that every optimizer is held to."""

from __future__ import annotations

import fashionbatch
import pytest
from fashionbatch.testing import check_optimizer

from fashionbatch_optimizers import plugin

#: at which 60 steps are enough
RATES = {
    "prodigy": 1.0, "schedule-free-sgd": 0.1, "schedule-free-adamw": 0.05, "lamb": 0.05,
    "adan": 0.05,
}  # fmt: skip


@pytest.mark.parametrize("spec", list(plugin.fashionbatch_optimizers()), ids=lambda s: s.name)
def test_optimizers(spec: fashionbatch.OptimizerSpec) -> None:
    # with its usual first estimate Prodigy's steps grow so fast that the small network goes dead
    options = {"d0": 0.1} if spec.name == "prodigy" else {}
    check_optimizer(spec, lr=RATES.get(spec.name, 0.02), **options)
