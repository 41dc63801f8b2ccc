"""The contract that every backbone is held to."""

from __future__ import annotations

import fashionbatch
import pytest
from fashionbatch.testing import check_backbone

from fashionbatch_efficientnet_lite import plugin


@pytest.mark.parametrize("spec", list(plugin.fashionbatch_backbones()), ids=lambda s: s.name)
def test_backbones(spec: fashionbatch.BackboneSpec) -> None:
    check_backbone(spec, size=64)
