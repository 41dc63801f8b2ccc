"""The contract that every visualizer is held to."""

from __future__ import annotations

import fashionbatch
import pytest
from fashionbatch.testing import check_visualizer

from fashionbatch_cam import plugin


@pytest.mark.parametrize("spec", list(plugin.fashionbatch_visualizers()), ids=lambda s: s.name)
def test_visualizers(spec: fashionbatch.VisualizerSpec) -> None:
    if spec.name == "cam":
        pytest.skip("it takes a linear head, and the small model has hidden layers")
    check_visualizer(spec)
